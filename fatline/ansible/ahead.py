# SPDX-License-Identifier: GPL-3.0-or-later
"""Connect the hosts of a batch before their first task reaches them.

A worker first templates its task and builds the module's payload, and hosts beyond the number of forks wait
for a worker at all. A helper forked from the main process boots the agents meanwhile; a worker that comes
early waits for the agent's lease instead of logging in a second time. It is a process, not a thread, because
the main process forks a worker for every task and a fork should find no other thread in the middle of
anything (systems fact 38).

Limits (ansible fact 33): only hosts that the play's first task will reach anyway, never with a password or
a prompt, a bounded number of logins at a time, and no further login after one that was refused.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fatline import mux
from fatline.ansible import agents, run, versions
from fatline.ansible.ssh import Connection
from fatline.ansible.sshargs import SshPlan, persist_seconds
from fatline.client import get_client
from fatline.errors import BootError, FatlineError, MuxError

# systems fact 16: sshd's MaxStartups begins to drop logins at 10. Hosts may share a first hop, so all of
# them together count as one.
LOGINS_AT_A_TIME = 8

_MASTER_SECONDS = 60

# At the end of a run, for a mux that was started in it and still does not serve.
_START_SECONDS = 1.0
_BATCH_MODE = (b"-o", b"BatchMode=yes")

_helpers: list[int] = []
_seen: set[str] = set()
_starting: list[mux.Starting] = []


def _start_mux() -> None:
    """Have the mux start while connections are built; who needs it before it serves waits for the rest."""
    with contextlib.suppress(FatlineError, OSError):
        # Where another process holds the lock, that one starts it.
        starting = mux.start(timeout=0.0)
        if starting is not None:
            _starting.append(starting)


def connect(play: Any, play_context: Any) -> None:
    """Start connecting the hosts of a play's current batch; returns at once."""
    reap()
    if play_context is None or play._uuid in _seen or not _reaches_hosts_at_once(play):
        return
    # With two doors open both call.
    _seen.add(play._uuid)
    hosts = versions.batch(play)
    if not hosts:
        return
    _start_mux()
    pid = os.fork()
    if pid:
        _helpers.append(pid)
        return
    try:
        _become_helper()
        _connect_all(play, play_context, hosts)
    finally:
        os._exit(0)


def stop() -> None:
    """End what is still connecting, at the end of the run."""
    for pid in _helpers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in _helpers:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    _helpers.clear()
    for starting in _starting:
        with contextlib.suppress(MuxError):
            starting.words(time.monotonic() + _START_SECONDS)
    _starting.clear()


def reap() -> None:
    """Wait for what has ended."""
    _starting[:] = [starting for starting in _starting if not starting.poll()]
    for pid in list(_helpers):
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended = pid
        if ended:
            _helpers.remove(pid)


def _become_helper() -> None:
    """Keep quiet: what fails here is told by the task that meets it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _reaches_hosts_at_once(play: Any) -> bool:
    """Say whether the play's first task goes to every host of the batch without a condition.

    Whether a loop has items is found out for each host (`_connect_all`).
    """
    if versions.gathers_facts(play):
        return True
    task = versions.first_task(play)
    return task is not None and not (task.when or task.run_once or task.delegate_to)


def _connect_all(play: Any, play_context: Any, hosts: Sequence[Any]) -> None:
    # Set by a login that was refused: another try may lock the account.
    refused = threading.Event()
    main_pid = os.getppid()
    first = None if versions.gathers_facts(play) else versions.first_task(play)
    begins_with_loop = first is not None and first.loops
    with ThreadPoolExecutor(LOGINS_AT_A_TIME) as pool:
        for number, host in enumerate(hosts):
            if refused.is_set() or os.getppid() != main_pid:
                return
            # Templating is not safe in threads, so connections are built here and only used there.
            with contextlib.suppress(Exception):
                if begins_with_loop and not versions.first_loop_has_items(play, host):
                    continue
                connection, interpreter = versions.connection_for(play, play_context, host)
                if play.become or play_context.become or versions.pipelining_is_off():
                    # Its modules do not come in a form that an agent runs warm.
                    interpreter = None
                if interpreter is None and number < versions.forks():
                    # Its worker logs in at this moment; without a lease to wait for, both would.
                    continue
                if isinstance(connection, Connection) and not versions.connection_password(connection):
                    pool.submit(_login, connection, interpreter, refused)


def _login(connection: Connection, interpreter: str | None, refused: threading.Event) -> None:
    if refused.is_set():
        return
    plan = connection.fl_plan()
    if run.current().given_up(plan.key):
        return
    if interpreter is None:
        _start_master(plan, refused)
        return
    try:
        place = connection.fl_place(plan, interpreter)
        start = connection.fl_starter(interpreter, _BATCH_MODE)
        agents.obtain(get_client(), place, start, connection.fl_login_seconds())
    except BootError as error:
        _note_refusal(error.stderr, refused)
    except FatlineError:
        return


def _start_master(plan: SshPlan, refused: threading.Event) -> None:
    """Log in without running anything: which Python the host has is only known after discovery."""
    if not plan.own_control_path or not persist_seconds(plan.options):
        return
    at = plan.program + 1
    command = [*plan.argv[:at], *_BATCH_MODE, *plan.argv[at : plan.options_end], b"-f", b"-N", plan.tail[0]]
    # A file, not a pipe: the master that goes to the background keeps it open.
    with tempfile.TemporaryFile() as stderr, contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            timeout=_MASTER_SECONDS,
            check=False,
        )
        stderr.seek(0)
        _note_refusal(stderr.read(), refused)


def _note_refusal(stderr: bytes, refused: threading.Event) -> None:
    if b"Permission denied" in stderr or b"Too many authentication failures" in stderr:
        refused.set()
