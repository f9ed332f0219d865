# SPDX-License-Identifier: BSD-3-Clause
"""A warm run sees what stock would: the parent starts anew, or refuses, when things changed on disk."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import harness
import msgpack
import payloads
import pytest
from harness import HELLO, PING, PONG, REFUSED, AgentProcess

STALE = 1

pytestmark = pytest.mark.skipif(payloads.core_version() is None, reason="no ansible-core beside the tests")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An environment whose site-packages the tests may change."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python3*/site-packages")
    # Else the first import makes this directory, which is a change of its own.
    (site / "__pycache__").mkdir()
    return place


@pytest.fixture
def agent(venv: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[AgentProcess]:
    """An agent in that environment, with a home and login shell of its own."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    with AgentProcess(str(venv / "bin" / "python"), env=env) as process:
        yield process


def add_library(venv: pathlib.Path, name: str) -> None:
    """Install a module, as a package manager would."""
    (site,) = venv.glob("lib/python3*/site-packages")
    (site / f"{name}.py").write_text("HERE = True\n")


def importing(tmp_path: pathlib.Path, name: str) -> str:
    """A module that says whether the library is there."""
    path = tmp_path / "fl_importing.py"
    path.write_text(
        "#!/usr/bin/python\nfrom ansible.module_utils.basic import AnsibleModule\n"
        f"try:\n    import {name}\n    found = True\nexcept ImportError:\n    found = False\n"
        "AnsibleModule(argument_spec={}).exit_json(found=found)\n"
    )
    return str(path)


def refusal_of(agent: AgentProcess, handle: int) -> int:
    """Code of the REFUSED that answers a call."""
    frame = agent.receive(handle)
    assert frame.kind == REFUSED, frame
    code: int = struct.unpack(">H", frame.payload[1:3])[0]
    return code


