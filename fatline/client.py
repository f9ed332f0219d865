# SPDX-License-Identifier: BSD-3-Clause
"""The process's connection to the mux.

`get_client` gives every thread of a process the same `Client`. A forked child makes its own when it needs
one: it never touches the inherited socket. A connection is never revived: when the mux goes, the calls under
way on it end with `MuxError`, and the next `get_client` connects to a new mux.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from fatline import _native, codec, mux
from fatline.errors import CallTimeout, Dead, MuxError
from fatline.protocol import AttachState, Death, Handle, Kind

CONNECT_SECONDS = 10.0

# The mux answers these from memory; anything near this long means that it hangs.
CONTROL_SECONDS = 10.0

# Long enough for another client's boot over a slow link with a password prompt in between.
ATTACH_SECONDS = 120.0

_U32 = struct.Struct("!I")
_ATTACHED = struct.Struct("!BII")
_HELLO = struct.Struct("!H16s")
_OPEN = struct.Struct("!32s32sBIIH")

_OPEN_STDERR, _OPEN_PIDFD, _OPEN_BOUND, _OPEN_ALIAS, _OPEN_OWNER, _OPEN_PRIVATE = 1, 2, 4, 8, 16, 32
_RETIRE_NOW = 1

Buffer = bytes | memoryview


class WireEnds(Protocol):
    """What `Client.open` needs to know about a started program (see `fatline.boot.Wire`)."""

    pid: int
    pidfd: int
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int


class Attachment(NamedTuple):
    """The mux's answer to `Client.attach`."""

    state: AttachState
    context_id: int
    idle_seconds: float
    hello: bytes

    @property
    def boot_nonce(self) -> bytes:
        """Names one life of the agent; empty if its HELLO has not arrived yet."""
        return _HELLO.unpack_from(self.hello)[1] if self.hello else b""

    def facts(self) -> dict[str, Any]:
        """What the agent said of itself in its HELLO; empty if that has not arrived yet."""
        return codec.unpack_map(self.hello[_HELLO.size :]) if self.hello else {}


