# SPDX-License-Identifier: BSD-3-Clause
"""What a program would inherit from this process, if it were started now.

An agent on this machine gives its modules what it has inherited itself, so it may only serve where that is
the same: it belongs to one run, and to one set of surroundings.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

# Such agents end with the run's main process. Until then they bridge the gap between two tasks.
PERSIST = 15


def inherited(cwd: bytes | str | None = None) -> Iterator[bytes]:
    """Yield what tells one set of surroundings from another; `cwd` is where a program would be started.

    :raises OSError: that directory is not there.
    """
    main = main_pid()
    yield f"{main} {start_time(main)} {os.geteuid()} {os.getegid()} {os.getgroups()} {_umask()}".encode()
    if not has_own_session():
        yield f"{os.getsid(0)} {os.getpgrp()}".encode()
    directory = os.stat("." if cwd is None else cwd)
    yield f"{directory.st_dev} {directory.st_ino}".encode()
    # By its name as well: a shell puts it into PWD.
    yield b"" if cwd is None else os.fsencode(cwd)
    for name in sorted(os.environb):
        yield name + b"=" + os.environb[name]


def main_pid() -> int:
    """Return the process id of ansible-playbook itself, in it or in one of its workers."""
    return os.getppid() if multiprocessing.parent_process() is not None else os.getpid()


def has_own_session() -> bool:
    """Say whether this worker has been given a session of its own, as ansible-core 2.19 and later do."""
    return os.getsid(0) == os.getpid()


def passed_on_signals() -> tuple[int, ...]:
    """Name the signals that core passes on to a worker's programs: it kills the worker's process group.

    An agent's children are not in that group. In ansible-core before 2.19 nobody passes anything on: modules
    are in the process group of ansible-playbook, and so are the agent and its children.
    """
    return (signal.SIGINT, signal.SIGTERM) if has_own_session() else ()


def start_time(pid: int) -> int:
    """Tell a process from an earlier one with its number.

    :raises OSError: there is none.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
