# SPDX-License-Identifier: BSD-3-Clause
"""Runs under ansible-runner, as an execution environment has them: nothing of Fatline outlives them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_support import DOORS, PYTHON
from e2e_support import command_line, is_alive

from fatline.cli.sandbox import Keys, PrivateSshd

pytest.importorskip("ansible_runner")

pytestmark = pytest.mark.timeout(300)

RUN = Path(__file__).with_name("runner_run.py")

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: warm, ping: , loop: [1, 2]}
    - {name: here, command: "{{ ansible_playbook_python }} -c 'print(1)'", delegate_to: localhost}
    - {name: uid, command: id -u}
    - {name: agent, command: ssh-add -l, delegate_to: localhost, when: inventory_hostname == 'there'}
"""


def run(data: Path, *prefix: str, door: str = "callback", **settings: object) -> dict[str, object]:
    """Run the playbook in a process of its own, as another user if `prefix` makes it so."""
    project = data / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "site.yml").write_text(PLAYBOOK)
    envvars = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **DOORS[door],
        "ANSIBLE_LOCAL_TEMP": str(data / "t"),
        "FATLINE_SUMMARY": "1",
    }
    request = {"private_data_dir": str(data), "playbook": "site.yml", "envvars": envvars, **settings}
    environment = {
        name: value for name, value in os.environ.items() if name not in ("FATLINE_RUNTIME_DIR", "HOME")
    }
    environment["HOME"] = "/nonexistent" if prefix else os.environ.get("HOME", "/")
    ended = subprocess.run(
        [*prefix, sys.executable, str(RUN)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
        cwd=data,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return result


def left_behind(data: Path) -> list[int]:
    """Return the processes that know of the run's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(data) in told and int(process.name) != os.getpid() and is_alive(int(process.name)):
            found.append(int(process.name))
    return found


def gone(data: Path) -> None:
    """Check that the run's processes have ended, apart from ansible-runner's own ssh agent.

    That one looks now and then whether what it was started for is still there.
    """
    assert not [line for pid in left_behind(data) if "ssh-agent sh -c" not in (line := command_line(pid))]


def listing() -> set[str]:
    """Return what is in the places where a program might leave something."""
    places = ("/tmp", os.environ.get("HOME", "/"), os.environ.get("XDG_RUNTIME_DIR", "/run"), "/dev/shm")
    return {f"{place}/{name}" for place in places if os.path.isdir(place) for name in os.listdir(place)}


@pytest.fixture
def data() -> Iterator[Path]:
    """A private data directory with a short name, as in an execution environment."""
    directory = Path(f"/tmp/run-{os.getpid()}")
    directory.mkdir(mode=0o700)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("door", ["callback", "strategy"])
def test_nothing_is_left_of_a_run(data: Path, sshd: PrivateSshd, ssh_keys: Keys, door: str) -> None:
    """The ssh agent is this run's; mux, masters and agents end with it, and no file is left elsewhere."""
    # The server's own ssh_config would name the key: it is to come from the run's ssh agent.
    arguments = "-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    variables = {**sshd.inventory_variables(), "ansible_ssh_common_args": arguments}
    key = ssh_keys.identity.read_text()
    hosts = {
        "there": {"ansible_python_interpreter": PYTHON, **variables},
        "here": {"ansible_connection": "local", "ansible_python_interpreter": PYTHON},
    }
    before = listing()
    result = run(data, door=door, inventory={"all": {"hosts": hosts}}, ssh_key=key)
    assert result["status"] == "successful", result
    assert "accelerated" in str(result["stdout"])
    assert "accelerated 0 of" not in str(result["stdout"])
    gone(data)
    new = {name for name in listing() - before if "fatline" in name or "ansible" in name}
    assert not new
    kept = [path for path in data.rglob("*") if path.is_socket() or "fatline" in path.name]
    assert not kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody in particular")
def test_a_user_without_an_account(data: Path) -> None:
    """An execution environment runs under any uid: without a passwd entry, without a home to write to."""
    prefix = ("setpriv", "--reuid", "12345", "--regid", "0", "--clear-groups")
    may_run = subprocess.run([*prefix, "test", "-x", os.path.realpath(sys.executable)], check=False)
    if may_run.returncode:
        pytest.skip(f"other users cannot run {os.path.realpath(sys.executable)}")
    os.chown(data, 12345, 0)
    hosts = {"here": {"ansible_connection": "local", "ansible_python_interpreter": PYTHON}}
    result = run(data, *prefix, inventory={"all": {"hosts": hosts}})
    assert result["status"] == "successful", result
    assert "accelerated 0 of" not in str(result["stdout"])
    gone(data)
