# SPDX-License-Identifier: BSD-3-Clause
"""Threads and processes of the test itself, for several test files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE = 10.0


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run `function`; its result or exception ends up in the list."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def finish(thread: threading.Thread) -> None:
    """Wait until the thread has ended."""
    thread.join(DEADLINE)
    assert not thread.is_alive(), "the thread is still waiting"


def wait_until_blocked(thread: threading.Thread) -> None:
    """Wait until a thread sleeps in the kernel."""
    deadline = time.monotonic() + DEADLINE
    path = f"/proc/self/task/{thread.native_id}/stat"
    while time.monotonic() < deadline:
        with open(path) as file:
            if file.read().rpartition(")")[2].split()[0] == "S":
                return
    raise AssertionError("the thread did not come to rest")


def children_of_this_process() -> set[str]:
    """Other tests may have servers running, so there can be some."""
    lists = (path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))
    return {pid for pids in lists for pid in pids}
