# SPDX-License-Identifier: BSD-3-Clause
"""Connections that run commands with a program, against stand-ins that note how they were called."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_support import Lab, differences

from fatline.ansible import transports

pytestmark = pytest.mark.timeout(600)

STAND_IN = Path(__file__).with_name("stand_in.py")

STANDING_IN = {
    "docker": ("community.docker.docker", {}),
    "podman": ("containers.podman.podman", {}),
    "buildah": ("containers.podman.buildah", {}),
    "kubectl": ("kubernetes.core.kubectl", {"ansible_kubectl_namespace": "space"}),
    "lxc": ("community.general.lxd", {}),
    "incus": ("community.general.incus", {}),
    "jexec": ("community.general.jail", {}),
}


@pytest.fixture
def lab(tmp_path: Path, collections: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """An empty inventory, and the programs' stand-ins at the front of PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*STANDING_IN, "jls", "oc"):
        shutil.copy(STAND_IN, programs / name)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "calls"))
    lab = Lab(tmp_path, {})
    lab.seconds = 300
    lab.settings["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
    return lab


def calls(lab: Lab) -> list[list[str]]:
    """Return how the stand-ins were called, and forget it."""
    log = lab.directory / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def until_command(call: list[str]) -> list[str]:
    """Return a call without the command that was to be run."""
    return call[: call.index("-c")] if "-c" in call else call


TASKS = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: first, ping: }
    - {name: again, ping: }
    - {name: command, command: sh -c 'pwd; id -u; cat', args: {stdin: "given"}}
    - {name: shell, shell: "echo out; echo err >&2; exit 3", ignore_errors: true}
    - {name: raw, raw: "echo raw; pwd"}
    - {name: bad argument, stat: {nothing: here}, ignore_errors: true}
    - {name: environment, shell: 'echo "$FOO"', environment: {FOO: "bar 'baz' $x"}}
    - {name: kind, debug: {msg: "{{ ansible_connection }}"}}
"""


@pytest.mark.parametrize("program", sorted(STANDING_IN))
def test_an_agent_is_started_as_the_plugin_starts_a_command(lab: Lab, program: str) -> None:
    """Ansible fact 21: the plugin makes the command line, and keeps its name."""
    name, variables = STANDING_IN[program]
    lab.hosts = {"one": {"ansible_connection": name, "ansible_host": "box", **variables}}
    lab.write()
    # Their own ways of copying files are not what is tested; podman's plugin has no other.
    stock = lab.playbook(TASKS, door="stock", ANSIBLE_PIPELINING="True")
    assert stock.rc == 0, stock.output
    stock_calls = [call for call in calls(lab) if "-c" in call]
    got = lab.playbook(TASKS)
    assert got.rc == 0, got.output
    agent_calls = [call for call in calls(lab) if "-c" in call]
    found = differences(stock, got)
    assert not found, f"stock and then Fatline: {found}"
    assert got.summary()[0] == 7, got.output
    (started,) = agent_calls
    prefixes = [[word for word in until_command(call) if word != "-i"] for call in (started, *stock_calls)]
    assert all(prefix == prefixes[0] for prefix in prefixes[1:])
    assert len(stock_calls) > 5


def test_what_is_not_pipelined_by_the_plugin_still_gets_its_input(lab: Lab) -> None:
    """podman's own method connects no input; a fall-back with a module on it must."""
    lab.hosts = {
        "one": {
            "ansible_connection": "containers.podman.podman",
            "ansible_host": "box",
        }
    }
    lab.write()
    # Its interpreter reads this at its start, so that no agent can run it, and none is there yet.
    task = "{name: first, ping: , environment: {LC_ALL: C}}"
    got = lab.playbook(f"- hosts: all\n  gather_facts: false\n  tasks: [{task}]\n")
    assert got.rc == 0, got.output
    assert got.of("first").result["ping"] == "pong"


def test_lxc_s_program_is_called_as_its_library_is() -> None:
    """The plugin attaches through bindings; the argument vector is Fatline's own here."""
    plugin = SimpleNamespace(get_option={"remote_addr": "box", "executable": "/bin/sh"}.get)
    line = transports._lxc(plugin, "a 'command'")
    assert line.argv == ["lxc-attach", "--clear-env", "-n", "box", "--", "/bin/sh", "-c", "a 'command'"]


def test_other_connections_are_left_alone(lab: Lab) -> None:
    """Whatever is not in the table keeps its class: winrm, network_cli, a user's plugin called docker."""
    plugins = lab.directory / "connection_plugins"
    plugins.mkdir()
    (plugins / "docker.py").write_text(OWN_PLUGIN)
    lab.hosts = {
        "own": {"ansible_connection": "docker"},
        "qubes": {"ansible_connection": "community.general.funcd"},
    }
    lab.write()
    got = lab.playbook("- hosts: own\n  gather_facts: false\n  tasks: [{name: raw, raw: anything}]\n")
    assert got.rc == 0, got.output
    assert got.of("raw").result["stdout"] == "the user's own"
    assert got.summary()[:2] == (0, 0)


OWN_PLUGIN = """
DOCUMENTATION = '''
name: docker
short_description: not the one of the collection
description: [a test]
author: a test
options: {}
'''
from ansible.plugins.connection import ConnectionBase

class Connection(ConnectionBase):
    transport = "docker"

    def _connect(self):
        self._connected = True

    def exec_command(self, cmd, in_data=None, sudoable=True):
        return 0, b"the user's own", b""

    def put_file(self, in_path, out_path):
        raise NotImplementedError

    fetch_file = put_file

    def close(self):
        pass
"""
