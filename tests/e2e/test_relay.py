# SPDX-License-Identifier: BSD-3-Clause
"""The relay that other tests and the bench measure with: it must delay and count truthfully."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from fatline.cli.bench.relay import WINDOW_BYTES, Relay

DEADLINE = 10.0
BULK_BYTES = 4 * WINDOW_BYTES


def receive(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = end.recv(size - len(data))
        assert chunk, f"end of file after {len(data)} of {size} bytes"
        data += chunk
    return data


class Target:
    """A loopback listener; `accept` gives the far end of a relayed connection."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(DEADLINE)

    @property
    def address(self) -> tuple[str, int]:
        address: tuple[str, int] = self.listener.getsockname()
        return address

    def accept(self) -> socket.socket:
        far, _address = self.listener.accept()
        far.settimeout(DEADLINE)
        return far


@pytest.fixture
def target() -> Iterator[Target]:
    server = Target()
    yield server
    server.listener.close()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=DEADLINE)


def test_a_question_and_its_answer_are_one_round_trip(target: Target) -> None:
    with Relay(target.address) as relay, connect(relay) as near, target.accept() as far:
        for _ in range(3):
            near.sendall(b"question")
            assert receive(far, 8) == b"question"
            far.sendall(b"yes")
            assert receive(near, 3) == b"yes"
        counts = relay.counts()
    assert (counts.connections, counts.bytes_up, counts.bytes_down) == (1, 24, 9)
    assert counts.round_trips == 3


def test_what_crosses_in_flight_is_not_an_answer(target: Target) -> None:
    with Relay(target.address, rtt=0.2) as relay, connect(relay) as near, target.accept() as far:
        near.sendall(b"up")
        far.sendall(b"down")
        assert receive(far, 2) == b"up"
        assert receive(near, 4) == b"down"
        assert relay.counts().turns == 1


def test_each_segment_is_held_for_half_the_round_trip(target: Target) -> None:
    with Relay(target.address, rtt=0.2) as relay, connect(relay) as near, target.accept() as far:
        begun = time.monotonic()
        near.sendall(b"x")
        receive(far, 1)
        half = time.monotonic()
        far.sendall(b"y")
        receive(near, 1)
        ended = time.monotonic()
    assert half - begun >= 0.1
    assert ended - half >= 0.1


def test_a_mark_begins_a_new_count(target: Target) -> None:
    with Relay(target.address) as relay, connect(relay) as near, target.accept() as far:
        near.sendall(b"first")
        receive(far, 5)
        assert relay.mark().bytes_up == 5
        far.sendall(b"ok")
        receive(near, 2)
        counts = relay.counts()
    assert (counts.connections, counts.bytes_up, counts.bytes_down, counts.turns) == (1, 0, 2, 1)


def test_a_slow_reader_bounds_what_is_held(target: Target) -> None:
    with Relay(target.address) as relay, connect(relay) as near, target.accept() as far:
        sender = threading.Thread(target=near.sendall, args=(bytes(BULK_BYTES),))
        sender.start()
        assert len(receive(far, BULK_BYTES)) == BULK_BYTES
        sender.join(DEADLINE)
        assert not sender.is_alive()
        assert relay.counts().bytes_up == BULK_BYTES


def test_the_end_of_a_stream_is_passed_on(target: Target) -> None:
    with Relay(target.address) as relay, connect(relay) as near, target.accept() as far:
        near.sendall(b"last words")
        near.shutdown(socket.SHUT_WR)
        assert receive(far, 10) == b"last words"
        assert far.recv(1) == b""
        far.sendall(b"heard")
        assert receive(near, 5) == b"heard"


def test_a_closed_relay_cuts_its_connections(target: Target) -> None:
    relay = Relay(target.address)
    with connect(relay) as near, target.accept() as far:
        relay.close()
        assert near.recv(1) == b""
        assert far.recv(1) == b""
