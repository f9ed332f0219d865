# SPDX-License-Identifier: BSD-3-Clause
"""What a forked child keeps of the descriptors of other threads: nothing (systems fact 38)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit_support import DEADLINE, finish, in_thread

from fatline import boot, forks, mux


@contextlib.contextmanager
def forked_child() -> Iterator[int]:
    """A child that has come back from fork() and only lives."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.close(write)
        signal.pause()
        os._exit(0)
    os.close(write)
    try:
        assert os.read(read, 1) == b""
        os.close(read)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def descriptors(pid: int) -> set[str]:
    """What the descriptors of a process lead to, its ordinary files aside."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry))
    return {target for target in found if target.startswith(("socket:", "pipe:"))}


def test_a_programs_input_ends_although_a_forked_child_lives() -> None:
    wire = boot.spawn(["cat"])
    with forked_child():
        wire.close()
        assert boot.reap(wire.pid, DEADLINE) == 0


def test_a_childs_copy_of_the_listening_socket_is_given_back(tmp_path: Path) -> None:
    listener = mux._listen(tmp_path / "socket")
    link = os.readlink(f"/proc/self/fd/{listener}")
    with forked_child() as pid:
        assert link not in descriptors(pid)
    forks.close(listener)


def test_what_was_left_to_somebody_else_is_kept() -> None:
    read, write = forks.pipe()
    forks.release(write)
    link = os.readlink(f"/proc/self/fd/{write}")
    with forked_child() as pid:
        entries = {entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()}
        assert str(write) in entries and str(read) not in entries
        assert link in descriptors(pid)
    forks.close(read)
    os.close(write)


def test_a_signal_handler_may_fork_at_any_moment() -> None:
    """Even while this thread makes a descriptor."""
    with forks._lock, forked_child() as pid:
        assert pid > 0


@pytest.mark.parametrize("make", ["spawn", "connect"])
def test_forks_in_the_middle_of_anything(make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the fork comes, the child has nothing that was opened meanwhile."""
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    enough = threading.Event()

    def spawn() -> None:
        while not enough.is_set():
            boot.spawn(["true"]).end()

    def connect() -> None:
        while not enough.is_set():
            mux.connect(DEADLINE).close()

    keeper = mux.connect(DEADLINE)
    before = descriptors(os.getpid())
    threads = [in_thread(spawn if make == "spawn" else connect) for _ in range(3)]
    try:
        for _ in range(60):
            with forked_child() as pid:
                assert descriptors(pid) <= before
    finally:
        enough.set()
        for thread, results in threads:
            finish(thread)
            assert results == [None]
        handle = keeper.handle()
        keeper.send(0, mux._native.HANDLES["STOP"], reply_to=handle)
        keeper.close()
