# SPDX-License-Identifier: BSD-3-Clause
"""The extension's Client against a peer in plain Python."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import signal
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from native_peer import DEAD, DEADLINE, HEADER, LAST, Frame, Peer
from unit_support import finish, in_thread, wait_until_blocked

from fatline import _native

MAILBOX_MAX = 4 * 1024 * 1024


@pytest.fixture
def pair() -> Iterator[tuple[_native.Client, Peer]]:
    near, far = socket.socketpair()
    client = _native.Client(near.detach())
    peer = Peer(far)
    yield client, peer
    client.close()
    peer.close()


def fill(peer: Peer, client: _native.Client) -> None:
    """Send until the socket takes no more, as far as whole frames go."""
    payload = bytes(32 * 1024)
    while True:
        try:
            client.send(1, 207, payload, timeout=0)
        except _native.Timeout:
            return


# --- HELLO --------------------------------------------------------------------------------------------------


def test_hello_takes_the_context_id(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    assert client.context_id == 0
    thread, results = in_thread(lambda: client.hello(DEADLINE))
    hello = peer.welcome(context_id=4711)
    finish(thread)
    assert results == [4711]
    assert client.context_id == 4711
    assert (hello.handle, hello.dst_id, hello.src_id) == (200, 0, 0)
    assert struct.unpack("!HHI", hello.payload) == (1, 1, os.getpid())


def test_every_later_frame_carries_the_context_id(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    thread, _ = in_thread(lambda: client.hello(DEADLINE))
    peer.welcome(context_id=9)
    finish(thread)
    client.send(3, 204, b"body", reply_to=1000, stream=5, flags=4)
    assert peer.recv() == Frame(204, b"body", 4, 3, 9, 0, 1000, 5)


@pytest.mark.parametrize(
    "answer",
    [
        Frame(0, b"\x03no common version", LAST, reply_to=DEAD),
        Frame(0, struct.pack("!HI", 2, 5), LAST),
        Frame(0, b"\x00\x01", LAST),
    ],
    ids=["is-dead", "other version", "too short"],
)
def test_a_bad_answer_to_hello_is_an_error(pair: tuple[_native.Client, Peer], answer: Frame) -> None:
    client, peer = pair
    thread, results = in_thread(lambda: client.hello(DEADLINE))
    answer.handle = peer.recv().reply_to
    peer.send(answer)
    finish(thread)
    assert isinstance(results[0], _native.ProtocolError)
    assert client.context_id == 0


# --- receiving ----------------------------------------------------------------------------------------------


def test_messages_come_in_order_with_all_fields(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    peer.send(Frame(handle, b"one", 0, 7, 12, 12, 0, 3), Frame(handle, b"", LAST, 7, 12, 12, DEAD, 3))
    first, second = client.recv(handle, DEADLINE), client.recv(handle, DEADLINE)
    assert (first.src_id, first.handle, first.stream, first.flags, first.payload) == (
        12,
        handle,
        3,
        0,
        b"one",
    )
    assert (second.reply_to, second.flags, second.payload) == (DEAD, LAST, b"")
    assert "one" not in repr(first)


def test_a_frame_split_at_every_byte(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    for byte in Frame(handle, b"payload").encode():
        with contextlib.suppress(_native.Timeout):
            client.recv(handle, 0)
        peer.sock.sendall(bytes((byte,)))
    assert client.recv(handle, DEADLINE).payload == b"payload"


def test_the_largest_payload(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    payload = os.urandom(_native.PAYLOAD_MAX)
    thread, _ = in_thread(lambda: peer.send(Frame(handle, payload), Frame(handle, b"next")))
    assert client.recv(handle, DEADLINE).payload == payload
    assert client.recv(handle, DEADLINE).payload == b"next"
    finish(thread)


def test_frames_for_unknown_handles_are_dropped(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle, released = client.handle(), client.handle()
    client.release(released)
    peer.send(Frame(5555, b"x"), Frame(released, b"y"), Frame(handle, b"mine"))
    assert client.recv(handle, DEADLINE).payload == b"mine"
    with pytest.raises(_native.ProtocolError, match="nothing listens"):
        client.recv(released, 0)


def test_a_well_known_handle_can_be_listened_on(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    route = _native.HANDLES["DEL_ROUTE"]
    assert client.handle(route) == route
    with pytest.raises(_native.Error):
        client.handle(route)
    peer.send(Frame(route, b"gone"))
    assert client.recv(route, DEADLINE).payload == b"gone"


def test_handles_are_dynamic_and_unique(pair: tuple[_native.Client, Peer]) -> None:
    client, _ = pair
    handles = [client.handle() for _ in range(300)]
    assert len(set(handles)) == 300
    assert min(handles) >= _native.HANDLES["FIRST_DYNAMIC"]


def test_a_timeout_is_honest_about_time(pair: tuple[_native.Client, Peer]) -> None:
    client, _ = pair
    handle = client.handle()
    begun = time.monotonic()
    with pytest.raises(_native.Timeout) as caught:
        client.recv(handle, 0.1)
    assert 0.1 <= time.monotonic() - begun < 5
    assert isinstance(caught.value, TimeoutError)


def test_a_timeout_of_zero_still_takes_what_is_there(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    peer.send(Frame(handle, b"here"))
    assert client.recv(handle, 0).payload == b"here"


@pytest.mark.parametrize("timeout", [float("nan"), "soon"])
def test_a_timeout_must_be_a_number(pair: tuple[_native.Client, Peer], timeout: object) -> None:
    client, _ = pair
    with pytest.raises((ValueError, TypeError)):
        client.recv(client.handle(), timeout)  # type: ignore[arg-type]


def test_what_was_received_comes_before_the_end(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    peer.send(Frame(handle, b"last words"))
    peer.close()
    assert client.recv(handle, DEADLINE).payload == b"last words"
    with pytest.raises(_native.Closed):
        client.recv(handle, DEADLINE)


def test_the_mux_can_say_why_it_closes(pair: tuple[_native.Client, Peer]) -> None:
    """Rule 5: bad input closes the stream with words."""
    client, peer = pair
    handle = client.handle()
    peer.send(Frame(0, b"\x03you\x1b[31m lied", LAST, reply_to=DEAD))
    peer.close()
    with pytest.raises(_native.Closed, match=r"you\\x1b\[31m lied"):
        client.recv(handle, DEADLINE)


def test_noise_is_shown(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    peer.sock.sendall(b"Welcome to host\n")
    with pytest.raises(_native.ProtocolError, match="Welcome to host"):
        client.recv(handle, DEADLINE)


@pytest.mark.parametrize("offset, value", [(0, 0), (2, 9), (3, 0x80), (28, 0xFF)])
def test_a_broken_header_ends_the_connection(
    pair: tuple[_native.Client, Peer], offset: int, value: int
) -> None:
    client, peer = pair
    handle = client.handle()
    header = bytearray(Frame(handle).encode())
    header[offset] = value
    peer.sock.sendall(header)
    for _ in range(2):
        with pytest.raises(_native.ProtocolError):
            client.recv(handle, DEADLINE)


def test_memory_is_bounded_and_others_go_on(pair: tuple[_native.Client, Peer]) -> None:
    """Rule 4. A peer that ignores credit loses its own stream; other answers still come through."""
    client, peer = pair
    flooded, other = client.handle(), client.handle()
    chunk = bytes(128 * 1024)
    count = 2 * MAILBOX_MAX // len(chunk)

    def flood() -> None:
        for _ in range(count):
            peer.send(Frame(flooded, chunk))
        peer.send(Frame(other, b"through"))

    thread, _ = in_thread(flood)
    assert client.recv(other, DEADLINE).payload == b"through"
    finish(thread)
    received = 0
    while (message := client.recv(flooded, DEADLINE)).reply_to != DEAD:
        received += len(message.payload)
    assert received <= MAILBOX_MAX
    assert message.payload[0] == _native.DEATHS["OVERRUN"]
    assert b"credit" in message.payload
    with pytest.raises(_native.Timeout):
        client.recv(flooded, 0)


def test_empty_messages_are_counted_too(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    flooded, other = client.handle(), client.handle()
    frame = Frame(flooded).encode()
    burst = frame * 1024

    def flood() -> None:
        for _ in range(MAILBOX_MAX // len(burst) + 1):
            peer.sock.sendall(burst)
        peer.send(Frame(other, b"through"))

    thread, _ = in_thread(flood)
    assert client.recv(other, DEADLINE).payload == b"through"
    finish(thread)
    count = 0
    while client.recv(flooded, DEADLINE).reply_to != DEAD:
        count += 1
    assert count < MAILBOX_MAX // HEADER.size


# --- threads ------------------------------------------------------------------------------------------------


def test_each_thread_gets_its_own_answers(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    threads, rounds = 8, 200

    def ask() -> list[bytes]:
        handle = client.handle()
        answers = []
        for number in range(rounds):
            client.send(1, 209, b"%d %d" % (handle, number), reply_to=handle)
            answers.append(client.recv(handle, DEADLINE).payload)
        assert answers == [b"%d %d" % (handle, number) for number in range(rounds)]
        return answers

    def echo() -> None:
        for _ in range(threads * rounds):
            question = peer.recv()
            peer.send(Frame(question.reply_to, question.payload, LAST))

    echoing, _ = in_thread(echo)
    asking = [in_thread(ask) for _ in range(threads)]
    for thread, results in asking:
        finish(thread)
        assert isinstance(results[0], list), results
    finish(echoing)


def test_reading_is_handed_on_when_the_leader_leaves(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handles = [client.handle() for _ in range(4)]
    waiting = []
    for handle in handles:
        thread, results = in_thread(lambda handle=handle: client.recv(handle, DEADLINE).payload)
        wait_until_blocked(thread)
        waiting.append((thread, results))
    # The first one leads; each answer is for whoever leads by then.
    for handle, (thread, results) in zip(handles, waiting, strict=True):
        peer.send(Frame(handle, b"%d" % handle))
        finish(thread)
        assert results == [b"%d" % handle]


def test_reading_is_handed_on_when_the_leader_times_out(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    leader_handle, follower_handle = client.handle(), client.handle()
    leader, leader_results = in_thread(lambda: client.recv(leader_handle, 0.3))
    wait_until_blocked(leader)
    follower, follower_results = in_thread(lambda: client.recv(follower_handle, DEADLINE).payload)
    wait_until_blocked(follower)
    finish(leader)
    assert isinstance(leader_results[0], _native.Timeout)
    peer.send(Frame(follower_handle, b"still here"))
    finish(follower)
    assert follower_results == [b"still here"]


@pytest.mark.parametrize("ender", ["close", "hang up"])
def test_the_end_reaches_every_waiter(pair: tuple[_native.Client, Peer], ender: str) -> None:
    client, peer = pair
    waiting = [in_thread(lambda h=h: client.recv(h, None)) for h in [client.handle() for _ in range(4)]]
    for thread, _ in waiting:
        wait_until_blocked(thread)
    if ender == "close":
        client.close()
    else:
        peer.close()
    for thread, results in waiting:
        finish(thread)
        assert isinstance(results[0], _native.Closed)


def test_releasing_a_handle_ends_the_wait_on_it(pair: tuple[_native.Client, Peer]) -> None:
    client, _ = pair
    kept, released = client.handle(), client.handle()
    leader, _ = in_thread(lambda: client.recv(kept, DEADLINE))
    wait_until_blocked(leader)
    follower, results = in_thread(lambda: client.recv(released, DEADLINE))
    wait_until_blocked(follower)
    client.release(released)
    finish(follower)
    assert isinstance(results[0], _native.ProtocolError)
    client.close()
    finish(leader)


def test_waiting_lets_other_threads_run(pair: tuple[_native.Client, Peer]) -> None:
    """The GIL is free while a client waits: this thread goes on."""
    client, peer = pair
    handle = client.handle()
    thread, results = in_thread(lambda: client.recv(handle, DEADLINE).payload)
    wait_until_blocked(thread)
    peer.send(Frame(handle, b"answer"))
    finish(thread)
    assert results == [b"answer"]


# --- sending ------------------------------------------------------------------------------------------------


def test_a_payload_may_come_in_pieces(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    pieces = [b"a", bytearray(b"bc"), memoryview(b"xdefx")[1:4], array.array("B", [103])]
    client.send(1, 204, pieces)
    assert peer.recv().payload == b"abcdefg"
    client.send(1, 204, [b"%03d" % number for number in range(100)])
    assert peer.recv().payload == b"".join(b"%03d" % number for number in range(100))
    client.send(1, 204, [])
    assert peer.recv().payload == b""


@pytest.mark.parametrize("payload", [5, ["text"], None, "text"])
def test_a_payload_must_be_bytes(pair: tuple[_native.Client, Peer], payload: object) -> None:
    client, _ = pair
    with pytest.raises((TypeError, ValueError)):
        client.send(1, 204, payload)  # type: ignore[arg-type]


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_payload_that_is_too_long_is_not_sent(pair: tuple[_native.Client, Peer], pieces: int) -> None:
    client, peer = pair
    size = _native.PAYLOAD_MAX // pieces + 1
    with pytest.raises(_native.ProtocolError, match="longer") as caught:
        client.send(1, 204, [bytes(size)] * pieces)
    assert caught.value.sent is False
    client.send(1, 204, b"next")
    assert peer.recv().payload == b"next"


def test_corked_frames_leave_with_the_next(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    client.send(1, 201, b"first", more=True)
    client.send(1, 201, b"second", more=True)
    peer.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.sock.recv(1)
    peer.sock.settimeout(DEADLINE)
    client.send(1, 204, b"third")
    data = peer.sock.recv(1 << 16)
    assert len(data) == 3 * HEADER.size + len(b"firstsecondthird"), "one write, so one read"


def test_much_corked_data_does_not_pile_up(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    payloads = [bytes((number,)) * 100_000 for number in range(20)]

    def send() -> None:
        for payload in payloads:
            client.send(1, 201, payload, more=True)
        client.send(1, 204, b"end")

    thread, _ = in_thread(send)
    assert [peer.recv().payload for _ in payloads] == payloads
    assert peer.recv().payload == b"end"
    finish(thread)


def test_descriptors_travel_with_their_frame(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    read_fd, write_fd = os.pipe()
    client.send(0, 201, b"before", more=True)
    client.send(0, 211, b"open", fds=[read_fd])
    os.close(read_fd)
    data, fds = b"", []
    while not data.endswith(b"open"):
        part, more_fds, _flags, _address = socket.recv_fds(peer.sock, 1 << 16, 4)
        data += part
        fds += more_fds
    assert len(data) == 2 * HEADER.size + len(b"beforeopen")
    assert len(fds) == 1
    os.write(write_fd, b"through the pipe")
    assert os.read(fds[0], 100) == b"through the pipe"
    os.close(write_fd)
    os.close(fds[0])


def test_too_many_descriptors(pair: tuple[_native.Client, Peer]) -> None:
    client, _ = pair
    with pytest.raises(_native.ProtocolError) as caught:
        client.send(0, 211, b"open", fds=[0] * 9)
    assert caught.value.sent is False


def test_two_full_sockets_do_not_block_each_other(pair: tuple[_native.Client, Peer]) -> None:
    """A peer that writes to us before it reads what we send: the blocked writer reads meanwhile."""
    client, peer = pair
    handle = client.handle()
    chunk = bytes(64 * 1024)
    count = 32

    def answer() -> None:
        for _ in range(count):
            peer.send(Frame(handle, chunk))
        for _ in range(count):
            peer.recv()

    thread, _ = in_thread(answer)
    for _ in range(count):
        client.send(1, 207, chunk, timeout=DEADLINE)
    finish(thread)
    assert sum(len(client.recv(handle, DEADLINE).payload) for _ in range(count)) == count * len(chunk)


def test_a_blocked_writer_leaves_reading_to_a_waiting_thread(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    reader, results = in_thread(lambda: client.recv(handle, DEADLINE).payload)
    wait_until_blocked(reader)
    fill(peer, client)
    writer, written = in_thread(lambda: client.send(1, 207, b"later", timeout=DEADLINE))
    wait_until_blocked(writer)
    peer.send(Frame(handle, b"answer"))
    finish(reader)
    assert results == [b"answer"]
    second, results = in_thread(lambda: client.recv(handle, DEADLINE).payload)
    peer.send(Frame(handle, b"second"))
    finish(second)
    assert results == [b"second"]
    while peer.recv().payload != b"later":
        pass
    finish(writer)
    assert written == [None]


def test_nothing_of_a_frame_left_is_said(pair: tuple[_native.Client, Peer]) -> None:
    """Rule 13: only if no byte has left may the caller send it another way."""
    client, peer = pair
    client.send(1, 201, b"\0" * 1000, more=True)
    fill(peer, client)
    # By now a part of one frame may be kept back; it must leave before a byte of the next does.
    with pytest.raises(_native.Timeout) as caught:
        client.send(1, 204, b"never", timeout=0.05)
    assert caught.value.sent is False
    frames = []
    thread, _ = in_thread(lambda: client.send(1, 204, b"end", timeout=DEADLINE))
    while not frames or frames[-1] != b"end":
        frames.append(peer.recv().payload)
    finish(thread)
    assert b"never" not in frames


def test_the_rest_of_a_cut_frame_follows(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    large = os.urandom(_native.PAYLOAD_MAX)
    with pytest.raises(_native.Timeout) as caught:
        client.send(1, 204, large, timeout=0.05)
    assert caught.value.sent is True
    thread, results = in_thread(lambda: client.send(1, 205, b"after", timeout=DEADLINE))
    assert peer.recv().payload == large
    assert peer.recv().payload == b"after"
    finish(thread)
    assert results == [None]


def test_writers_take_turns(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    large = [bytes((number,)) * 300_000 for number in range(6)]
    threads = [in_thread(lambda data=data: client.send(1, 207, data, timeout=DEADLINE)) for data in large]
    assert sorted(peer.recv().payload for _ in large) == large
    for thread, results in threads:
        finish(thread)
        assert results == [None]


def test_a_writer_that_waits_for_its_turn_times_out_alone(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    fill(peer, client)
    first, first_results = in_thread(lambda: client.send(1, 207, b"first", timeout=DEADLINE))
    wait_until_blocked(first)
    with pytest.raises(_native.Timeout) as caught:
        client.send(1, 207, b"second", timeout=0.05)
    assert caught.value.sent is False
    third, third_results = in_thread(lambda: client.send(1, 207, b"third", timeout=DEADLINE))
    seen: list[bytes] = []
    while {b"first", b"third"} - set(seen):
        seen.append(peer.recv().payload)
    for thread in (first, third):
        finish(thread)
    assert (first_results, third_results) == ([None], [None])
    assert b"second" not in seen


def test_sending_to_a_closed_mux(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    peer.close()
    with pytest.raises(_native.Closed) as caught:
        client.send(1, 204, b"x")
    assert caught.value.sent is False


# --- signals ------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Raised by a signal handler."""


