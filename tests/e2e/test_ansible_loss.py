# SPDX-License-Identifier: BSD-3-Clause
"""What a run does when a connection, an agent or the mux goes, and what is left after it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_support import Lab
from e2e_support import LOSS_SECONDS, is_alive, mux_pid, wait_for, wait_gone

from fatline.cli.sandbox import PrivateSshd
from fatline.client import Client

pytestmark = pytest.mark.timeout(300)

LONG_TASK = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: warm, ping: }
    - name: long
      shell: "{{ 'echo $PPID >> ' ~ marker ~ '; exec sleep 60' if inventory_hostname == 'one' else 'true' }}"
    - {name: after, ping: }
"""

SHORT = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: ping, ping: }
"""


@pytest.fixture
def lab(tmp_path: Path, sshd: PrivateSshd, make_sshd: Any, runtime_dir: Path) -> Iterator[Lab]:
    """Two private servers."""
    lab = Lab(tmp_path, {"one": sshd, "two": make_sshd()}, marker=tmp_path / "marker")
    yield lab
    lab.close_masters(runtime_dir)


def agents(client: Client) -> dict[str, int]:
    """Return host label and ssh's pid of every agent that the mux holds."""
    found = re.findall(r"^agent \d+ (\S+) pid (\d+)", client.status(), re.MULTILINE)
    return {f"{label}/{pid}": int(pid) for label, pid in found}


def kill_during_long_task(lab: Lab, client: Client, victim: str, **environment: str) -> tuple[Any, float]:
    """Kill -9 one process while the long task runs; return the outcome and how long the news took."""
    marker = lab.directory / "marker"
    process, record = lab.start_playbook(LONG_TASK, **environment)
    try:
        wait_for("the long task to run", marker.exists, 60)
        wait_for(
            "the other host to be done", lambda: '"host": "two", "task": "long"' in record.read_text(), 30
        )
        target = mux_pid(client) if victim == "mux" else ssh_of(lab, "one", client)
        began = time.monotonic()
        os.kill(target, signal.SIGKILL)
        wait_for("the loss to be told", lambda: '"host": "one", "task": "long"' in record.read_text(), 30)
        seconds = time.monotonic() - began
        outcome = lab.finish(process, record)
    finally:
        process.kill()
    end_sleepers(marker)
    return outcome, seconds