class Client:
    """One connection to the mux. Any number of threads may use it at the same time."""

    def __init__(self, native: _native.Client) -> None:
        """Take over a connection whose HELLO is done."""
        self._native = native
        self._streams = itertools.count(1)
        self._lease_changed = threading.Condition()
        self._leases: set[bytes] = set()
        self._broken = False

    @property
    def context_id(self) -> int:
        """The id that the mux knows this client by."""
        return self._native.context_id

    @property
    def broken(self) -> bool:
        """Whether the connection is known to be gone. Calls on it only raise MuxError."""
        return self._broken

    def attach(self, key: bytes, lease: bool = True, timeout: float = ATTACH_SECONDS) -> Attachment:
        """Find the agent opened under `key`, or be charged with booting it.

        With `lease`, waits while another client (or thread) boots that agent. An answer of LEASE obliges the
        caller to end it with `open` or `abandon`.
        """
        deadline = time.monotonic() + timeout
        if not lease:
            return self._attach(key, False, timeout)
        self._enter_lease(key, deadline)
        try:
            attachment = self._attach(key, True, max(0.0, deadline - time.monotonic()))
        except BaseException:
            # The mux may have granted the lease a moment too late: without this, others would wait for it.
            with contextlib.suppress(MuxError, CallTimeout, Dead):
                self.abandon(key)
            raise
        if attachment.state != AttachState.LEASE:
            self._leave_lease(key)
        return attachment

    def open(
        self,
        key: bytes,
        wire: WireEnds,
        *,
        label: str,
        alias: bytes | None = None,
        bound: bool = False,
        persist: int = 0,
        owner_pidfd: int = -1,
    ) -> int:
        """Hand an agent's wire to the mux, which ends the lease on `key`; returns the agent's context id.

        The mux gets duplicates of the descriptors: the caller still owns and closes `wire`. `label` names
        the host in reasons. A `bound` agent ends with this client; any other lives on for `persist` seconds
        after its last one. `alias` is a second key under which the newest agent opened with it is found.

        With `owner_pidfd`, which stays the caller's, the agent is private to that process and those who know
        the key (rule 9): it ends with that process, and only clients that attached to it may call it.
        """
        flags = _OPEN_BOUND if bound else 0
        fds = [wire.stdout_fd, wire.stdin_fd]
        for flag, fd in (
            (_OPEN_STDERR, wire.stderr_fd),
            (_OPEN_PIDFD, wire.pidfd),
            (_OPEN_OWNER | _OPEN_PRIVATE, owner_pidfd),
        ):
            if fd >= 0:
                flags |= flag
                fds.append(fd)
        if alias is not None:
            flags |= _OPEN_ALIAS
        name = label.encode()
        head = _OPEN.pack(key, alias or b"", flags, wire.pid, persist, len(name))
        answer = self._ask(Handle.OPEN, head + name, fds=fds)
        self._leave_lease(key)
        context_id: int = _U32.unpack(answer)[0]
        return context_id

    def abandon(self, key: bytes) -> None:
        """End the lease on `key` without an agent; a client that waits for it gets it next."""
        try:
            self._ask(Handle.ABANDON, key)
        finally:
            self._leave_lease(key)

    def retire(self, context_id: int, *, now: bool = False) -> None:
        """Let no further `attach` find this agent; it ends once nobody uses it.

        With `now`, being attached to it is no use: it ends as soon as no call is under way.
        """
        self._ask(Handle.RETIRE, _U32.pack(context_id) + (bytes((_RETIRE_NOW,)) if now else b""))

    def shutdown(self, context_id: int) -> None:
        """Close an agent's wire now."""
        self._ask(Handle.SHUTDOWN, _U32.pack(context_id))

    def status(self) -> str:
        """The mux's account of itself: lines of a name and a value."""
        return self._ask(Handle.STATUS, b"").decode(errors="replace")

    def stop(self) -> None:
        """End the mux and every agent it holds, and close this connection."""
        self._ask(Handle.STOP, b"")
        self.close()

    def ping(self, context_id: int, timeout: float) -> float:
        """Ask an agent for a sign of life; returns the round trip in seconds."""
        begun = time.monotonic()
        with self.reply_handle() as reply:
            self.send(context_id, Handle.PING, b"ping", reply_to=reply, timeout=timeout)
            answer = self.receive(reply, timeout, f"ping of context {context_id}").payload
        if answer != bytes((Kind.PONG,)) + b"ping":
            raise codec.Malformed("a PING was answered with something else")
        return time.monotonic() - begun

    def close(self) -> None:
        """Close the connection; calls under way on it end with MuxError."""
        self._broken = True
        self._native.close()

    @contextlib.contextmanager
    def reply_handle(self) -> Iterator[int]:
        """A fresh handle for answers, released at the end."""
        with self._translated("get a handle", 0.0):
            handle = self._native.handle()
        try:
            yield handle
        finally:
            with contextlib.suppress(_native.Error):
                self._native.release(handle)

    def next_stream(self) -> int:
        """A stream number that no call of this client uses."""
        return next(self._streams) & 0xFFFFFFFF or next(self._streams) & 0xFFFFFFFF

    def send(
        self,
        dst_id: int,
        handle: int,
        payload: Buffer | Sequence[Buffer] = b"",
        *,
        reply_to: int = 0,
        stream: int = 0,
        flags: int = 0,
        fds: Sequence[int] = (),
        more: bool = False,
        timeout: float = CONTROL_SECONDS,
    ) -> None:
        """Send one frame; `more` lets it wait for the next one, to leave in the same write."""
        with self._translated("send to the mux", timeout):
            self._native.send(
                dst_id,
                handle,
                payload,
                reply_to=reply_to,
                stream=stream,
                flags=flags,
                fds=fds,
                more=more,
                timeout=timeout,
            )

    def receive(self, handle: int, timeout: float | None, stage: str) -> _native.Message:
        """The next frame on a reply handle. Dead if it is the word that none will come."""
        with self._translated(stage, timeout or 0.0):
            message = self._native.recv(handle, timeout)
        if message.reply_to == Handle.IS_DEAD:
            code = message.payload[0] if message.payload else Death.REJECTED
            raise Dead(code, message.payload[1:].decode(errors="replace") or "no reason given")
        return message

    def _ask(
        self,
        handle: int,
        payload: bytes,
        *,
        fds: Sequence[int] = (),
        timeout: float = CONTROL_SECONDS,
    ) -> bytes:
        """One question to the mux itself and its answer."""
        with self.reply_handle() as reply:
            self.send(0, handle, payload, reply_to=reply, fds=fds)
            return self.receive(reply, timeout, f"{Handle(handle).name} to the mux").payload

    def _attach(self, key: bytes, lease: bool, timeout: float) -> Attachment:
        answer = self._ask(Handle.ATTACH, key + bytes((lease,)), timeout=timeout)
        if len(answer) < _ATTACHED.size:
            raise MuxError(f"the mux answered ATTACH with {len(answer)} bytes")
        state, context_id, idle_ms = _ATTACHED.unpack_from(answer)
        return Attachment(AttachState(state), context_id, idle_ms / 1000, answer[_ATTACHED.size :])

    def _enter_lease(self, key: bytes, deadline: float) -> None:
        """Wait for other threads' leases on `key`: the mux knows one lease holder for the whole process."""
        with self._lease_changed:
            while key in self._leases:
                left = deadline - time.monotonic()
                if left <= 0 or not self._lease_changed.wait(left):
                    raise CallTimeout("another thread did not finish booting the agent in time")
            self._leases.add(key)

    def _leave_lease(self, key: bytes) -> None:
        with self._lease_changed:
            self._leases.discard(key)
            self._lease_changed.notify_all()

    @contextlib.contextmanager
    def _translated(self, stage: str, timeout: float) -> Iterator[None]:
        """Turn the extension's errors into those of `fatline.errors`."""
        try:
            yield
        except _native.Timeout as error:
            raise CallTimeout(f"{stage}: no answer after {timeout:.1f} s") from error
        except _native.Error as error:
            # A frame that is too long, say, leaves the connection as it was.
            self._broken |= self._native.broken or isinstance(error, _native.Closed)
            raise MuxError(f"{stage}: {error}") from error


_lock = threading.Lock()
_client: Client | None = None


def get_client(timeout: float = CONNECT_SECONDS) -> Client:
    """The process's client, connected to a mux that is started if there is none. MuxError if that fails."""
    global _client
    with _lock:
        if _client is None or _client.broken:
            _client = Client(mux.connect(timeout))
        return _client


def _forget() -> None:
    """In a forked child: the parent's client, its lock included, is the parent's."""
    global _lock, _client
    _lock = threading.Lock()
    _client = None


os.register_at_fork(after_in_child=_forget)
