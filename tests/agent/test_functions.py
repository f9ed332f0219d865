# SPDX-License-Identifier: BSD-3-Clause
"""CALL_FUNCTION: imports over the wire, results, exceptions, logs, one process for all calls."""

from __future__ import annotations

import os
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import harness
import msgpack
import pytest
from harness import CALL_FUNCTION, CANCEL, ERROR, LOAD_MODULE, LOG, RESULT, STARTED, WANT_MODULE, AgentProcess

MODULES: dict[str, tuple[bool, str]] = {
    "fl_demo": (
        True,
        "from fl_demo import state\nimport fl_demo.sub\ndef add(a, b=0): return a + b\n"
        "def name(): return fl_demo.sub.NAME\n"
        "def count():\n state.COUNT += 1\n return state.COUNT\n",
    ),
    "fl_demo.sub": (False, "NAME = __name__\n"),
    "fl_demo.state": (False, "COUNT = 0\n"),
    "fl_trouble": (
        False,
        "import logging, os, sys\n"
        "def fail():\n    raise KeyError('not here')\n"
        "def missing():\n    return open('/nonexistent')\n"
        "def leave(): sys.exit(3)\n"
        "def die(): os._exit(3)\n"
        "def strange(): return object()\n"
        "def speak():\n    logging.getLogger('a.b').warning('hear %s', 'me')\n    print('lost')\n"
        "def absent():\n    import fl_not_there\n"
        "def gate(path):\n    with open(path) as f: return f.read()\n"
        "def large(n): return 'x' * n\n",
    ),
}


@pytest.fixture
def agent(interpreter: str) -> Iterator[AgentProcess]:
    """An agent on each interpreter that runs functions."""
    with AgentProcess(interpreter, addition="functions") as process:
        yield process


@pytest.fixture
def own_agent() -> Iterator[AgentProcess]:
    """One on the interpreter that runs the tests."""
    with AgentProcess(addition="functions") as process:
        yield process


def call(
    agent: AgentProcess, module: str, function: str, *args: Any, **kwargs: Any
) -> tuple[harness.Frame, list[Any]]:
    """Call a function, answering what the agent asks for: the last frame, the log records."""
    handle = agent.start(
        {"module": module, "function": function, "args": args, "kwargs": kwargs}, CALL_FUNCTION
    )
    return finish(agent, handle)


def finish(agent: AgentProcess, handle: int) -> tuple[harness.Frame, list[Any]]:
    logs = []
    while (frame := agent.receive(handle)).kind not in (RESULT, ERROR):
        if frame.kind == WANT_MODULE:
            serve(agent, handle, frame.body)
        elif frame.kind == LOG:
            logs.append(frame.body)
        else:
            assert frame.kind == STARTED
    return frame, logs


def serve(agent: AgentProcess, handle: int, name: str) -> None:
    """Answer a WANT_MODULE, compressed as the library does it."""
    is_package, source = MODULES.get(name, (False, None))
    answer = {"name": name, "package": is_package, "path": name + ".py", "source": source and source.encode()}
    data = msgpack.packb(answer)
    agent.send(LOAD_MODULE, struct.pack(">I", len(data)) + zlib.compress(data), stream=handle, flags=1)


def test_results_and_arguments(agent: AgentProcess) -> None:
    assert call(agent, "fl_demo", "add", 2, b=3)[0].body == 5
    assert call(agent, "fl_demo", "add", [1, b"\xff"], b=[None, {"k": "é"}])[0].body == [
        1,
        b"\xff",
        None,
        {"k": "é"},
    ]
    assert call(agent, "fl_demo", "name")[0].body == "fl_demo.sub"


def test_module_state_lasts(agent: AgentProcess) -> None:
    assert [call(agent, "fl_demo", "count")[0].body for _ in range(3)] == [1, 2, 3]


