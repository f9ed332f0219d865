# SPDX-License-Identifier: BSD-3-Clause
"""Rule 2: kill -9 of ssh, agent or mux in the middle of anything.

It is told within two seconds, the other hosts go on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_support import DEADLINE, LOSS_SECONDS, agent_pid, is_alive, mux_pid, shell, wait_for, wait_gone

from fatline import boot, files, runs
from fatline.cli.sandbox import PrivateSshd
from fatline.client import Client, get_client
from fatline.context import Context
from fatline.errors import BootError, Dead, FatlineError, MuxError
from fatline.protocol import AttachState, Death
from fatline.router import Router

Kill = Callable[[], None]


class Host:
    """One host with its ssh and its agent, whose pids the test may kill."""

    def __init__(self, router: Router, sshd: PrivateSshd) -> None:
        self.context: Context = router.ssh(
            sshd.host, sshd.user, sshd.port, ssh_args=["-F", str(sshd.ssh_config)]
        )
        self.id = self.context.context_id
        self.ssh_pid = self.context._pid
        self.agent_pid = agent_pid(get_client(), self.id)

    @property
    def pids(self) -> list[int]:
        return [self.ssh_pid, self.agent_pid]


class Caller(threading.Thread):
    """Something under way in a thread; tells how it ended and when."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: object = None
        self.error: BaseException | None = None
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error
        self.ended = time.monotonic()

    def loss(self, killed: float) -> BaseException:
        """The error that the call ended with, soon after the kill."""
        self.join(DEADLINE)
        assert not self.is_alive(), "the caller was left waiting"
        assert self.ended - killed < LOSS_SECONDS
        assert self.error is not None, f"no error but {self.result!r}"
        return self.error


def kill(pid: int) -> float:
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


class Marked:
    """A command that is known to run, and that ends when the test says so."""

    def __init__(self, directory: Path) -> None:
        self.begun = directory / f"begun-{secrets.token_hex(4)}"
        self.go = directory / f"go-{secrets.token_hex(4)}"
        self.done = directory / f"done-{secrets.token_hex(4)}"
        self.script = (
            f"touch {self.begun}; until [ -e {self.go} ]; do sleep 0.02; done; touch {self.done}; echo done"
        )

    def start(self, client: Client, target: int) -> Caller:
        body = {"mode": "command", "argv": [b"/bin/sh", b"-c", self.script.encode()]}
        caller = Caller(lambda: runs.run(client, target, body, timeout=DEADLINE))
        wait_for("the command to start", self.begun.exists)
        return caller

    def finish(self) -> None:
        self.go.touch()


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[Callable[[], Marked]]:
    made: list[Marked] = []

    def make() -> Marked:
        made.append(Marked(tmp_path))
        return made[-1]

    yield make
    for command in made:
        command.finish()
    for command in made:
        if command.begun.exists():
            wait_for("a marked command to end", command.done.exists)


@pytest.fixture
def hosts(router: Router, sshd: PrivateSshd) -> tuple[Host, Host]:
    return Host(router, sshd), Host(router, sshd)


@pytest.mark.parametrize("victim", ["ssh_pid", "agent_pid"])
def test_a_kill_in_the_middle_of_a_run(
    client: Client, hosts: tuple[Host, Host], marked: Callable[[], Marked], victim: str
) -> None:
    struck, spared = hosts
    lost, kept = marked(), marked()
    losing, keeping = lost.start(client, struck.id), kept.start(client, spared.id)
    error = losing.loss(kill(getattr(struck, victim)))
    assert isinstance(error, Dead)
    # Rule 13: it had started, so it must never be sent again.
    assert (error.code, error.not_sent) == (Death.LOST, False)
    assert error.reason
    kept.finish()
    keeping.join(DEADLINE)
    assert isinstance(keeping.result, runs.RunResult)
    assert keeping.result.stdout == b"done\n"
    wait_gone(struck.pids)
    assert shell(client, spared.id, "echo on") == b"on\n"


