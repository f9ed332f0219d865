# SPDX-License-Identifier: BSD-3-Clause
"""One call to an agent: what EXEC, FILE and CALL_FUNCTION have in common (docs/protocol.md section 6)."""

from __future__ import annotations

import contextlib
import signal
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from fatline import _native, codec
from fatline.client import CONTROL_SECONDS, Buffer, Client
from fatline.errors import CallTimeout, Dead, FatlineError, MuxError
from fatline.protocol import Death, Flag, Handle

PIECE_BYTES = 128 * 1024
INLINE_BYTES = 256 * 1024

# Credit goes back once half the window is consumed: a short answer costs no extra message, a long one never
# waits for its next grant.
CREDIT_BYTES = 128 * 1024

_U32 = struct.Struct("!I")
_BLOB_HEAD = struct.Struct("!32sII")


class Answer(NamedTuple):
    """One message of an agent (or the mux) on a call's reply handle."""

    kind: int
    body: bytes
    last: bool

    def map(self) -> dict[str, Any]:
        """The body as a MessagePack map with text keys."""
        return codec.unpack_map(self.body)

    def number(self) -> int:
        """The body as one u32."""
        if len(self.body) != _U32.size:
            raise codec.Malformed(f"a message of kind {self.kind} with {len(self.body)} bytes, not 4")
        number: int = _U32.unpack(self.body)[0]
        return number


class Call:
    """One call to an agent: a stream number, a reply handle and a deadline.

    A context manager. Left before the last answer came, for whatever reason (a deadline, Ctrl-C, an answer
    that makes no sense), it cancels the call at the agent.
    """

    def __init__(self, client: Client, context_id: int, timeout: float | None, *, label: str) -> None:
        """Plan a call; `timeout` None waits as long as the agent lives. `label` names the host in errors."""
        self._client = client
        self._context_id = context_id
        self._label = label
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._stream = client.next_stream()
        self._consumed = 0
        self._sent = False
        self._over = False
        self._stack = contextlib.ExitStack()
        self._reply = 0

    def __enter__(self) -> Call:
        """Take a reply handle."""
        self._reply = self._stack.enter_context(self._client.reply_handle())
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Cancel what is still under way and let the handle go."""
        with self._stack:
            if self._sent and not self._over:
                self.cancel()

    def send(
        self,
        handle: int,
        payload: Buffer | Sequence[Buffer],
        *,
        flags: int = 0,
        more: bool = False,
    ) -> None:
        """Send a frame of this call. Dead with `not_sent` if it is the opening one and did not leave."""
        # Only the frame that opens the call binds the reply handle; the others just name the stream.
        reply_to = 0 if self._sent else self._reply
        try:
            self._client.send(
                self._context_id,
                handle,
                payload,
                reply_to=reply_to,
                stream=self._stream,
                flags=flags,
                more=more,
                timeout=self._time_left(CONTROL_SECONDS),
            )
        except FatlineError as error:
            cause = error.__cause__
            if reply_to and isinstance(cause, _native.Error) and not cause.sent:
                self._over = True
                raise Dead(Death.NOT_SENT, f"{self._label}: {error}") from error
            raise
        finally:
            self._sent = True

    def receive(self, stage: str) -> Answer:
        """The agent's next answer. Dead when its wire is gone, CallTimeout when the deadline has passed."""
        try:
            message = self._client.receive(self._reply, self._wait(), stage)
        except Dead as dead:
            # Our own side gave up on an agent that heeds no credit; it goes on unless it is told.
            self._over = dead.code != Death.OVERRUN
            raise
        except CallTimeout as error:
            words = f"{self._label}: {stage}: no answer after {self._timeout or 0.0:.1f} s"
            raise CallTimeout(words) from error
        self._over = bool(message.flags & Flag.LAST)
        payload = codec.inflate(message.payload) if message.flags & Flag.COMPRESSED else message.payload
        if not payload:
            raise codec.Malformed(f"{self._label}: an answer without its kind")
        return Answer(payload[0], payload[1:], self._over)

    def put_blob(self, name: bytes, data: bytes) -> None:
        """Give the mux a blob that this call names."""
        for offset in range(0, max(1, len(data)), PIECE_BYTES):
            head = _BLOB_HEAD.pack(name, len(data), offset)
            piece = memoryview(data)[offset : offset + PIECE_BYTES]
            self._client.send(0, Handle.PUT_BLOB, (head, piece), timeout=self._time_left(CONTROL_SECONDS))

    def consumed(self, size: int) -> None:
        """Return credit for `size` bytes of output."""
        self._consumed += size
        if self._consumed >= CREDIT_BYTES and not self._over:
            self.send(Handle.CREDIT, _U32.pack(self._consumed))
            self._consumed = 0

    def cancel(self, signum: int = 0) -> None:
        """Ask the agent to close the call's pipes. Harmless when the mux or the agent is gone.

        `signum`, if any, is sent to the run's process group first.
        """
        self._over = True
        payload = bytes((signum,)) if signum else b""
        with contextlib.suppress(MuxError, CallTimeout):
            self._client.send(self._context_id, Handle.CANCEL, payload, stream=self._stream)

    @contextlib.contextmanager
    def passing_on(self, signals: Collection[int]) -> Iterator[None]:
        """Cancel the call with a signal that comes to this process, which then takes its course here."""
        handlers = {number: signal.signal(number, _raise_signalled) for number in signals}
        try:
            yield
        except _Signalled as signalled:
            self.cancel(signalled.number)
            signal.signal(signalled.number, handlers[signalled.number])
            signal.raise_signal(signalled.number)
            raise KeyboardInterrupt from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _wait(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _time_left(self, most: float) -> float:
        left = self._wait()
        return most if left is None else min(most, left)


class _Signalled(BaseException):
    """A signal came while a call was under way; nothing on the way out is to catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise_signalled(number: int, _frame: object) -> NoReturn:
    raise _Signalled(number)
