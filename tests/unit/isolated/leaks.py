# SPDX-License-Identifier: BSD-3-Clause
"""Does the extension give back what it takes? Run in a process of its own by test_native_leaks.py.

Each exercise is repeated in windows of many rounds. Allocators keep what they were given for a while, so
single windows may grow; a leak grows in every one. Errors are exercised as well: that is where things are
forgotten.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable

from fatline import _native

WINDOWS = 6
ROUNDS = 300
# Less than 200 bytes a round: one forgotten message, payload or event list is more.
ALLOWED_BYTES = 56 * 1024


def frame(handle: int, payload: bytes) -> bytes:
    """One frame from the mux."""
    return struct.pack("!2sBBIIIIIII", b"\xfa\x71", 1, 0, 0, 0, 0, handle, 0, 0, len(payload)) + payload


def client_round() -> None:
    """Create, fill, use, and drop a client that still holds messages and kept-back bytes."""
    near, far = socket.socketpair()
    client = _native.Client(near.detach())
    handles = [client.handle() for _ in range(20)]
    far.sendall(b"".join(frame(handle, bytes(2000)) for handle in handles))
    client.recv(handles[0], 10)
    client.send(1, 204, [bytes(1000)] * 20, more=True)
    with contextlib.suppress(_native.Timeout):
        client.recv(handles[0], 0)
    for wrong in (lambda: client.send(1, 204, ["text"]), lambda: client.send(1, 204, b"", fds=["x"])):
        with contextlib.suppress(TypeError):
            wrong()
    waiting = threading.Thread(target=follow, args=(client, handles[0]))
    waiting.start()
    follow(client, client.handle())
    waiting.join()
    if handles[0] % 2:
        client.close()
    far.close()


def follow(client: _native.Client, handle: int) -> None:
    """Wait in vain, as one of two."""
    with contextlib.suppress(_native.Error):
        client.recv(handle, 0.001)


class Text(str):
    """Text with a dictionary for the position."""


class Items(list):
    """Likewise."""


class Mapping(dict):
    """Likewise."""


class Tags(dict):
    """Tags by their type."""


class Origin:
    """A position as a tag."""

    __slots__ = ("column", "line", "path")


class TaggedText(str):
    """Text with a slot for its tags."""

    __slots__ = ("tags",)


class TaggedItems(list):
    """Likewise."""

    __slots__ = ("tags",)


class TaggedMapping(dict):
    """Likewise."""

    __slots__ = ("tags",)


class Number(int):
    """A number; it cannot have slots."""


YAML = "- &a {key: [1, 'two', 1000, 1.5, .inf], key: 5}\n- *a\n- {<<: *a, self: &s [*s]}\n- 2001-12-14\n" + (
    "- {some: thing}\n" * 200
)


def yaml_round() -> None:
    """Whole, broken, beyond a limit, and where a callback or a key raises."""
    origin = Origin()
    origin.path = "/x"
    tags = ("tags", Tags, Origin, ("path",), "line", "column")
    for loader, source in (
        (_native.YamlLoader((Text, None, None, Items, Mapping), attributes=("s", "l", "c")), "/x"),
        (_native.YamlLoader((TaggedText, Number, None, TaggedItems, TaggedMapping), tags=tags), origin),
    ):
        loader.load(YAML, source, lambda *arguments: arguments, extra_tags=(Tags(),))
        for limits in ({"max_nodes": 50}, {"max_depth": 1}, {"max_bytes": 3}):
            with contextlib.suppress(_native.YamlError):
                loader.load(YAML, source, print, **limits)
        for wrong in (YAML + "]", YAML + "- !unknown x", YAML + "- {{a: b}: c}"):
            with contextlib.suppress(_native.YamlError, TypeError):
                loader.load(wrong, source, lambda *arguments: arguments)
        with contextlib.suppress(ZeroDivisionError):
            loader.load(YAML, source, lambda *_: 1 / 0)
    for types in ((int,) * 5, (Text, None, None, Items), (Text, None, None, Items, TaggedMapping)):
        with contextlib.suppress(TypeError):
            _native.YamlLoader(types, tags=tags)


def spawn_round() -> None:
    """Failures only: a success is a process."""
    for arguments in ({"cwd": "/nonexistent"}, {"env": ["A=1", 5]}, {"pass_fds": [0, "x"]}, {"cwd": b"\0"}):
        with contextlib.suppress(OSError, TypeError, ValueError):
            _native.spawn(["/bin/true", "argument"], **arguments)


def rss() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure() -> tuple[int, int]:
    """Memory and descriptors in use."""
    gc.collect()
    return rss(), len(os.listdir("/proc/self/fd"))


def growth(exercise: Callable[[], None]) -> tuple[int, int]:
    """Bytes and descriptors that one window leaves behind."""
    memory, descriptors = measure()
    for _ in range(ROUNDS):
        exercise()
    memory_now, descriptors_now = measure()
    return memory_now - memory, descriptors_now - descriptors


def main() -> int:
    """Run the exercise that the command line names."""
    exercise = {"client": client_round, "yaml": yaml_round, "spawn": spawn_round}[sys.argv[1]]
    windows = []
    for _ in range(WINDOWS):
        windows.append(growth(exercise))
        if windows[-1][0] <= ALLOWED_BYTES and windows[-1][1] == 0:
            return 0
    print(f"bytes and descriptors left behind by each {ROUNDS} rounds: {windows}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