def test_a_running_command_finishes_as_it_would_in_stock(
    client: Client, hosts: tuple[Host, Host], marked: Callable[[], Marked]
) -> None:
    """A network blip must not kill dpkg half-way (systems fact 17)."""
    struck, _ = hosts
    command = marked()
    caller = command.start(client, struck.id)
    caller.loss(kill(struck.ssh_pid))
    wait_gone(struck.pids)
    assert not command.done.exists()
    command.finish()
    wait_for("the command to finish by itself", command.done.exists)


def test_a_kill_of_the_mux_in_the_middle_of_a_run(
    client: Client, hosts: tuple[Host, Host], marked: Callable[[], Marked]
) -> None:
    pid = mux_pid(client)
    callers = [marked().start(client, host.id) for host in hosts]
    killed = kill(pid)
    assert all(isinstance(caller.loss(killed), MuxError) for caller in callers)
    wait_gone([pid, *hosts[0].pids, *hosts[1].pids])


def test_a_run_that_no_mux_took_was_not_sent(client: Client, hosts: tuple[Host, Host]) -> None:
    """Rule 13: the caller may send it another way, because no byte of it left."""
    pid = mux_pid(client)
    kill(pid)
    wait_gone([pid])
    with pytest.raises(Dead) as caught:
        shell(client, hosts[0].id, "echo")
    assert caught.value.not_sent


def test_the_next_client_gets_a_new_mux(client: Client) -> None:
    pid = mux_pid(client)
    kill(pid)
    with pytest.raises(MuxError):
        client.status()
    fresh = get_client()
    assert fresh is not client
    assert mux_pid(fresh) != pid
    with Router() as router:
        assert shell(fresh, router.local().context_id, "echo new") == b"new\n"


@pytest.mark.parametrize("victim", ["ssh_pid", "agent_pid", "mux"])
@pytest.mark.parametrize("direction", ["put", "fetch"])
def test_a_kill_in_the_middle_of_a_transfer(
    client: Client, hosts: tuple[Host, Host], tmp_path: Path, victim: str, direction: str
) -> None:
    struck, spared = hosts
    source, sink = tmp_path / "source", tmp_path / "sink"
    with source.open("wb") as file:
        file.truncate(64 * 1024**3)
    if direction == "put":
        caller = Caller(lambda: files.put_file(client, struck.id, source, os.fsencode(sink)))
    else:
        caller = Caller(lambda: files.fetch_file(client, struck.id, os.fsencode(source), sink))
    wait_for("the transfer to be under way", lambda: sink.exists() and sink.stat().st_size > 1024**2)
    error = caller.loss(kill(mux_pid(client) if victim == "mux" else getattr(struck, victim)))
    assert isinstance(error, MuxError if victim == "mux" else Dead)
    wait_gone(struck.pids)
    if victim != "mux":
        assert shell(client, spared.id, "echo on") == b"on\n"


@pytest.mark.parametrize("victim", ["ssh_pid", "agent_pid", "mux"])
def test_a_kill_in_the_middle_of_a_call(client: Client, hosts: tuple[Host, Host], victim: str) -> None:
    struck, spared = hosts
    caller = Caller(lambda: struck.context.call(time.sleep, 4))
    wait_for("the call to start", lambda: children(struck.agent_pid))
    (function_host,) = children(struck.agent_pid)
    error = caller.loss(kill(mux_pid(client) if victim == "mux" else getattr(struck, victim)))
    assert isinstance(error, MuxError if victim == "mux" else Dead)
    wait_gone(struck.pids)
    # What runs finishes, as a module does; then nobody is left to give it another call.
    wait_gone([function_host])
    if victim != "mux":
        assert spared.context.call(os.getpid, timeout=DEADLINE)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_kill_of_ssh_while_it_boots(client: Client) -> None:
    key = secrets.token_bytes(32)
    client.attach(key)
    launched = boot.launcher([sys.executable])
    wire = boot.spawn(["sleep", "60"])
    caller = Caller(lambda: boot.handshake(wire, launched, time.monotonic() + DEADLINE))
    error = caller.loss(kill(wire.pid))
    assert isinstance(error, BootError)
    assert error.rc == -signal.SIGKILL
    client.abandon(key)
    assert client.attach(key, timeout=DEADLINE).state == AttachState.LEASE