def ssh_of(lab: Lab, host: str, client: Client) -> int:
    """Return the ssh process of a host's agent."""
    port = f"Port={lab.hosts[host]['ansible_port']}".encode()
    found = [pid for pid in agents(client).values() if port in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1
    return found[0]


def end_sleepers(marker: Path) -> None:
    """End the tasks that went on at the target, as they do in stock (systems fact 17)."""
    for line in marker.read_text().split():
        for task in Path(f"/proc/{line}/task").glob("*/children"):
            for child in task.read_text().split():
                os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("victim", ["ssh", "mux"])
def test_a_loss_in_the_middle_of_a_task_is_unreachable_within_two_seconds(
    lab: Lab, client: Client, victim: str
) -> None:
    """Rule 2; systems fact 35: UNREACHABLE with words, where stock 2.14 says FAILED with rc -9."""
    outcome, seconds = kill_during_long_task(lab, client, victim)
    assert outcome.of("long", "one").status == "unreachable", outcome.output
    assert seconds < LOSS_SECONDS
    assert outcome.of("long", "one").result["msg"]
    assert outcome.of("after", "two").status == "ok", "the other hosts go on"


@pytest.mark.parametrize("victim", ["ssh", "mux"])
def test_a_lost_task_is_never_run_again(lab: Lab, client: Client, victim: str) -> None:
    """Rule 13: core's own retries would run it once more."""
    outcome, _ = kill_during_long_task(lab, client, victim, ANSIBLE_SSH_RETRIES="3")
    assert outcome.of("long", "one").status == "unreachable", outcome.output
    assert len((lab.directory / "marker").read_text().split()) == 1


def test_a_killed_worker_ends_the_run_as_in_stock(lab: Lab) -> None:
    """Ansible fact 32: "other hosts go on" holds for ssh, agent and mux, not for core's own forks."""
    marker = lab.directory / "marker"
    outcomes = []
    for door in ("stock", "callback"):
        process, record = lab.start_playbook(LONG_TASK, "--limit", "one", door=door)
        wait_for("the long task to run", lambda: marker.exists() and marker.read_text().strip(), 60)
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        outcomes.append(lab.finish(process, record))
        end_sleepers(marker)
        marker.unlink()
    stock, got = outcomes
    assert got.rc == stock.rc != 0
    assert "A worker was found in a dead state" in stock.output
    assert "A worker was found in a dead state" in got.output


def test_core_s_retries_still_work_for_a_connection_that_fails(lab: Lab) -> None:
    """Below core's retry loop: nothing was sent, so it may try again as it always did."""
    lab.hosts["one"]["ansible_port"] = 1
    lab.write()
    outcome = lab.playbook(SHORT, "-vv", ANSIBLE_SSH_RETRIES="1")
    assert len(re.findall(r"ssh_retry: attempt: 1", outcome.output)) == 1
    assert outcome.of("ping", "one").status == "unreachable"


def test_a_warm_connection_outlives_the_run(lab: Lab, client: Client) -> None:
    """As ssh's own does with ControlPersist: the next run finds it."""
    assert "2 agents booted" in lab.playbook(SHORT).summary()[2]
    assert "booted" not in lab.playbook(SHORT).summary()[2]
    assert len(agents(client)) == 2


def test_a_connection_that_persists_fifteen_seconds_outlives_the_run(lab: Lab) -> None:
    """Fifteen seconds is what an agent gets where the user wants none, and that one ends with the run."""
    arguments = "-o ControlMaster=auto -o ControlPersist=15s"
    assert "2 agents booted" in lab.playbook(SHORT, ANSIBLE_SSH_ARGS=arguments).summary()[2]
    assert "booted" not in lab.playbook(SHORT, ANSIBLE_SSH_ARGS=arguments).summary()[2]


@pytest.mark.parametrize("door", ["callback", "strategy"])
def test_without_control_persist_agents_end_with_the_run(lab: Lab, client: Client, door: str) -> None:
    """The user wants no persistent connections."""
    text = SHORT + "    - {name: again, ping: }\n"
    outcome = lab.playbook(text, door=door, ANSIBLE_SSH_ARGS="-C")
    assert outcome.rc == 0, outcome.output
    assert "2 agents booted" in outcome.summary()[2]
    wait_for("the agents to be closed", lambda: not agents(client))


def test_a_reset_makes_the_next_task_log_in_anew(lab: Lab, client: Client) -> None:
    """Ansible fact 19: meta: reset_connection, built by core in the main process."""
    text = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: before, command: "printf %s \\"$SSH_CONNECTION\\""}
    - {meta: reset_connection}
    - {name: after, command: "printf %s \\"$SSH_CONNECTION\\""}
"""
    text = text.replace("command:", "shell:")
    outcome = lab.playbook(text)
    assert outcome.rc == 0, outcome.output
    for host in ("one", "two"):
        before, after = (outcome.of(name, host).result["stdout"] for name in ("before", "after"))
        assert before and after and before != after


def test_an_idle_wire_is_probed_before_it_is_used(lab: Lab, client: Client) -> None:
    """Systems fact 31: ssh stopped dead, as with a target without power; nobody sees its wire end."""
    assert lab.adhoc("one", "-m", "ping").rc == 0
    (pid,) = agents(client).values()
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("the wire to be idle", lambda: idle_milliseconds(client) > 5000, 20)
        outcome = lab.adhoc("one", "-m", "ping")
        assert outcome.rc == 0, outcome.output
        assert "1 agent booted" in outcome.summary()[2]
    finally:
        os.kill(pid, signal.SIGCONT)


def idle_milliseconds(client: Client) -> int:
    match = re.search(r"^agent .* idle_ms (\d+)", client.status(), re.MULTILINE)
    return int(match[1]) if match else 0


def test_the_user_s_own_control_path_is_used(lab: Lab) -> None:
    """Ansible fact 17: a master that was opened by hand, with a second factor, must still be used."""
    path = lab.directory / "mine"
    arguments = f"-o ControlMaster=auto -o ControlPersist=30s -o ControlPath={path}"
    outcome = lab.adhoc("one", "-m", "ping", ANSIBLE_SSH_ARGS=arguments)
    assert outcome.rc == 0, outcome.output
    assert outcome.summary()[0] == 1
    assert path.is_socket()
    close = ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", "unused"]
    subprocess.run(close, capture_output=True, check=False, timeout=10)


def test_fall_backs_ride_the_agent_s_connection(lab: Lab, sshd: PrivateSshd) -> None:
    """Systems fact 3: one login for the host, whatever runs as a session of its own."""
    logins = sshd.log.read_text().count("Accepted publickey")
    text = """