def test_standard_library_is_the_targets_own(agent: AgentProcess) -> None:
    assert call(agent, "os", "getpid")[0].body != agent.facts["pid"]
    assert call(agent, "posixpath", "join", "a", "b")[0].body == "a/b"


def test_exceptions_come_back(agent: AgentProcess) -> None:
    body = call(agent, "fl_trouble", "fail")[0].body
    assert (body["type"], body["message"], body["errno"]) == ("KeyError", "'not here'", None)
    assert (
        body["traceback"].startswith("Traceback") and 'fl_trouble.py", line 3, in fail' in body["traceback"]
    )
    assert "fatline-agent" not in body["traceback"]
    body = call(agent, "fl_trouble", "missing")[0].body
    assert (body["type"] in ("FileNotFoundError", "IOError"), body["errno"]) == (True, 2)
    assert call(agent, "fl_trouble", "leave")[0].body["type"] == "SystemExit"
    assert call(agent, "fl_trouble", "strange")[0].body["type"] == "TypeError"
    assert call(agent, "fl_trouble", "nothing")[0].body["type"] == "AttributeError"
    assert call(agent, "fl_trouble", "absent")[0].body["type"] in ("ModuleNotFoundError", "ImportError")


def test_a_cancelled_call_does_not_wait_for_its_module(agent: AgentProcess) -> None:
    """Its caller answers no longer, and other calls stand behind it; the module is there for them."""
    body = {"module": "fl_demo", "function": "add", "args": [1], "kwargs": {"b": 2}}
    early, late = (agent.start(body, CALL_FUNCTION) for _ in range(2))
    while (frame := agent.receive(early)).kind != WANT_MODULE:
        assert frame.kind == STARTED
    agent.send(CANCEL, stream=early)
    assert finish(agent, late)[0].body == 3
    while (frame := agent.receive(early)).kind == WANT_MODULE:
        continue
    assert frame.kind == ERROR


def test_death_of_the_process_is_told_and_overcome(agent: AgentProcess) -> None:
    assert call(agent, "fl_demo", "count")[0].body == 1
    assert call(agent, "fl_trouble", "die")[0].body["type"] == "HostDied"
    assert call(agent, "fl_demo", "count")[0].body == 1


def test_logs_are_forwarded(agent: AgentProcess) -> None:
    frame, logs = call(agent, "fl_trouble", "speak")
    assert frame.body is None
    assert logs == [["a.b", 30, "hear me"]]


def test_large_results(agent: AgentProcess) -> None:
    frame, _ = call(agent, "fl_trouble", "large", 3000000)
    assert frame.kind == RESULT and len(frame.body) == 3000000
    assert call(agent, "fl_trouble", "large", 5000000)[0].body["type"] == "ValueError"


def test_calls_wait_their_turn(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    body = {"module": "fl_trouble", "function": "gate", "args": [str(fifo)], "kwargs": {}}
    first = agent.start(body, CALL_FUNCTION)
    while (frame := agent.receive(first)).kind != WANT_MODULE:
        assert frame.kind == STARTED
    serve(agent, first, frame.body)
    second = agent.start(
        {"module": "fl_demo", "function": "add", "args": [1, 2], "kwargs": {}}, CALL_FUNCTION
    )
    third = agent.start({"module": "fl_demo", "function": "add", "args": [3, 4], "kwargs": {}}, CALL_FUNCTION)
    agent.ping()
    agent.send(CANCEL, stream=third)
    assert agent.receive(third).body["type"] == "Cancelled"
    fifo.write_text("open")
    assert finish(agent, first)[0].body == "open"
    assert finish(agent, second)[0].body == 3


@pytest.mark.parametrize("payload", [b"", b"\x00\x00", b"\x00\x00\x90", b"\x00\x00\x80"])
def test_malformed_calls_are_refused(own_agent: AgentProcess, payload: bytes) -> None:
    own_agent.send(CALL_FUNCTION, payload, reply_to=1000, stream=5)
    assert own_agent.receive(1000).kind == harness.REFUSED
    own_agent.ping()