def test_a_kill_of_the_mux_while_ssh_boots(client: Client) -> None:
    """The boot's own ssh must not outlive a mux that cannot take it."""
    key = secrets.token_bytes(32)
    client.attach(key)
    kill(mux_pid(client))
    launched = boot.launcher([sys.executable])
    before = set(boot._children)
    with pytest.raises(FatlineError):
        boot.start_agent(
            client,
            key,
            ["/bin/sh", "-c", launched.command],
            launched,
            label="local",
            deadline=time.monotonic() + DEADLINE,
        )
    wait_gone(set(boot._children) - before)


def test_a_death_is_seen_although_another_process_keeps_the_wire_open(client: Client) -> None:
    """EOF alone does not tell that ssh died: a ProxyCommand can keep the socket open (systems fact 32)."""
    key = secrets.token_bytes(32)
    client.attach(key)
    launched = boot.launcher([sys.executable])
    marker = str(300 + secrets.randbelow(10**9) / 10**9)
    booted = boot.start_agent(
        client,
        key,
        ["/bin/sh", "-c", f"sleep {marker} & {launched.command}"],
        launched,
        label="local",
        deadline=time.monotonic() + DEADLINE,
        bound=True,
    )
    (keeper,) = pids_of(marker)
    try:
        body = {"mode": "command", "argv": [b"sleep", b"60"]}
        caller = Caller(lambda: runs.run(client, booted.context_id, body))
        wait_for("the run to start", lambda: len(children(booted.pid)) == 2)
        (sleeper,) = set(children(booted.pid)) - {keeper}
        error = caller.loss(kill(booted.pid))
        assert isinstance(error, Dead)
        kill(sleeper)
    finally:
        kill(keeper)


def pids_of(word: str) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-f", "--", f"^sleep {word}$"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def test_a_kill_of_the_agent_is_seen_while_a_child_runs(
    client: Client, hosts: tuple[Host, Host], marked: Callable[[], Marked]
) -> None:
    """A kill -9 of the agent is not seen while a child holds a session descriptor (systems fact 18)."""
    struck, _ = hosts
    command = marked()
    caller = command.start(client, struck.id)
    assert isinstance(caller.loss(kill(struck.agent_pid)), Dead)
    wait_gone([struck.ssh_pid])
    assert not command.done.exists()


def test_a_killed_client_takes_its_own_run_along_and_nothing_else(
    client: Client, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    _, spared = hosts
    script = tmp_path / "victim.py"
    script.write_text(
        "import fatline\nfrom fatline import runs\nfrom fatline.client import get_client\n"
        "context = fatline.Router().local()\n"
        "script = b'while echo; do sleep 0.02; done'\n"
        "body = {'mode': 'command', 'argv': [b'/bin/sh', b'-c', script]}\n"
        "print(context._pid, flush=True)\n"
        "runs.run(get_client(), context.context_id, body)\n"
    )
    victim = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    agent = int(victim.stdout.readline())
    wait_for("its run to start", lambda: children(agent))
    (run,) = children(agent)
    victim.kill()
    victim.communicate()
    wait_gone([agent, run])
    assert shell(client, spared.id, "echo on") == b"on\n"


def test_a_dead_host_is_told_at_once_to_the_next_call(client: Client, hosts: tuple[Host, Host]) -> None:
    struck, spared = hosts
    kill(struck.agent_pid)
    wait_gone(struck.pids)
    begun = time.monotonic()
    with pytest.raises(Dead) as caught:
        shell(client, struck.id, "echo")
    assert time.monotonic() - begun < LOSS_SECONDS
    # Rule 13: nothing left the mux, so the caller may send it another way.
    assert caught.value.not_sent or caught.value.code == Death.REJECTED
    assert shell(client, spared.id, "echo on") == b"on\n"


def test_stopping_the_mux_in_order_leaves_nothing(client: Client, hosts: tuple[Host, Host]) -> None:
    pid = mux_pid(client)
    client.stop()
    wait_gone([pid, *hosts[0].pids, *hosts[1].pids])
    with contextlib.suppress(FatlineError):
        assert mux_pid(get_client()) != pid
    assert not any(is_alive(child) for child in boot._children)
