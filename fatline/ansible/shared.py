# SPDX-License-Identifier: BSD-3-Clause
"""A small append-only record shared by a process and its forks.

The main process opens a file without a name before its first fork. Every record is one write in
append mode, which the kernel keeps whole whoever else writes, so workers that never talk to each other
can add to it and anybody can read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

_RECORD_MAX = 2048


class AppendLog:
    """Records written by any fork, read by any fork. A record is a value that JSON can hold."""

    def __init__(self) -> None:
        """Open the file; call it before the first fork."""
        self._fd = _unnamed_file()
        self._read: tuple[int, list[Any]] = 0, []
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)

    def append(self, record: Any) -> None:
        """Add a record. One that does not fit, or a full disk, loses it silently: nothing rests on it."""
        line = json.dumps(record).encode() + b"\n"
        if len(line) > _RECORD_MAX:
            return
        try:
            os.write(self._fd, line)
        except OSError:
            return

    def records(self) -> Sequence[Any]:
        """Return all records so far, oldest first."""
        begin, known = self._read
        size = os.fstat(self._fd).st_size
        if size > begin:
            new = os.pread(self._fd, size - begin, begin)
            # The writer of the last one may have got half-way: a page at a time becomes visible.
            end = new.rfind(b"\n") + 1
            known = known + [json.loads(line) for line in new[:end].splitlines()]
            self._read = begin + end, known
        return known

    def close(self) -> None:
        """Forget the records, as far as this process is concerned."""
        os.close(self._fd)


def _unnamed_file() -> int:
    """Open a file that no other process can find: in memory, or on a disk where that is not to be had."""
    with contextlib.suppress(AttributeError, OSError):
        return os.memfd_create("fatline")
    with tempfile.TemporaryFile(prefix="fatline-") as file:
        return os.dup(file.fileno())