def raise_interrupted(number: int, frame: object) -> None:
    raise Interrupted


@contextlib.contextmanager
def alarm(handler: Callable[[int, object], None], seconds: float) -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_signal_handler_that_raises_ends_the_wait(pair: tuple[_native.Client, Peer], role: str) -> None:
    client, peer = pair
    handle, other = client.handle(), client.handle()
    if role == "follower":
        leader, _ = in_thread(lambda: client.recv(other, DEADLINE))
        wait_until_blocked(leader)
    with alarm(raise_interrupted, 0.05), pytest.raises(Interrupted):
        client.recv(handle, DEADLINE)
    peer.send(Frame(handle, b"not lost"))
    assert client.recv(handle, DEADLINE).payload == b"not lost"


def test_a_signal_handler_that_returns_does_not_end_the_wait(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    handle = client.handle()
    calls = []

    def answer(number: int, frame: object) -> None:
        calls.append(number)
        peer.send(Frame(handle, b"after the signal"))

    with alarm(answer, 0.05):
        assert client.recv(handle, DEADLINE).payload == b"after the signal"
    assert calls == [signal.SIGALRM]


def test_a_signal_in_the_middle_of_a_frame_does_not_cut_it(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    large = os.urandom(_native.PAYLOAD_MAX)
    received: list[object] = []
    threads = []

    def start_reading(number: int, frame: object) -> None:
        thread, results = in_thread(lambda: peer.recv().payload)
        threads.append(thread)
        received.append(results)

    with alarm(start_reading, 0.05):
        client.send(1, 204, large, timeout=DEADLINE)
    finish(threads[0])
    assert received == [[large]]


def test_a_signal_that_raises_in_the_middle_of_a_frame(pair: tuple[_native.Client, Peer]) -> None:
    client, peer = pair
    large = os.urandom(_native.PAYLOAD_MAX)
    with alarm(raise_interrupted, 0.05), pytest.raises(Interrupted):
        client.send(1, 204, large, timeout=DEADLINE)
    thread, _ = in_thread(lambda: client.send(1, 205, b"cancel", timeout=DEADLINE))
    assert peer.recv().payload == large
    assert peer.recv().payload == b"cancel"
    finish(thread)


# --- life ---------------------------------------------------------------------------------------------------


def test_the_client_owns_its_descriptor() -> None:
    near, far = socket.socketpair()
    fd = near.detach()
    client = _native.Client(fd)
    assert client.fileno() == fd
    assert client.closed is False
    client.close()
    client.close()
    assert client.fileno() == -1
    assert client.closed is True
    with pytest.raises(OSError):
        os.fstat(fd)
    assert far.recv(1) == b""
    far.close()


def test_a_forgotten_client_hangs_up() -> None:
    near, far = socket.socketpair()
    client = _native.Client(near.detach())
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None
    assert far.recv(1) == b""
    far.close()


def test_a_closed_client_says_so() -> None:
    near, far = socket.socketpair()
    client = _native.Client(near.detach())
    client.close()
    for call in (
        lambda: client.handle(),
        lambda: client.send(1, 1),
        lambda: client.recv(1000, 1),
        lambda: client.release(1000),
        lambda: client.hello(1),
    ):
        with pytest.raises(_native.Closed):
            call()
    far.close()


def test_a_bad_descriptor_stays_the_callers() -> None:
    with pytest.raises(_native.Error):
        _native.Client(10_000)


def run_in_child(function: Callable[[], None]) -> None:
    """Run `function` in a forked child and raise what it said if it failed."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = b""
        try:
            os.close(read_fd)
            function()
        except BaseException as error:
            words = repr(error).encode()
        finally:
            os.write(write_fd, words)
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        words = file.read()
    os.waitpid(pid, 0)
    assert words == b"", words.decode()


def test_a_forked_child_cannot_speak_on_its_parents_connection(pair: tuple[_native.Client, Peer]) -> None:
    """Systems fact 38: not even while a thread of the parent was inside a call when it forked."""
    client, peer = pair
    handle = client.handle()
    waiting, results = in_thread(lambda: client.recv(handle, DEADLINE).payload)
    wait_until_blocked(waiting)

    def child() -> None:
        for call in (lambda: client.send(1, 1), lambda: client.recv(handle, 1), lambda: client.handle()):
            try:
                call()
            except _native.Closed as error:
                assert "forked" in str(error), error
            else:
                raise AssertionError("the child could use it")
        fd = client.fileno()
        client.close()
        try:
            os.fstat(fd)
        except OSError:
            return
        raise AssertionError("the child still holds its copy")

    run_in_child(child)
    peer.send(Frame(handle, b"parent goes on"))
    finish(waiting)
    assert results == [b"parent goes on"]


def test_a_child_that_drops_its_copy_does_no_harm() -> None:
    near, far = socket.socketpair()
    holder = [_native.Client(near.detach())]

    def child() -> None:
        holder.clear()
        gc.collect()

    run_in_child(child)
    handle = holder[0].handle()
    other = Peer(far)
    other.send(Frame(handle, b"alive"))
    assert holder[0].recv(handle, DEADLINE).payload == b"alive"
    other.close()
