# SPDX-License-Identifier: BSD-3-Clause
"""How many round trips things take, counted by a relay that delays the link (see `fatline.cli.bench.relay`).

How it is counted: the ssh that carries the agent rides a master that has authenticated before, so everything
that crosses the relay from the mark on belongs to the exec. The count is the longest chain of segments in
which each may have been sent in answer to the one before; two such segments, one up and one down, are a round
trip. Every count is also held against the clock: where a round trip takes 250 ms, three of them take 750 ms
and not 1000.
"""

from __future__ import annotations

import platform
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_support import Lab
from e2e_support import DEADLINE, MakeRelay, wait_for

from fatline import boot, runs
from fatline.cli.bench.relay import Counts, Relay
from fatline.cli.sandbox import PrivateSshd
from fatline.client import Client

RTT = 0.25

# What the two ends may spend besides waiting: starting ssh and Python, compiling the agent. Less than a round
# trip, or one too many would go unseen.
COMPUTE_SECONDS = 0.9 * RTT

# The machine may be busy with other things; the quickest of these counts. Each is counted by the relay.
ATTEMPTS = 3

WARM_BYTES_UP = 2048


class Link:
    """A slow link to one host, with a master connection up."""

    def __init__(self, sshd: PrivateSshd, relay: Relay, control_path: Path) -> None:
        self.relay = relay
        self.sshd = sshd
        self.common_arguments = f"-F {sshd.ssh_config} -o ControlPath={control_path} -o ControlMaster=no"
        self._ssh = ["ssh", "-F", str(sshd.ssh_config), "-p", str(relay.port), "-l", sshd.user]
        self._control = ["-o", f"ControlPath={control_path}"]
        self._host = sshd.host

    def riding(self, command: str) -> list[str]:
        """An ssh that rides the master."""
        return [
            *self._ssh,
            *self._control,
            "-o",
            "ControlMaster=no",
            *boot.wire_options(),
            self._host,
            command,
        ]

    def connect(self) -> subprocess.Popen[bytes]:
        """Start the master and wait until it has authenticated and the link is quiet."""
        argv = [*self._ssh, *self._control, "-o", "ControlMaster=yes", "-N", self._host]
        master = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        wait_for("the master", lambda: self._control_command("check") == 0)
        self.settle()
        return master

    def settle(self) -> None:
        """Wait until nothing is on its way."""
        last = None
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 1.2 * RTT:
            counts = self.relay.counts()
            if counts != last:
                last, quiet_since = counts, time.monotonic()
            time.sleep(0.01)

    def _control_command(self, word: str) -> int:
        argv = [*self._ssh, *self._control, "-O", word, self._host]
        return subprocess.run(argv, capture_output=True, check=False).returncode


@pytest.fixture
def link(sshd: PrivateSshd, make_relay: MakeRelay, runtime_dir: Path) -> Iterator[Link]:
    boot.wire_options()  # asks ssh what it knows, once a process; not part of a boot's time
    made = Link(sshd, make_relay(sshd, rtt=RTT), runtime_dir / "cp")
    master = made.connect()
    yield made
    master.terminate()
    master.wait()


def boot_over(link: Link, client: Client) -> int:
    key = secrets.token_bytes(32)
    client.attach(key)
    launched = boot.launcher(["python3"])
    return boot.start_agent(
        client,
        key,
        link.riding(launched.command),
        launched,
        label="slow",
        deadline=time.monotonic() + DEADLINE,
        bound=True,
    ).context_id


def hostname(client: Client, target: int) -> None:
    result = runs.run(client, target, {"mode": "command", "argv": [b"hostname"]}, timeout=DEADLINE)
    assert result.stdout.decode().strip() == platform.node()


def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def test_exec_to_first_result_takes_three_round_trips(link: Link, client: Client) -> None:
    """Exec to first result 2-3 round trips cold (systems fact 10): channel, READY, result."""
    seconds = []
    for _ in range(ATTEMPTS):
        link.settle()
        link.relay.mark()
        seconds.append(timed(lambda: hostname(client, boot_over(link, client))))
        assert link.relay.counts().round_trips <= 3
    assert min(seconds) < 3 * RTT + COMPUTE_SECONDS


