# SPDX-License-Identifier: BSD-3-Clause
"""Descriptors that a forked child gives back.

Close-on-exec does not help against a fork that execs nothing (a worker, multiprocessing) in the middle of
what another thread does. With a copy of an agent's wire in such a child, neither end would see the other go
for as long as the child lives.

Only numbers are kept here: a socket object would close its number a second time in the child, when that may
be another's already.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

_owned: set[int] = set()

# Held while a descriptor is made or closed, and by whoever forks. Reentrant, for a signal handler that forks.
_lock = threading.RLock()


@contextlib.contextmanager
def prevented() -> Iterator[None]:
    """Only one thread is in here, and none forks meanwhile.

    For the moments in which something else makes descriptors, and for those between the look for a child and
    the signal to it.
    """
    with _lock:
        yield


def pipe() -> tuple[int, int]:
    """A pipe: its read end and its write end."""
    with _lock:
        read, write = os.pipe()
        _owned.update((read, write))
        return read, write


def socketpair() -> tuple[int, int]:
    """Two connected UNIX stream sockets."""
    with _lock:
        near, far = (end.detach() for end in socket.socketpair())
        _owned.update((near, far))
        return near, far


def unix_socket() -> int:
    """An unconnected UNIX stream socket."""
    with _lock:
        fd = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach()
        _owned.add(fd)
        return fd


def own(fd: int) -> None:
    """Take over a descriptor that something else made; -1 is none."""
    if fd >= 0:
        with _lock:
            _owned.add(fd)


def release(fd: int) -> None:
    """Leave a descriptor to somebody else, who closes it from now on."""
    with _lock:
        _owned.discard(fd)


def close(fd: int) -> None:
    """Close a descriptor, whoever made it."""
    with _lock:
        _owned.discard(fd)
        os.close(fd)


def _close_owned() -> None:
    for fd in _owned:
        with contextlib.suppress(OSError):
            os.close(fd)
    _owned.clear()
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_close_owned)
