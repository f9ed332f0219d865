# SPDX-License-Identifier: BSD-3-Clause
"""A TCP relay that stands in for a slow link and counts what crosses it.

Each segment is held for half the round-trip time in either direction. Besides bytes the relay counts
*turns*: the length of the longest chain of segments of which each could have been sent in answer to the
one before it. A segment travelling up is one turn longer than the longest chain that has been delivered to
the near end by then, a segment travelling down one longer than what has been delivered to the far end. Two
turns are a round trip. Segments that merely happen to cross in order are counted as well, so the figure is
an upper bound: a protocol is never called quicker than it is.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

SEGMENT_MAX = 64 * 1024

# What one direction may hold back. A real link has a window too: without one, a relay in front of a slow
# reader would take a whole file into memory.
WINDOW_BYTES = 4 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Counts:
    """What crossed the relay since `Relay.mark`."""

    connections: int
    bytes_up: int
    bytes_down: int
    turns: int

    @property
    def round_trips(self) -> float:
        """Turns as round trips: a request with its answer is 1.0."""
        return self.turns / 2


@dataclasses.dataclass
class _Segment:
    due: float
    data: memoryview
    chain: int
    epoch: int


class _Pipe:
    """One direction of one connection: what was read and is still held back."""

    def __init__(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        self.source = source
        self.sink = sink
        self.up = up
        self.held: collections.deque[_Segment] = collections.deque()
        self.held_bytes = 0
        self.at_eof = False
        self.closed = False
        self.blocked = False

    def may_read(self) -> bool:
        return not self.at_eof and self.held_bytes < WINDOW_BYTES


class _Connection:
    """Both directions of one connection, and the longest chain seen at either end of it."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.pipes = (_Pipe(near, far, up=True), _Pipe(far, near, up=False))
        self.near_chain = 0
        self.far_chain = 0
        self.epoch = 0

    def enter_epoch(self, epoch: int) -> None:
        """Forget the chains of an earlier count."""
        if self.epoch != epoch:
            self.epoch = epoch
            self.near_chain = self.far_chain = 0

    def next_due(self) -> float | None:
        dues = [pipe.held[0].due for pipe in self.pipes if pipe.held and not pipe.blocked]
        return min(dues, default=None)

    def ended(self) -> bool:
        return all(pipe.closed for pipe in self.pipes)

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Relay:
    """Relays loopback connections to `target`; runs in a thread of its own until closed."""

    def __init__(self, target: tuple[str, int], rtt: float = 0.0) -> None:
        """Listen on a free loopback port. `rtt` is the round-trip time to add, in seconds."""
        self._target = target
        self._hold = rtt / 2
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._counts = Counts(0, 0, 0, 0)
        self._epoch = 0
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The loopback port that clients connect to."""
        port: int = self._listener.getsockname()[1]
        return port

    def counts(self) -> Counts:
        """What crossed since the last `mark`."""
        with self._lock:
            return self._counts

    def mark(self) -> Counts:
        """Begin a new count; returns the one that ends."""
        with self._lock:
            ended = self._counts
            self._counts = Counts(len(self._connections), 0, 0, 0)
            self._epoch += 1
            return ended

    def close(self) -> None:
        """Cut every connection and end the thread."""
        if self._wake_write < 0:
            return
        os.close(self._wake_write)
        self._wake_write = -1
        self._thread.join()

    def __enter__(self) -> Relay:
        """Return the relay itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the relay."""
        self.close()

    def _serve(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        try:
            while self._turn():
                pass
        finally:
            for connection in self._connections:
                connection.close()
            self._selector.close()
            self._listener.close()
            os.close(self._wake_read)

    def _turn(self) -> bool:
        """Handle one batch of events; false when the relay is to end."""
        for key, events in self._selector.select(self._timeout()):
            if key.data is None:
                return False
            handler: Callable[[int], None] = key.data
            handler(events)
        for connection in list(self._connections):
            self._pump(connection)
        return True

    def _timeout(self) -> float | None:
        dues = [due for due in (c.next_due() for c in self._connections) if due is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _accept(self, _events: int) -> None:
        near, _address = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(near, far)
        self._connections.add(connection)
        with self._lock:
            self._counts = dataclasses.replace(self._counts, connections=self._counts.connections + 1)
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        """Ask for exactly the events that either end of the connection waits for."""
        up, down = connection.pipes
        for end, reader, writer in ((connection.near, up, down), (connection.far, down, up)):
            events = selectors.EVENT_READ * reader.may_read() | selectors.EVENT_WRITE * writer.blocked
            known = end.fileno() in self._selector.get_map()
            if not events:
                if known:
                    self._selector.unregister(end)
                continue

            def handler(ready: int, reader: _Pipe = reader, writer: _Pipe = writer) -> None:
                if ready & selectors.EVENT_WRITE:
                    writer.blocked = False
                if ready & selectors.EVENT_READ:
                    self._read(connection, reader)

            if known:
                self._selector.modify(end, events, handler)
            else:
                self._selector.register(end, events, handler)

    def _read(self, connection: _Connection, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(SEGMENT_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            pipe.at_eof = True
            return
        chain, epoch = self._count(connection, pipe.up, len(data))
        pipe.held.append(_Segment(time.monotonic() + self._hold, memoryview(data), chain, epoch))
        pipe.held_bytes += len(data)

    def _count(self, connection: _Connection, up: bool, size: int) -> tuple[int, int]:
        """Enter a segment into the count; returns the length of its chain and the count it belongs to."""
        with self._lock:
            connection.enter_epoch(self._epoch)
            chain = (connection.near_chain if up else connection.far_chain) + 1
            counts = self._counts
            self._counts = Counts(
                counts.connections,
                counts.bytes_up + (size if up else 0),
                counts.bytes_down + (0 if up else size),
                max(counts.turns, chain),
            )
            return chain, self._epoch

    def _pump(self, connection: _Connection) -> None:
        for pipe in connection.pipes:
            try:
                self._deliver(connection, pipe)
            except OSError:
                self._drop(connection)
                return
        if connection.ended():
            self._drop(connection)
        else:
            self._watch(connection)

    def _deliver(self, connection: _Connection, pipe: _Pipe) -> None:
        """Send on every segment whose time has come."""
        now = time.monotonic()
        while pipe.held and pipe.held[0].due <= now and not pipe.blocked:
            segment = pipe.held[0]
            try:
                sent = pipe.sink.send(segment.data)
            except BlockingIOError:
                pipe.blocked = True
                return
            pipe.held_bytes -= sent
            segment.data = segment.data[sent:]
            if not segment.data:
                pipe.held.popleft()
                self._arrived(connection, pipe.up, segment)
        if pipe.at_eof and not pipe.held and not pipe.closed:
            pipe.closed = True
            pipe.sink.shutdown(socket.SHUT_WR)

    @staticmethod
    def _arrived(connection: _Connection, up: bool, segment: _Segment) -> None:
        if segment.epoch != connection.epoch:
            return
        if up:
            connection.far_chain = max(connection.far_chain, segment.chain)
        else:
            connection.near_chain = max(connection.near_chain, segment.chain)

    def _drop(self, connection: _Connection) -> None:
        for end in (connection.near, connection.far):
            if end.fileno() in self._selector.get_map():
                self._selector.unregister(end)
        self._connections.discard(connection)
        connection.close()
