# SPDX-License-Identifier: BSD-3-Clause
"""Copy files to and from a target, in bounded memory at any size (FILE, docs/protocol.md section 6).

The mux never touches a disk: this process reads and writes the local side (systems fact 25).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import IO, Any

from fatline import codec
from fatline.call import INLINE_BYTES, PIECE_BYTES, Answer, Call
from fatline.client import Client
from fatline.errors import FatlineError, Refused, RemoteError
from fatline.protocol import Flag, Handle, Kind
from fatline.runs import refusal

FETCH_MODE = 0o666


def put_file(
    client: Client,
    context_id: int,
    local_path: str | bytes | os.PathLike[str],
    remote_path: bytes,
    *,
    mode: int | None = None,
    timeout: float | None = None,
    label: str = "",
) -> int:
    """Copy a local file to the target; returns its size.

    As sftp does: a new file gets `mode` (the local file's by default) less the target's umask, an existing
    one is overwritten and keeps its mode. The agent removes a partial file that this call created.
    OSError for the local side, RemoteError (with `errno`) for the remote one, Refused and Dead as for a run.
    """
    with open(local_path, "rb", buffering=0) as source:
        if mode is None:
            mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
        with Call(client, context_id, timeout, label=label or f"context {context_id}") as call:
            return _Put(call, source).drive(remote_path, mode & 0o777)


def fetch_file(
    client: Client,
    context_id: int,
    remote_path: bytes,
    local_path: str | bytes | os.PathLike[str],
    *,
    timeout: float | None = None,
    label: str = "",
) -> int:
    """Copy a file of the target to a local path; returns its size.

    The local path is only opened once the remote file is, never through a symbolic link (systems fact 7),
    and as sftp does: a new file gets the remote mode less the umask, an existing one keeps its own. After an
    error the part that came stays. OSError for the local side, RemoteError (with `errno`) for the remote one.
    """
    with Call(client, context_id, timeout, label=label or f"context {context_id}") as call:
        return _Fetch(call, local_path).drive(remote_path)


class _Put:
    """One put under way."""

    def __init__(self, call: Call, source: IO[bytes]) -> None:
        self._call = call
        self._source = source
        self._next = b""

    def drive(self, remote_path: bytes, mode: int) -> int:
        """Send the file against grants; returns what the target wrote."""
        first = self._read(INLINE_BYTES)
        self._next = self._read(PIECE_BYTES)
        body = {"op": "put", "path": remote_path, "mode": mode, "data": first, "more": bool(self._next)}
        self._call.send(Handle.FILE, codec.pack(body))
        granted = 0
        while True:
            answer = self._call.receive("put")
            if answer.kind == Kind.GRANT:
                granted = self._send(granted + answer.number())
            elif answer.kind == Kind.RESULT:
                return _size(answer.map())
            elif answer.kind != Kind.STARTED:
                raise_failure(answer, "a put")

    def _send(self, granted: int) -> int:
        """Send what the grant allows; returns what is left of it."""
        while self._next and granted:
            piece, rest = self._next[:granted], self._next[granted:]
            self._next = rest or self._read(PIECE_BYTES)
            self._call.send(Handle.DATA, piece, flags=0 if self._next else Flag.LAST)
            granted -= len(piece)
        return granted

    def _read(self, size: int) -> bytes:
        """The file's next `size` bytes; fewer only at its end."""
        pieces: list[bytes] = []
        while size:
            piece = self._source.read(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


class _Fetch:
    """One fetch under way."""

    def __init__(self, call: Call, local_path: str | bytes | os.PathLike[str]) -> None:
        self._call = call
        self._local_path = local_path
        self._received = 0

    def drive(self, remote_path: bytes) -> int:
        """Wait until the remote file is open, then write what comes."""
        self._call.send(Handle.FILE, codec.pack({"op": "fetch", "path": remote_path}))
        answer = self._call.receive("fetch")
        while answer.kind == Kind.STARTED:
            answer = self._call.receive("fetch")
        if answer.kind != Kind.OPENED:
            raise_failure(answer, "a fetch")
        announced = answer.map()
        size = None if announced.get("size") is None else _size(announced)
        with self._open(announced.get("mode")) as sink:
            return self._write(sink, size)

    def _open(self, mode: object) -> IO[bytes]:
        if not isinstance(mode, int):
            mode = FETCH_MODE
        # The owner may write, or the next fetch to this path would fail (as in sftp).
        mode = mode & 0o777 | stat.S_IWUSR
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return open(os.open(self._local_path, flags, mode), "wb", buffering=0)

    def _write(self, sink: IO[bytes], announced: int | None) -> int:
        while True:
            answer = self._call.receive("fetch")
            if answer.kind == Kind.CHUNK:
                self._take(sink, answer.body, announced)
            elif answer.kind == Kind.RESULT:
                if _size(answer.map()) != self._received:
                    raise codec.Malformed(
                        f"a fetch ended after {self._received} bytes, which is not its size"
                    )
                return self._received
            else:
                raise_failure(answer, "a fetch")

    def _take(self, sink: IO[bytes], data: bytes, announced: int | None) -> None:
        self._received += len(data)
        # A target may fill this disk with one file, but only with as much as it said it would.
        if announced is not None and self._received > announced:
            raise FatlineError(f"the target sent more than the {announced} bytes that it had announced")
        left = memoryview(data)
        while left:
            left = left[sink.write(left) :]
        self._call.consumed(len(data))


def raise_failure(answer: Answer, what: str) -> None:
    """Raise what a REFUSED or ERROR says, or Malformed for any other answer."""
    if answer.kind == Kind.REFUSED:
        code, reason = refusal(answer)
        raise Refused(code, reason)
    if answer.kind == Kind.ERROR:
        raise remote_error(answer.map())
    raise codec.Malformed(f"{what} was answered with kind {answer.kind}")


def remote_error(told: Mapping[str, Any]) -> RemoteError:
    """The exception that an ERROR tells of."""
    errno = told.get("errno")
    return RemoteError(
        codec.printable(str(told.get("type", "Exception"))),
        codec.printable(str(told.get("message", ""))),
        "\n".join(codec.printable(line) for line in str(told.get("traceback", "")).split("\n")),
        errno if isinstance(errno, int) else None,
    )


def _size(result: Mapping[str, Any]) -> int:
    size = result.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise codec.Malformed(f"a file of the size {size!r}")
    return size
