# SPDX-License-Identifier: BSD-3-Clause
"""Rule 6: a hostile target can lie about its own results and nothing else.

The agent is played by the test, which speaks the protocol's bytes itself; mux and client are the real ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from e2e_support import DEADLINE, wait_for

from fatline import codec, files, runs
from fatline.boot import Booted, Ready, Wire
from fatline.client import Client
from fatline.context import LOG_BURST, Context
from fatline.errors import CallTimeout, Dead, FatlineError, RemoteError
from fatline.modules import ModuleServer
from fatline.protocol import PAYLOAD_MAX, Flag, Handle, Kind

HEADER = struct.Struct("!HBBIIIIIII")
MAGIC = 0xFA71

COMMAND = {"mode": "command", "argv": [b"true"]}


class Frame(NamedTuple):
    flags: int
    dst_id: int
    src_id: int
    auth_id: int
    handle: int
    reply_to: int
    stream: int
    payload: bytes


class Impostor:
    """The far end of a wire, played by the test."""

    def __init__(self, client: Client) -> None:
        near, self.wire = socket.socketpair()
        self.wire.settimeout(DEADLINE)
        key = secrets.token_bytes(32)
        client.attach(key)
        fd = near.fileno()
        self.id = client.open(key, Wire(0, -1, fd, fd, -1), label="impostor", bound=True)
        near.close()
        self.say_hello()

    def say_hello(self) -> None:
        hello = self.read()
        assert hello.handle == Handle.HELLO
        facts = codec.pack({"python": [3, 11], "executable": "python3"})
        self.write(0, Handle.HELLO, struct.pack("!H", 1) + b"n" * 16 + facts)

    def read(self) -> Frame:
        fields = HEADER.unpack(self._exactly(HEADER.size))
        return Frame(*fields[2:-1], self._exactly(fields[-1]))

    def read_until(self, handle: Handle) -> Frame:
        while True:
            frame = self.read()
            if frame.handle == handle:
                return frame

    def write(
        self, dst_id: int, handle: int, payload: bytes, *, flags: int = 0, stream: int = 0, reply_to: int = 0
    ) -> None:
        head = HEADER.pack(MAGIC, 1, flags, dst_id, self.id, self.id, handle, reply_to, stream, len(payload))
        self.wire.sendall(head + payload)

    def answer(self, call: Frame, kind: int, body: bytes = b"", flags: int = 0) -> None:
        self.write(call.src_id, call.reply_to, bytes((kind,)) + body, flags=flags, stream=call.stream)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.wire.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


Play = Callable[[Impostor], None]


@pytest.fixture
def impostor(client: Client) -> Iterator[Impostor]:
    made = Impostor(client)
    yield made
    made.wire.close()


@contextlib.contextmanager
def playing(impostor: Impostor, play: Play) -> Iterator[None]:
    """Have the impostor play its part beside the test."""
    failures: list[BaseException] = []

    def part() -> None:
        try:
            play(impostor)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=part, daemon=True)
    thread.start()
    yield
    thread.join(DEADLINE)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def context_of(client: Client, impostor: Impostor, *allow: str) -> Context:
    booted = Booted(impostor.id, 0, Ready(0, b"", 0.0))
    return Context(client, ModuleServer(allow), "impostor", booted)


def run(client: Client, impostor: Impostor, timeout: float = DEADLINE) -> runs.RunResult:
    return runs.run(client, impostor.id, COMMAND, timeout=timeout)


def test_an_honest_impostor_is_believed(client: Client, impostor: Impostor) -> None:
    """The played agent speaks well enough that the lies below are what is refused."""

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        agent.answer(call, Kind.STARTED, codec.pack({"pid": 1}))
        agent.answer(call, Kind.STDOUT, b"out")
        agent.answer(call, Kind.EXIT, codec.pack({"rc": 3, "warm": True, "ms": 1}), Flag.LAST)

    with playing(impostor, play):
        assert run(client, impostor) == runs.RunResult(3, b"out", b"", True, True)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (99, b""),
        (Kind.RESULT, codec.pack(1)),
        (Kind.EXIT, b""),
        (Kind.EXIT, codec.pack({"warm": True})),
        (Kind.EXIT, codec.pack({"rc": "0"})),
        (Kind.EXIT, codec.pack([0])),
        (Kind.EXIT, b"\x81\xa2rc\xc7\x01\x05x"),
        (Kind.EXIT, b"\x91" * 1000),
        (Kind.GRANT, b"\0\0\1"),
        (Kind.REFUSED, b"\0"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_in_words(
    client: Client, impostor: Impostor, kind: int, body: bytes
) -> None:
    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        agent.answer(call, kind, body)
        assert agent.read_until(Handle.CANCEL).stream == call.stream

    with playing(impostor, play), pytest.raises(codec.Malformed):
        run(client, impostor)


def test_an_answer_without_its_kind_is_refused(client: Client, impostor: Impostor) -> None:
    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        agent.write(call.src_id, call.reply_to, b"", stream=call.stream)

    with playing(impostor, play), pytest.raises(codec.Malformed, match="without its kind"):
        run(client, impostor)


def test_a_blob_that_the_call_does_not_name_is_not_given_out(client: Client, impostor: Impostor) -> None:
    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        agent.answer(call, Kind.WANT_BLOB, b"x" * 32)
        frame = agent.read()
        while frame.handle != Handle.CANCEL:
            assert frame.handle != Handle.PUT_BLOB
            frame = agent.read()

    with playing(impostor, play), pytest.raises(FatlineError):
        run(client, impostor)


def compressed(data: bytes, announced: int) -> bytes:
    return struct.pack("!I", announced) + zlib.compress(data)


@pytest.mark.parametrize(
    "payload",
    [
        compressed(bytes(64 * 1024 * 1024), 100),
        compressed(bytes(64 * 1024 * 1024), 0xFFFFFFFF),
        compressed(bytes(64 * 1024 * 1024), codec.INFLATED_MAX + 1),
        b"\0\0\0\4xxxx",
    ],
)
def test_a_bomb_is_not_inflated(client: Client, impostor: Impostor, payload: bytes) -> None:
    """Inflate limit per frame with the declared size checked (systems fact 7)."""
    assert len(payload) < PAYLOAD_MAX

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        agent.write(call.src_id, call.reply_to, payload, flags=Flag.COMPRESSED, stream=call.stream)

    with playing(impostor, play), pytest.raises(codec.Malformed):
        run(client, impostor)


def test_data_beyond_the_announced_size_is_refused(
    client: Client, impostor: Impostor, tmp_path: Path
) -> None:
    """FILE data beyond the announced size (systems fact 7)."""
    sink = tmp_path / "sink"

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.FILE)
        agent.answer(call, Kind.OPENED, codec.pack({"size": 10, "mode": 0o644}))
        agent.answer(call, Kind.CHUNK, b"12345678")
        agent.answer(call, Kind.CHUNK, b"9abc")
        assert agent.read_until(Handle.CANCEL).stream == call.stream

    with playing(impostor, play), pytest.raises(FatlineError, match="more than the 10 bytes"):
        files.fetch_file(client, impostor.id, b"/any", sink, timeout=DEADLINE)
    assert sink.read_bytes() == b"12345678"


@pytest.mark.parametrize("size", [3, 5, -1, "4", None])
def test_a_lie_about_the_fetched_size_is_refused(
    client: Client, impostor: Impostor, tmp_path: Path, size: object
) -> None:
    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.FILE)
        agent.answer(call, Kind.OPENED, codec.pack({"size": None, "mode": 0o644}))
        agent.answer(call, Kind.CHUNK, b"1234")
        agent.answer(call, Kind.RESULT, codec.pack({"size": size}), Flag.LAST)

    with playing(impostor, play), pytest.raises(codec.Malformed):
        files.fetch_file(client, impostor.id, b"/any", tmp_path / "sink", timeout=DEADLINE)


@pytest.mark.parametrize("announced", ["x", -1, [], 1.5])
def test_a_size_that_is_none_is_refused_before_the_file_is_touched(
    client: Client, impostor: Impostor, tmp_path: Path, announced: object
) -> None:
    sink = tmp_path / "sink"

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.FILE)
        agent.answer(call, Kind.OPENED, codec.pack({"size": announced, "mode": 0o644}))

    with playing(impostor, play), pytest.raises(codec.Malformed):
        files.fetch_file(client, impostor.id, b"/any", sink, timeout=DEADLINE)
    assert not sink.exists()


@pytest.mark.parametrize("mode", [0o6777, "x", None, -1])
def test_a_fetched_file_never_gets_special_bits(
    client: Client, impostor: Impostor, tmp_path: Path, mode: object
) -> None:
    sink = tmp_path / "sink"

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.FILE)
        agent.answer(call, Kind.OPENED, codec.pack({"size": 0, "mode": mode}))
        agent.answer(call, Kind.RESULT, codec.pack({"size": 0}), Flag.LAST)

    with playing(impostor, play):
        files.fetch_file(client, impostor.id, b"/any", sink, timeout=DEADLINE)
    assert sink.stat().st_mode & 0o7000 == 0


@pytest.mark.parametrize(
    "name", ["fatline_settings", "../settings", "/etc/passwd", "json", "__main__", "fatline._native", ""]
)
def test_a_module_that_no_function_imports_is_not_given_out(
    client: Client, impostor: Impostor, name: str
) -> None:
    """Any importable module would leak settings files (systems fact 8)."""
    answers: list[dict[str, object]] = []

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.CALL_FUNCTION)
        agent.answer(call, Kind.WANT_MODULE, codec.pack(name))
        loaded = agent.read_until(Handle.LOAD_MODULE)
        answers.append(codec.unpack_map(codec.inflate(loaded.payload)))
        agent.answer(call, Kind.RESULT, codec.pack("done"), Flag.LAST)

    with playing(impostor, play):
        assert context_of(client, impostor).call(os.getpid, timeout=DEADLINE) == "done"
    assert answers == [{"name": name, "package": False, "path": "", "source": None}]


def test_what_an_exception_says_is_escaped(client: Client, impostor: Impostor) -> None:
    told = {"type": "E\x1b]0;x\x07", "message": "a\nb\x1b[2J", "traceback": "x\n\x1b[2Jy", "errno": "no"}

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.CALL_FUNCTION)
        agent.answer(call, Kind.ERROR, codec.pack(told), Flag.LAST)

    with playing(impostor, play), pytest.raises(RemoteError) as caught:
        context_of(client, impostor).call(os.getpid, timeout=DEADLINE)
    error = caught.value
    assert "\x1b" not in str(error) + error.traceback
    assert "\n" not in str(error)
    assert error.traceback == "x\n\\x1b[2Jy"
    assert error.errno is None


@pytest.mark.parametrize("record", [["name", 40], "text", 7, {}])
def test_a_log_record_that_is_none_is_refused(client: Client, impostor: Impostor, record: object) -> None:
    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.CALL_FUNCTION)
        agent.answer(call, Kind.LOG, codec.pack(record))

    with playing(impostor, play), pytest.raises(codec.Malformed):
        context_of(client, impostor).call(os.getpid, timeout=DEADLINE)


def test_a_log_cannot_be_flooded(
    client: Client, impostor: Impostor, caplog: pytest.LogCaptureFixture
) -> None:
    """Log lines a second capped (systems fact 7)."""
    number = LOG_BURST * 3

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.CALL_FUNCTION)
        for _ in range(number):
            agent.answer(call, Kind.LOG, codec.pack(["name", 10**6, "x" * 100_000]))
        agent.answer(call, Kind.RESULT, codec.pack(None), Flag.LAST)

    with caplog.at_level(logging.DEBUG), playing(impostor, play):
        context_of(client, impostor).call(os.getpid, timeout=DEADLINE * 3)
    assert LOG_BURST <= len(caplog.records) < number
    assert max(len(record.getMessage()) for record in caplog.records) < 10_000


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n      ", bytes(32)])
def test_a_wire_that_speaks_something_else_is_closed_with_words(
    client: Client, impostor: Impostor, first: bytes
) -> None:
    """Bad input closes that one stream with words (rule 5)."""

    def play(agent: Impostor) -> None:
        agent.read_until(Handle.EXEC)
        agent.wire.sendall(first)

    with playing(impostor, play), pytest.raises(Dead) as caught:
        run(client, impostor)
    assert caught.value.reason
    assert client.status()


def test_an_agent_cannot_speak_for_another(client: Client, impostor: Impostor) -> None:
    """Replies are bound to their callee (systems fact 6)."""
    other = Impostor(client)

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        for src in (other.id, agent.id):
            # The other agent knows the client's id and guesses the handle.
            head = HEADER.pack(MAGIC, 1, 0, call.src_id, src, src, call.reply_to, 0, call.stream, 4)
            other.wire.sendall(head + bytes((Kind.STDOUT,)) + b"lie")
        wait_for("the lies to be dropped", lambda: dropped(client) >= 2)
        agent.answer(call, Kind.STDOUT, b"truth")
        agent.answer(call, Kind.EXIT, codec.pack({"rc": 0, "warm": False, "ms": 0}), Flag.LAST)

    with playing(impostor, play):
        assert run(client, impostor).stdout == b"truth"
    other.wire.close()


def dropped(client: Client) -> int:
    line = next(line for line in client.status().splitlines() if line.startswith("dropped_frames "))
    return int(line.split()[1])


def test_a_silent_agent_is_given_up_at_the_deadline(client: Client, impostor: Impostor) -> None:
    """Rule 1."""
    with pytest.raises(CallTimeout, match="run: no answer after"):
        run(client, impostor, timeout=0.2)
    with pytest.raises(CallTimeout, match="ping"):
        client.ping(impostor.id, 0.2)


def test_output_without_credit_does_not_grow_this_process(client: Client, impostor: Impostor) -> None:
    """Rule 4: a caller that does not consume is not buried."""

    def play(agent: Impostor) -> None:
        call = agent.read_until(Handle.EXEC)
        agent.wire.settimeout(1.0)
        with contextlib.suppress(OSError):
            for _ in range(4096):
                agent.answer(call, Kind.STDOUT, bytes(128 * 1024))

    before = resident_kb()
    with client.reply_handle() as reply, playing(impostor, play):
        payload = b"\0\0" + codec.pack(COMMAND)
        client.send(impostor.id, Handle.EXEC, payload, reply_to=reply, stream=77)
    assert resident_kb() - before < 128 * 1024


def resident_kb() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])