def test_a_package_just_installed_is_seen(
    agent: AgentProcess, venv: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # DESIGN rule 10, ansible fact 7.
    parsed = payloads.parsed(importing(tmp_path, "fl_lib_one"), {}, agent.interpreter)
    assert json.loads(agent.module(parsed).stdout)["found"] is False
    nonce, pid = agent.boot_nonce, agent.facts["pid"]
    add_library(venv, "fl_lib_one")
    done = agent.module(parsed)
    assert json.loads(done.stdout)["found"] is True
    assert done.exit["warm"] is False
    agent.take_hello(agent.receive(HELLO))
    assert agent.boot_nonce != nonce, "systems fact 30: a new nonce clears the mux's have-set"
    assert agent.facts["pid"] == pid, "the same process, so ssh and mux notice nothing"
    agent.blobs.clear()
    assert agent.module(parsed).exit["warm"] is True


def test_one_that_shares_its_session_starts_anew_too(
    agent: AgentProcess, venv: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # A local agent: its modules stay in the session of the ansible-playbook that made it.
    module = tmp_path / "fl_session.py"
    module.write_text(
        "#!/usr/bin/python\nimport os\nfrom ansible.module_utils.basic import AnsibleModule\n"
        "AnsibleModule(argument_spec={}).exit_json(session=os.getsid(0))\n"
    )
    parsed = payloads.parsed(str(module), {}, agent.interpreter)
    own = os.getsid(agent.facts["pid"])
    for _ in range(2):
        assert json.loads(agent.module(parsed, session="inherit").stdout)["session"] == own
        add_library(venv, "fl_lib_session")
    agent.take_hello(agent.receive(HELLO))
    assert json.loads(agent.module(parsed).stdout)["session"] != own


def test_what_was_on_its_way_is_served_by_the_new_interpreter(
    agent: AgentProcess, venv: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    parsed = payloads.parsed(importing(tmp_path, "fl_lib_two"), {}, agent.interpreter)
    agent.module(parsed)
    add_library(venv, "fl_lib_two")
    frames = []
    for handle, code, payload in (
        (2001, harness.EXEC, exec_payload(agent, parsed)),
        (2002, PING, b"after"),
        (2003, harness.EXEC, exec_payload(agent, parsed)),
        (2004, PING, b"last"),
    ):
        header = (0xFA71, 1, 0, harness.AGENT_ID, harness.CLIENT_ID, 0, code, handle, handle, len(payload))
        frames.append(harness.HEADER.pack(*header) + payload)
    data = b"".join(frames)
    agent.wire.sendall(data[:-5])
    agent.take_hello(agent.receive(HELLO))
    agent.wire.sendall(data[-5:])
    assert agent.finish(2001).rc == 0
    assert agent.receive(2002).payload == bytes([PONG]) + b"after"
    assert agent.receive(2004).payload == bytes([PONG]) + b"last"
    assert agent.finish(2003).rc == 0


def exec_payload(agent: AgentProcess, parsed: Any) -> bytes:
    """Payload of an EXEC frame for a parsed module."""
    body = {**parsed.exec_body(agent.interpreter, {}), "stdin": parsed.params}
    packed: bytes = msgpack.packb(body)
    return struct.pack(">H", 0) + packed


def test_a_busy_agent_refuses(agent: AgentProcess, venv: pathlib.Path, tmp_path: pathlib.Path) -> None:
    parsed = payloads.parsed(importing(tmp_path, "fl_lib_three"), {}, agent.interpreter)
    agent.module(parsed)
    busy = agent.start({"mode": "command", "command": b"read x", "stdin_more": True})
    agent.ping()
    add_library(venv, "fl_lib_three")
    assert refusal_of(agent, agent.start_module(parsed)) == STALE
    agent.send(harness.DATA, b"\n", stream=busy, flags=harness.LAST)
    assert agent.finish(busy).rc == 0
    assert json.loads(agent.module(parsed).stdout)["found"] is True


@pytest.mark.parametrize("name", [".bashrc", ".ssh/environment"])
def test_login_shell_files_need_a_new_login(agent: AgentProcess, tmp_path: pathlib.Path, name: str) -> None:
    # Ansible fact 27: stock sees an edited ~/.bashrc at once.
    parsed = payloads.parsed("ping", {}, agent.interpreter)
    assert agent.module(parsed).rc == 0
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("FOO=1\n")
    for _ in range(2):
        assert refusal_of(agent, agent.start_module(parsed)) == STALE
    # Nor does a command do: what the file of before has set is still in the agent's environment.
    assert refusal_of(agent, agent.start({"mode": "command", "command": b"echo still"})) == STALE


def test_another_ansible_core_gets_a_clean_parent(agent: AgentProcess) -> None:
    # What a module_utils patches when imported stays patched for the process.
    parsed = payloads.parsed("ping", {}, agent.interpreter)
    agent.module(parsed)
    nonce = agent.boot_nonce
    changed = other_basic(parsed)
    done = agent.module(changed)
    assert (done.rc, done.exit["warm"]) == (0, False)
    agent.take_hello(agent.receive(HELLO))
    assert agent.boot_nonce != nonce


def other_basic(parsed: Any) -> Any:
    """The same payload with a basic.py of another content."""
    hashing = hashlib.sha256
    rows = msgpack.unpackb(parsed.blobs[parsed.manifest])
    row = next(row for row in rows if row[0] == "ansible/module_utils/basic.py")
    source = payloads.inflated(parsed.blobs[row[1]]) + b"\n# another release\n"
    row[1:6] = [hashing(source).digest(), payloads.crc32(source), len(source), len(source), 0]
    listing = msgpack.packb(rows)
    name = hashing(listing).digest()
    blobs = {**parsed.blobs, row[1]: source, name: listing}
    return parsed._replace(manifest=name, blobs=blobs)


def script(path: pathlib.Path, text: str) -> pathlib.Path:
    """Make an executable shell script, under its name at once."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(f"#!/bin/sh\n{text}\n")
    draft.chmod(0o755)
    return draft.rename(path)


def wrapper(path: pathlib.Path, words: str = "") -> pathlib.Path:
    """Make a script that starts this Python with some words in front."""
    return script(path, f'{words} exec "{sys.executable}" "$@"')


def test_an_interpreter_that_is_another_file_now_refuses(tmp_path: pathlib.Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    with AgentProcess(str(interpreter)) as agent:
        parsed = payloads.parsed("ping", {}, agent.interpreter)
        assert agent.module(parsed).rc == 0
        interpreter.unlink()
        wrapper(interpreter)
        assert refusal_of(agent, agent.start_module(parsed)) == STALE


def test_a_script_that_starts_the_interpreter_is_watched(tmp_path: pathlib.Path) -> None:
    interpreter = wrapper(tmp_path / "python", "WORD=first")
    with AgentProcess(str(interpreter)) as agent:
        parsed = payloads.parsed("ping", {}, agent.interpreter)
        assert agent.module(parsed).rc == 0
        assert agent.facts["executable"] != str(interpreter), "nothing else names the script"
        wrapper(interpreter, "WORD=second")
        assert refusal_of(agent, agent.start_module(parsed)) == STALE


def test_a_wrapped_interpreter_is_not_started_without_its_script(
    venv: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    interpreter = script(tmp_path / "python", f'exec "{venv}/bin/python" "$@"')
    with AgentProcess(str(interpreter)) as agent:
        parsed = payloads.parsed("ping", {}, agent.interpreter)
        assert agent.module(parsed).rc == 0
        add_library(venv, "fl_lib_wrapped")
        assert refusal_of(agent, agent.start_module(parsed)) == STALE


def test_an_interpreter_that_comes_first_on_the_path_now_is_noticed(tmp_path: pathlib.Path) -> None:
    first = tmp_path / "first"
    second = tmp_path / "second"
    for place in (first, second):
        place.mkdir()
    (second / "fl_python").symlink_to(sys.executable)
    (first / "fl_python").write_text("not executable, so that no shell takes it\n")
    env = {**os.environ, "PATH": f"{first}:{second}:{os.environ['PATH']}"}
    with AgentProcess("fl_python", env=env) as agent:
        parsed = payloads.parsed("ping", {}, agent.interpreter)
        assert agent.module(parsed).rc == 0
        wrapper(first / "fl_python")
        assert refusal_of(agent, agent.start_module(parsed)) == STALE


def test_an_interpreter_that_is_gone_refuses(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "gone"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    interpreter = place / "bin" / "python"
    with AgentProcess(str(interpreter)) as agent:
        parsed = payloads.parsed("ping", {}, agent.interpreter)
        assert agent.module(parsed).rc == 0
        interpreter.unlink()
        assert refusal_of(agent, agent.start_module(parsed)) == STALE
        agent.ping()
        assert agent.command(b"echo on").stdout == b"on\n"