- hosts: one
  gather_facts: false
  tasks:
    - {name: warm, ping: }
    - {name: stock, raw: id -u, become: true, become_user: nobody}
    - {name: file, copy: {content: x, dest: "{{ marker }}"}, become: true}
"""
    outcome = lab.playbook(text)
    assert outcome.of("warm").status == "ok", outcome.output
    assert "become: a command without input x 1" in outcome.summary()[2]
    assert sshd.log.read_text().count("Accepted publickey") == logins + 1


@pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo")
def test_a_long_stock_command_keeps_the_connection_it_rides(lab: Lab) -> None:
    """It has no call at the agent, and the mux ends what nobody uses after a second and its own ten."""
    text = """
- hosts: one
  gather_facts: false
  tasks:
    - {name: warm, ping: }
    - {name: long, raw: sleep 16, become: true, become_user: nobody}
    - {name: after, ping: }
"""
    arguments = "-o ControlMaster=auto -o ControlPersist=1s"
    outcome = lab.playbook(text, ANSIBLE_SSH_ARGS=arguments)
    assert outcome.rc == 0, outcome.output
    assert outcome.of("long").status == "ok"


def test_hosts_beyond_the_forks_are_connected_ahead(lab: Lab, client: Client) -> None:
    """Ansible fact 33: the second host waits for a fork, but not for its login."""
    marker = lab.directory / "marker"
    text = """
- hosts: all
  gather_facts: false
  tasks:
    - name: wait
      shell: "echo $PPID >> '{{ marker }}'; exec sleep 20"
"""
    process, record = lab.start_playbook(text, "--forks", "1")
    try:
        wait_for("the first host's task", marker.exists, 60)
        wait_for("the second host's agent", lambda: len(agents(client)) == 2, 15)
        assert len(marker.read_text().split()) == 1, "the second host's task has not begun"
    finally:
        process.kill()
        lab.finish(process, record)
        end_sleepers(marker)


@pytest.mark.parametrize(("items", "count"), [("[hello]", 2), ("[]", 0), ("'{{ greetings }}'", 2)])
def test_hosts_of_a_loop_are_connected_ahead_if_it_has_items(
    lab: Lab, client: Client, items: str, count: int
) -> None:
    """Ansible fact 33: a host whose loop turns out to be empty is never touched by stock."""
    text = f"""
- hosts: all
  gather_facts: false
  vars: {{greetings: [hello]}}
  tasks:
    - command: echo {{{{ item }}}}
      loop: {items}
"""
    outcome = lab.playbook(text)
    assert outcome.rc == 0, outcome.output
    assert len(agents(client)) == count


def test_hosts_that_a_condition_skips_are_not_connected_ahead(lab: Lab, client: Client) -> None:
    """Ansible fact 33: connecting ahead must not touch hosts that stock would not."""
    text = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: only one, ping: , when: inventory_hostname == 'one'}
"""
    outcome = lab.playbook(text, "--forks", "1")
    assert outcome.rc == 0, outcome.output
    assert len(agents(client)) == 1


def test_a_killed_run_leaves_no_ssh_and_no_agent(lab: Lab, client: Client) -> None:
    """Rule 2: kill -9 of ansible-playbook itself; ControlPersist decides how long connections stay."""
    arguments = "-o ControlMaster=auto -o ControlPersist=1s"
    process, record = lab.start_playbook(LONG_TASK, ANSIBLE_SSH_ARGS=arguments)
    marker = lab.directory / "marker"
    wait_for("the long task to run", marker.exists, 60)
    pids = list(agents(client).values())
    assert pids and all(is_alive(pid) for pid in pids)
    workers = children(process.pid)
    process.kill()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    lab.finish(process, record)
    wait_gone(pids, 30)
    end_sleepers(marker)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in file.read_text().split()]
    return found