def test_the_relay_sees_that_plain_ssh_takes_two(link: Link) -> None:
    """The measure itself: a session of ssh is one round trip for the channel and one for the command."""
    link.relay.mark()
    seconds = timed(lambda: subprocess.run(link.riding("echo"), check=True, capture_output=True))
    assert link.relay.counts().round_trips >= 2
    assert seconds >= 2 * RTT


def test_a_warm_task_takes_one_round_trip(link: Link, client: Client) -> None:
    """1 a warm task (systems fact 10), and little more on the wire than its own parameters."""
    target = boot_over(link, client)
    hostname(client, target)
    seconds = []
    for _ in range(ATTEMPTS):
        link.settle()
        link.relay.mark()
        seconds.append(timed(lambda: hostname(client, target)))
        counts = link.relay.counts()
        assert counts.round_trips == 1
        assert counts.bytes_up <= WARM_BYTES_UP
    assert RTT <= min(seconds) < RTT + COMPUTE_SECONDS


def test_output_within_the_window_takes_no_further_round_trip(link: Link, client: Client) -> None:
    """256 KiB may run ahead of what the caller has consumed."""
    target = boot_over(link, client)
    hostname(client, target)
    body = {"mode": "command", "argv": [b"head", b"-c", b"200000", b"/dev/zero"]}
    seconds = [timed(lambda: runs.run(client, target, body, timeout=DEADLINE)) for _ in range(ATTEMPTS)]
    assert min(seconds) < RTT + COMPUTE_SECONDS


def test_stdin_within_the_window_travels_with_its_run(link: Link, client: Client) -> None:
    target = boot_over(link, client)
    hostname(client, target)
    body = {"mode": "command", "argv": [b"wc", b"-c"]}
    seconds = [
        timed(lambda: runs.run(client, target, body, stdin=bytes(200_000), timeout=DEADLINE))
        for _ in range(ATTEMPTS)
    ]
    assert min(seconds) < RTT + COMPUTE_SECONDS


LOOP = """\
- hosts: all
  gather_facts: false
  tasks:
    - stat:
        path: "/{{ item }}"
        get_checksum: false
      loop: "{{ range(count | int) | list }}"
"""


def test_the_first_task_of_ansible_takes_three_round_trips(link: Link, tmp_path: Path) -> None:
    """Exec to first result 2-3 round trips cold (systems fact 10), with every blob the module is made of."""
    lab = Lab(tmp_path, {"slow": link.sshd})
    lab.hosts["slow"] |= {"ansible_port": link.relay.port, "ansible_ssh_common_args": link.common_arguments}
    lab.write()
    link.relay.mark()
    outcome = lab.playbook(LOOP, "-e", "count=1")
    assert outcome.rc == 0, outcome.output
    assert outcome.summary()[:2] == (1, 1)
    counts = link.relay.counts()
    assert counts.connections == 1, "the task rode the master"
    assert counts.bytes_up > 50_000, "the module went over the link"
    assert counts.round_trips <= 3


def test_a_warm_task_of_ansible_takes_one_round_trip(
    sshd: PrivateSshd, make_relay: MakeRelay, tmp_path: Path
) -> None:
    """A warm task sends at most 2 KiB up beyond its own parameters; here even with them."""
    relay = make_relay(sshd, rtt=0.02)
    lab = Lab(tmp_path, {"slow": sshd})
    lab.hosts["slow"]["ansible_port"] = relay.port
    lab.write()

    def cost(count: int) -> Counts:
        outcome = lab.playbook(LOOP, "-e", f"count={count}")
        assert outcome.rc == 0, outcome.output
        accelerated, commands, _reasons = outcome.summary()
        assert accelerated == commands == count
        return relay.mark()

    cost(1)
    few, many = cost(2), cost(12)
    assert many.connections == 1, "the agent of the first run is still used"
    assert (many.turns - few.turns) / 10 == 2
    assert (many.bytes_up - few.bytes_up) / 10 <= WARM_BYTES_UP
