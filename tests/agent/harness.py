# SPDX-License-Identifier: BSD-3-Clause
"""Boot the real agent with a given interpreter and speak frames to it, without mux or ssh."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import pathlib
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import msgpack

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = struct.Struct(">HBBIIIIIII")
DEADLINE = 30.0
CLIENT_ID = 7
AGENT_ID = 9
COMPRESSED, LAST = 1, 2

HELLO, PUT_BLOB, NEED_BLOB, DROP_BLOB, EXEC, CANCEL, FILE, DATA, CREDIT, PING = range(200, 210)
CALL_FUNCTION, SHUTDOWN, LOAD_MODULE = 101, 106, 107
STARTED, STDOUT, STDERR, EXIT, REFUSED, GRANT, RESULT, ERROR, OPENED, CHUNK = range(1, 11)
WANT_MODULE, LOG, PONG = 12, 13, 14


def load_bootstrap() -> ModuleType:
    """Import bootstrap/ from this tree, installed or not."""
    spec = importlib.util.spec_from_file_location("fatline_bootstrap", ROOT / "bootstrap" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


def interpreters() -> list[str]:
    """Every Python from 2.7 on that this machine has, one path a version, plus the running one."""
    found: dict[str, str] = {}
    names = ["python2.7", *(f"python3.{minor}" for minor in range(5, 15)), "python3"]
    places = [
        os.path.dirname(path) for path in glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python"))
    ]
    for candidate in [
        sys.executable,
        *(shutil.which(name, path=":".join([*places, os.defpath])) for name in names),
    ]:
        if candidate:
            version = subprocess.run(
                [candidate, "-c", "import sys; print('.'.join(map(str, sys.version_info[:2])))"],
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE,
            )
            if version.returncode == 0:
                found.setdefault(version.stdout.strip(), candidate)
    return [found[key] for key in sorted(found, key=lambda text: [int(part) for part in text.split(".")])]


@dataclass
class Frame:
    """One frame as it came."""

    flags: int
    dst: int
    src: int
    auth: int
    handle: int
    reply_to: int
    stream: int
    payload: bytes

    @property
    def kind(self) -> int:
        """First payload byte of a message on a reply handle."""
        return self.payload[0]

    @property
    def body(self) -> Any:
        """MessagePack behind the kind."""
        return msgpack.unpackb(self.payload[1:], strict_map_key=False)


@dataclass
class Outcome:
    """What a whole run gave."""

    rc: int
    stdout: bytes
    stderr: bytes
    exit: dict[str, Any]
    started: bool


class AgentProcess:
    """An agent in a process of its own; the test is its mux and its client."""

    def __init__(
        self,
        interpreter: str = sys.executable,
        shell: str = "/bin/sh",
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        addition: str = "",
        source: bytes | None = None,
    ) -> None:
        near, far = socket.socketpair()
        self.interpreter = interpreter
        self.source = source or bootstrap.agent_source(addition)
        self.nonce = secrets.token_hex(8)
        line = bootstrap.launcher(
            [interpreter], self.nonce, len(self.source), privileged=addition == "privileged"
        )
        self.process = subprocess.Popen(
            [shell, "-c", line],
            stdin=far,
            stdout=far,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        far.close()
        self.wire = near
        self.wire.settimeout(DEADLINE)
        self.buffer = b""
        self.frames: list[Frame] = []
        self.handles = iter(range(1000, 10**9))
        self.boot_nonce = b""
        self.facts: dict[str, Any] = {}
        self.blobs: set[bytes] = set()

    def __enter__(self) -> AgentProcess:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()
        self.end()

    def end(self) -> int:
        """Wait for the end that EOF on the wire brings; its exit status."""
        assert self.process.stderr is not None
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stderr.close()

    def boot(self) -> None:
        """READY, source, HELLO."""
        self.ready = self.read_line_with(b"FATLINE-READY " + self.nonce.encode())
        self.wire.sendall(self.source)
        self.send(HELLO, struct.pack(">HHI", 1, 1, AGENT_ID))
        self.take_hello(self.next_frame())

    def take_hello(self, frame: Frame) -> None:
        """Check and keep what an agent says of itself."""
        assert (frame.handle, frame.dst, frame.src) == (HELLO, 0, AGENT_ID), frame
        assert struct.unpack(">H", frame.payload[:2]) == (1,)
        self.boot_nonce = frame.payload[2:18]
        self.facts = msgpack.unpackb(frame.payload[18:])

    def read_line_with(self, mark: bytes) -> bytes:
        """Skip noise up to the line that begins with mark; that line."""
        while True:
            line, newline, rest = self.buffer.partition(b"\n")
            if newline:
                self.buffer = rest
                if line.startswith(mark):
                    return line
                continue
            self.fill()

    def fill(self) -> None:
        """Read some; EOFError with the agent's last words at the end."""
        data = self.wire.recv(1 << 18)
        if not data:
            assert self.process.stderr is not None
            raise EOFError(self.process.stderr.read().decode())
        self.buffer += data

    def send(
        self,
        handle: int,
        payload: bytes = b"",
        *,
        reply_to: int = 0,
        stream: int = 0,
        flags: int = 0,
        src: int = CLIENT_ID,
    ) -> None:
        """Write one frame to the agent."""
        self.wire.sendall(
            HEADER.pack(0xFA71, 1, flags, AGENT_ID, src, 0, handle, reply_to, stream, len(payload)) + payload
        )

    def parse(self) -> Frame | None:
        """Take one frame out of the buffer, if there is a whole one."""
        if len(self.buffer) < HEADER.size:
            return None
        magic, version, flags, dst, src, auth, handle, reply_to, stream, length = HEADER.unpack_from(
            self.buffer
        )
        assert (magic, version) == (0xFA71, 1), self.buffer[:64]
        if len(self.buffer) < HEADER.size + length:
            return None
        payload = self.buffer[HEADER.size : HEADER.size + length]
        self.buffer = self.buffer[HEADER.size + length :]
        if flags & COMPRESSED:
            size = struct.unpack_from(">I", payload)[0]
            payload = zlib.decompress(payload[4:])
            assert len(payload) == size
        return Frame(flags, dst, src, auth, handle, reply_to, stream, payload)

    def next_frame(self) -> Frame:
        """Next frame in the order of arrival."""
        while (frame := self.parse()) is None:
            self.fill()
        return frame

    def receive(self, handle: int) -> Frame:
        """Next frame for one reply handle; others wait for their own receive()."""
        for index, frame in enumerate(self.frames):
            if frame.handle == handle:
                return self.frames.pop(index)
        while (frame := self.next_frame()).handle != handle:
            self.frames.append(frame)
        return frame

    def silent(self, seconds: float) -> bool:
        """Say whether the agent sends nothing for that long."""
        return not self.buffer and not select.select([self.wire], [], [], seconds)[0]

    def ping(self) -> float:
        """Round trip in seconds."""
        handle = next(self.handles)
        began = time.monotonic()
        self.send(PING, b"echo", reply_to=handle)
        frame = self.receive(handle)
        assert frame.payload == bytes([PONG]) + b"echo" and frame.flags & LAST
        return time.monotonic() - began

    def start(self, body: dict[str, Any], handle_code: int = EXEC) -> int:
        """Send a call; its reply handle (also its stream number)."""
        handle = next(self.handles)
        payload = msgpack.packb(body)
        if handle_code in (EXEC, CALL_FUNCTION):
            payload = struct.pack(">H", 0) + payload
        self.send(handle_code, payload, reply_to=handle, stream=handle)
        return handle

    def finish(self, handle: int) -> Outcome:
        """Collect a run to its EXIT, giving credit as it is consumed."""
        output: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        started = False
        while True:
            frame = self.receive(handle)
            assert frame.stream == handle
            if frame.kind in output:
                output[frame.kind].append(frame.payload[1:])
                with contextlib.suppress(
                    BrokenPipeError
                ):  # an agent told to end may be gone with its last frame
                    self.send(CREDIT, struct.pack(">I", len(frame.payload) - 1), stream=handle)
            elif frame.kind == STARTED:
                started = True
            elif frame.kind == GRANT:
                continue  # for input that has been sent to its end
            elif frame.kind == EXIT:
                assert frame.flags & LAST
                stdout, stderr = (b"".join(output[kind]) for kind in (STDOUT, STDERR))
                return Outcome(frame.body["rc"], stdout, stderr, frame.body, started)
            else:
                raise AssertionError(frame)

    def command(self, command: bytes, **more: Any) -> Outcome:
        """Run one command line to its end."""
        return self.finish(self.start({"mode": "command", "command": command, **more}))

    def module(self, parsed: Any, **more: Any) -> Outcome:
        """Run a parsed payload to its end, giving the agent the blobs it lacks first."""
        return self.finish(self.start_module(parsed, **more))

    def start_module(self, parsed: Any, env: dict[bytes, bytes] | None = None, **more: Any) -> int:
        """Send a parsed payload; its reply handle."""
        for name, data in parsed.blobs.items():
            self.put_blob(name, data)
        return self.start({**parsed.exec_body(self.interpreter, env or {}), "stdin": parsed.params, **more})

    def put_blob(self, name: bytes, data: bytes) -> None:
        """Give the agent a blob unless it has it."""
        if name in self.blobs:
            return
        self.blobs.add(name)
        for offset in range(0, max(1, len(data)), 1 << 17):
            piece = data[offset : offset + (1 << 17)]
            self.send(PUT_BLOB, name + struct.pack(">II", len(data), offset) + piece)


