# SPDX-License-Identifier: BSD-3-Clause
"""``fatline mux``: look at the muxes of this user, or stop them.

Neither starts one. There may be several: a mux belongs to one build of Fatline, so that an upgrade leaves
the old one to its idle end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fatline import _native
from fatline.cli import exits
from fatline.client import Client
from fatline.errors import FatlineError
from fatline.mux import runtime_directory

HELLO_SECONDS = 2.0
END_SECONDS = 10.0
POLL_SECONDS = 0.01
MASTER_SECONDS = 5.0

DESCRIPTION = """\
The mux is one process per user. The first ansible-playbook that needs it starts it, and it ends by itself
when it has been idle for the time of ControlPersist (60 s unless ssh_args say otherwise). Stopping it closes
the connections to all hosts; tasks that run now end as UNREACHABLE.
"""


@dataclass(frozen=True)
class Found:
    """A mux that answered."""

    path: Path
    client: Client


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``mux`` to the command line."""
    parser = commands.add_parser(
        "mux",
        help="look at the running mux, or stop it",
        description=DESCRIPTION,
        epilog=exits.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="print what the mux says of itself; exit 1 if there is none")
    status.set_defaults(run=_status)
    stop = actions.add_parser("stop", help="end the mux and close its connections; exit 0 if there is none")
    stop.set_defaults(run=_stop)


def running(directory: Path) -> Iterator[Found]:
    """Connect to every mux in `directory`; sockets that nobody answers on are left alone."""
    for path in _sockets(directory):
        with contextlib.suppress(OSError, FatlineError, _native.Error), _connected(path) as client:
            yield Found(path, client)


def memory_kb(directory: Path) -> int:
    """What the muxes in `directory` occupy by their own account, in KiB.

    They cannot be asked through /proc, because a process that handles secrets is not dumpable.
    """
    return sum(int(figures(found.client.status()).get("pss_kb", 0)) for found in running(directory))


def figures(status: str) -> dict[str, str]:
    """The lines ``name value`` of a status as a mapping; the lines about agents are not among them."""
    lines = (line.partition(" ") for line in status.splitlines())
    return {name: value for name, _, value in lines if name != "agent"}


def _sockets(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("mux-*") if path.is_socket())


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[Client]:
    native = _native.Client(_connect(path))
    client = Client(native)
    try:
        native.hello(HELLO_SECONDS)
        yield client
    finally:
        client.close()


def _connect(path: Path) -> int:
    """A descriptor connected to `path`, which may be longer than a socket address."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
            return connection.detach()
    finally:
        os.close(directory)


def _status(_options: argparse.Namespace) -> int:
    directory = runtime_directory()
    any_found = False
    for found in running(directory):
        any_found = True
        print(f"socket {found.path}", found.client.status().rstrip(), sep="\n")
    if not any_found:
        print(f"no mux is running (looked in {directory})")
    return exits.OK if any_found else exits.FAILED


def _stop_one(path: Path) -> str:
    """Stop the mux behind `path`; returns what happened, which is nothing if there is none."""
    try:
        with _connected(path) as client:
            pid = int(figures(client.status()).get("pid", 0))
            client.stop()
        # Its ssh processes end with it. Before that, the next run could still ride one by its control socket.
        if not _ended(pid):
            return f"{path} was told to stop, but process {pid} still runs"
    except (ConnectionRefusedError, FileNotFoundError):
        return ""
    except (OSError, FatlineError, _native.Error):
        pid = _process_of(path)
        if not pid:
            return f"{path} does not answer, and no process of it was found"
        os.kill(pid, signal.SIGKILL)
        return f"killed process {pid}, which did not answer on {path}"
    return f"stopped {path}"


def _ended(pid: int) -> bool:
    """Whether the process ended within the deadline."""
    deadline = time.monotonic() + END_SECONDS
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _process_of(path: Path) -> int:
    """The mux that was started for `path`, which is among its arguments; 0 if there is none."""
    wanted = os.fsencode(path)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == os.geteuid() and wanted in (entry / "cmdline").read_bytes().split(
                b"\0"
            ):
                return int(entry.name)
    return 0


def close_masters(directory: Path) -> int:
    """Tell the ssh masters that stock commands left in the background to end; returns how many did.

    ControlPersist keeps them, on the control paths that agents ride as well.
    """
    count = 0
    for path in directory.glob("cp-*"):
        # The host is not looked at: the control path says which master is meant.
        command = ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", "fatline"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, check=False, timeout=MASTER_SECONDS)
            count += done.returncode == 0
    return count


def stop_all(directory: Path) -> list[str]:
    """Stop the muxes of a directory and what stock commands left there; returns what happened."""
    words = [said for path in _sockets(directory) if (said := _stop_one(path))]
    masters = close_masters(directory)
    if masters:
        words.append(f"closed {masters} ssh {'connection' if masters == 1 else 'connections'}")
    return words


def _stop(_options: argparse.Namespace) -> int:
    directory = runtime_directory()
    words = stop_all(directory)
    print(*words, sep="\n", end="\n" if words else "")
    if not words:
        print(f"no mux was running (looked in {directory})")
    return exits.OK
