# SPDX-License-Identifier: BSD-3-Clause
"""`fatline.client.Client` and `fatline.call.Call` against a mux that misbehaves, in plain Python."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from native_peer import LAST, Frame, Peer
from unit_support import finish, in_thread

from fatline import _native
from fatline.call import Call
from fatline.client import Client
from fatline.errors import CallTimeout, Dead, MuxError
from fatline.protocol import PAYLOAD_MAX, AttachState, Death, Handle, Kind

KEY = b"k" * 32
AGENT = 5


class WatchedClient(Client):
    """Stops where a thread has just left a lease, until told to go on."""

    def __init__(self, native: _native.Client) -> None:
        super().__init__(native)
        self.left = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def _leave_lease(self, key: bytes) -> None:
        super()._leave_lease(key)
        self.left.set()
        self.go_on.wait()


@pytest.fixture
def pair() -> Iterator[tuple[WatchedClient, Peer]]:
    near, far = socket.socketpair()
    client = WatchedClient(_native.Client(near.detach()))
    peer = Peer(far)
    yield client, peer
    client.close()
    peer.close()


def answer_attach(peer: Peer, state: AttachState) -> None:
    request = peer.recv()
    assert request.handle == Handle.ATTACH
    peer.send(Frame(request.reply_to, struct.pack("!BII", state, 0, 0), LAST))


def test_a_lease_given_up_late_is_not_another_threads(pair: tuple[WatchedClient, Peer]) -> None:
    """The thread that timed out leaves the lease once: by then it may be the next thread's."""
    client, peer = pair
    first, first_results = in_thread(lambda: client.attach(KEY, timeout=0.05))
    assert peer.recv().handle == Handle.ATTACH
    client.go_on.clear()
    abandon = peer.recv()
    assert abandon.handle == Handle.ABANDON
    peer.send(Frame(abandon.reply_to, b"", LAST))
    assert client.left.wait(10)
    second, second_results = in_thread(lambda: client.attach(KEY).state)
    answer_attach(peer, AttachState.LEASE)
    finish(second)
    client.go_on.set()
    finish(first)
    assert isinstance(first_results[0], CallTimeout)
    assert second_results == [AttachState.LEASE]
    with pytest.raises(CallTimeout, match="another thread"):
        client.attach(KEY, timeout=0.05)


def test_a_frame_that_cannot_be_sent_leaves_the_connection_as_it_was(
    pair: tuple[WatchedClient, Peer],
) -> None:
    client, peer = pair
    with pytest.raises(MuxError):
        client.send(AGENT, Handle.EXEC, bytes(PAYLOAD_MAX + 1))
    assert not client.broken
    client.send(AGENT, Handle.EXEC, b"short")
    assert peer.recv().payload == b"short"


def test_a_mux_that_has_gone_breaks_the_connection(pair: tuple[WatchedClient, Peer]) -> None:
    client, peer = pair
    peer.close()
    with pytest.raises(MuxError):
        client.status()
    assert client.broken


def test_bytes_that_are_no_frame_break_the_connection(pair: tuple[WatchedClient, Peer]) -> None:
    client, peer = pair
    peer.sock.sendall(b"220 mail.example.com ESMTP\r\n" * 2)
    with pytest.raises(MuxError, match="mail.example.com"):
        client.status()
    assert client.broken


def test_an_agent_that_heeds_no_credit_is_told_to_stop(pair: tuple[WatchedClient, Peer]) -> None:
    client, peer = pair
    with pytest.raises(Dead) as caught, Call(client, AGENT, 10.0, label="web1") as call:
        call.send(Handle.EXEC, b"")
        request = peer.recv()
        chunk = Frame(request.reply_to, bytes((Kind.STDOUT,)) + bytes(1 << 19), src_id=AGENT)
        with client.reply_handle() as other:
            flood, _ = in_thread(lambda: peer.send(*[chunk] * 12, Frame(other, b"at last")))
            # Reads what comes before, which nobody takes.
            assert client.receive(other, 10.0, "something else").payload == b"at last"
        finish(flood)
        while True:
            call.receive("run")
    assert caught.value.code == Death.OVERRUN
    assert not caught.value.not_sent
    cancel = peer.recv()
    assert (cancel.handle, cancel.stream, cancel.dst_id) == (Handle.CANCEL, request.stream, AGENT)