def put(
    agent: AgentProcess, path: pathlib.Path, data: bytes, mode: int = 0o644, inline: int = 256 * 1024
) -> Frame:
    """Put data as a client would: the first part at once, the rest against grants. The last frame."""
    rest = data[inline:]
    body = {"op": "put", "path": os.fsencode(path), "mode": mode, "data": data[:inline], "more": bool(rest)}
    handle = agent.start(body, FILE)
    while not (frame := agent.receive(handle)).flags & LAST:
        if frame.kind == GRANT and rest:
            granted = struct.unpack(">I", frame.payload[1:])[0]
            piece, rest = rest[:granted], rest[granted:]
            agent.send(DATA, piece, stream=handle, flags=0 if rest else LAST)
    return frame


def fetch(agent: AgentProcess, path: pathlib.Path) -> tuple[dict[str, Any], bytes, Frame]:
    """Fetch a file whole: what OPENED said, the bytes, the last frame."""
    handle = agent.start({"op": "fetch", "path": os.fsencode(path)}, FILE)
    opened: dict[str, Any] = {}
    pieces = []
    while not (frame := agent.receive(handle)).flags & LAST:
        if frame.kind == OPENED:
            opened = frame.body
        else:
            assert frame.kind == CHUNK
            pieces.append(frame.payload[1:])
            agent.send(CREDIT, struct.pack(">I", len(frame.payload) - 1), stream=handle)
    return opened, b"".join(pieces), frame
