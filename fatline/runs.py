# SPDX-License-Identifier: BSD-3-Clause
"""Run one command or module on an agent (EXEC, docs/protocol.md section 6)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from fatline import codec
from fatline.call import INLINE_BYTES, PIECE_BYTES, Answer, Call
from fatline.client import Client
from fatline.errors import FatlineError, Refused
from fatline.protocol import Flag, Handle, Kind

_BLOB_NAME_BYTES = 32


class RunResult(NamedTuple):
    """How a run ended."""

    rc: int
    """Exit status as a shell would give it: 128+n for signal n."""
    stdout: bytes
    stderr: bytes
    warm: bool
    """Whether the run was forked from a parent that already held its modules."""
    started: bool
    """Whether the agent said so before it forked (it always does for a run that ended)."""
    signal: int = 0
    """The signal that ended what led the run's session: there ssh has no exit status to give."""


def run(
    client: Client,
    context_id: int,
    body: Mapping[str, Any],
    *,
    blobs: Mapping[bytes, bytes] | None = None,
    stdin: bytes | None = None,
    secret: bool = False,
    signals: Collection[int] = (),
    timeout: float | None = None,
    label: str = "",
) -> RunResult:
    """Run what `body` describes and wait for its end.

    `body` is the EXEC map of docs/protocol.md without its stdin; `blobs` are those that it names. `secret`
    has the mux wipe the frames that carry stdin. Without `timeout` it waits as long as the run lives, as
    stock Ansible does; a deadline, Ctrl-C or any other exception cancels the run and is raised on. `signals`
    are sent to the run's process group as well when they come to this process, which must be in its main
    thread; then they take their course here.

    Raises Refused if the agent turned the run down before it started, Dead if its wire went away or nothing
    could be sent, MuxError if the mux went away with the run under way. Rule 13: only after Refused, or Dead
    with `not_sent`, may the caller run it again.
    """
    label = label or f"context {context_id}"
    with Call(client, context_id, timeout, label=label) as call, call.passing_on(signals):
        return _Run(call, blobs or {}, stdin, secret).drive(body)


class _Run:
    """One EXEC under way."""

    def __init__(self, call: Call, blobs: Mapping[bytes, bytes], stdin: bytes | None, secret: bool) -> None:
        self._call = call
        self._blobs = blobs
        self._stdin = memoryview(stdin or b"")
        self._has_stdin = stdin is not None
        self._flags = Flag.SECRET if secret else Flag(0)
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self._started = False
        self._handlers: dict[int, Callable[[Answer], None]] = {
            Kind.STARTED: self._on_started,
            Kind.STDOUT: self._on_stdout,
            Kind.STDERR: self._on_stderr,
            Kind.GRANT: self._on_grant,
            Kind.WANT_BLOB: self._on_want_blob,
            Kind.REFUSED: self._on_refused,
        }

    def drive(self, body: Mapping[str, Any]) -> RunResult:
        """Send the EXEC and deal with every answer up to the EXIT."""
        self._send_exec(dict(body))
        while True:
            answer = self._call.receive("run")
            if answer.kind == Kind.EXIT:
                return self._result(answer.map())
            handler = self._handlers.get(answer.kind)
            if handler is None:
                raise codec.Malformed(f"a run was answered with kind {answer.kind}")
            handler(answer)

    def _send_exec(self, body: dict[str, Any]) -> None:
        inline, self._stdin = self._stdin[:INLINE_BYTES], self._stdin[INLINE_BYTES:]
        if self._has_stdin:
            body["stdin"] = bytes(inline)
        if self._stdin:
            body["stdin_more"] = True
        head = struct.pack("!H", len(self._blobs)) + b"".join(self._blobs)
        self._call.send(Handle.EXEC, (head, codec.pack(body)), flags=self._flags)

    def _result(self, end: Mapping[str, Any]) -> RunResult:
        rc, warm = end.get("rc"), end.get("warm")
        if not isinstance(rc, int):
            raise codec.Malformed(f"a run ended with the status {rc!r}")
        signum = end.get("signal", 0)
        if not isinstance(signum, int):
            raise codec.Malformed(f"a run ended with the signal {signum!r}")
        output = b"".join(self._stdout), b"".join(self._stderr)
        return RunResult(rc, *output, bool(warm), self._started, signum)

    def _on_started(self, _answer: Answer) -> None:
        self._started = True

    def _on_stdout(self, answer: Answer) -> None:
        self._stdout.append(answer.body)
        self._call.consumed(len(answer.body))

    def _on_stderr(self, answer: Answer) -> None:
        self._stderr.append(answer.body)
        self._call.consumed(len(answer.body))

    def _on_grant(self, answer: Answer) -> None:
        granted = self._stdin[: answer.number()]
        self._stdin = self._stdin[len(granted) :]
        for offset in range(0, len(granted), PIECE_BYTES):
            piece = granted[offset : offset + PIECE_BYTES]
            last = not self._stdin and offset + len(piece) == len(granted)
            self._call.send(Handle.DATA, piece, flags=self._flags | (Flag.LAST if last else 0))

    def _on_want_blob(self, answer: Answer) -> None:
        for offset in range(0, len(answer.body), _BLOB_NAME_BYTES):
            name = answer.body[offset : offset + _BLOB_NAME_BYTES]
            # Rule 6: only what this call named is ever given out, whoever asks.
            if name not in self._blobs:
                raise FatlineError(f"asked for a blob that the call does not name: {name.hex()}")
            self._call.put_blob(name, self._blobs[name])

    def _on_refused(self, answer: Answer) -> None:
        code, reason = refusal(answer)
        raise Refused(code, reason)


def refusal(answer: Answer) -> tuple[int, str]:
    """Code and reason of a REFUSED."""
    if len(answer.body) < 2:
        raise codec.Malformed("a REFUSED without its code")
    code: int = struct.unpack_from("!H", answer.body)[0]
    return code, codec.printable(answer.body[2:].decode(errors="replace"))
