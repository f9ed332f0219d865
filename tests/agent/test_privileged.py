# SPDX-License-Identifier: BSD-3-Clause
"""An agent that a become plugin has started: what it looks at before a run, and what its children inherit."""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import harness
import payloads
import pytest
from harness import REFUSED, AgentProcess

STALE = 1

NAMES: dict[str, Any] = {"__name__": "agent_under_test"}
for name in ("agent.py", "privileged.py"):
    exec(compile((harness.ROOT / "bootstrap" / name).read_text(), name, "exec"), NAMES)

# Says whether other processes of the account may look into this one, and what its command is called.
PROBE = """#!/usr/bin/python
import ctypes, os
from ansible.module_utils.basic import AnsibleModule
AnsibleModule(argument_spec={}).exit_json(
    dumpable=ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), command=os.environ.get("SUDO_COMMAND"))
"""


@pytest.fixture
def privileged(interpreter: str, tmp_path: pathlib.Path) -> Iterator[AgentProcess]:
    """A privileged agent on each interpreter, in a home of its own."""
    with AgentProcess(interpreter, cwd=str(tmp_path), addition="privileged") as process:
        yield process


@pytest.fixture
def own_home(tmp_path: pathlib.Path) -> Iterator[AgentProcess]:
    """A privileged agent on the interpreter that runs the tests."""
    with AgentProcess(cwd=str(tmp_path), addition="privileged") as process:
        yield process


def probe(agent: AgentProcess, place: pathlib.Path) -> Any:
    """Return the payload of the probe."""
    path = place / "fl_probe.py"
    path.write_text(PROBE)
    parsed = payloads.parsed(str(path), {}, agent.interpreter)
    if parsed is None:
        pytest.skip("this ansible-core does not support the interpreter")
    return parsed


@pytest.mark.skipif(payloads.core_version() is None, reason="no ansible-core beside the tests")
def test_its_children_are_as_open_as_any_process(own_home: AgentProcess, tmp_path: pathlib.Path) -> None:
    """The agent itself is not: systems fact 2."""
    found = json.loads(own_home.module(probe(own_home, tmp_path), sudo_command=b"sh -c x").stdout)
    assert found["dumpable"] == 1
    assert found["command"] is None, "only an agent that sudo has started has one"


@pytest.mark.skipif(payloads.core_version() is None, reason="no ansible-core beside the tests")
def test_the_command_of_each_task_takes_the_place_of_the_first(tmp_path: pathlib.Path) -> None:
    with AgentProcess(cwd=str(tmp_path), addition="privileged", env={"SUDO_COMMAND": "first"}) as agent:
        found = json.loads(agent.module(probe(agent, tmp_path), sudo_command=b"this task").stdout)
    assert found["command"] == "this task"


@pytest.mark.skipif(payloads.core_version() is None, reason="no ansible-core beside the tests")
def test_a_change_that_only_the_plugin_s_command_would_see_is_refused(
    own_home: AgentProcess, tmp_path: pathlib.Path
) -> None:
    """Rule 10: the login user's start-up files, as one example of what sudo passes on."""
    parsed = probe(own_home, tmp_path)
    assert own_home.module(parsed).rc == 0
    (tmp_path / ".bashrc").write_text("export http_proxy=other\n")
    frame = own_home.receive(own_home.start_module(parsed))
    assert frame.kind == REFUSED
    assert struct.unpack(">H", frame.payload[1:3]) == (STALE,)


def test_it_boots_on_every_interpreter(privileged: AgentProcess) -> None:
    assert privileged.command(b"echo $0").rc == 0


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("passwd: files systemd", None),
        ("group: files [SUCCESS=merge] systemd  # ldap", None),
        ("hosts: files dns", None),
        ("passwd: files sss", "sss"),
        ("sudoers: ldap [NOTFOUND=return] files", "ldap"),
        ("initgroups: [ NOTFOUND=return ] winbind", "winbind"),
    ],
)
def test_accounts_that_are_not_in_files_are_noticed(
    line: str, source: str | None, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "nsswitch.conf"
    path.write_text(f"# a comment: ldap\n\n{line}\n")
    assert NAMES["foreign_source"](str(path)) == source


def test_a_machine_without_that_file_has_files_only(tmp_path: pathlib.Path) -> None:
    assert NAMES["foreign_source"](str(tmp_path / "none")) is None
