# SPDX-License-Identifier: BSD-3-Clause
"""Helpers that the end-to-end tests share. Waiting is always for a condition, with a deadline."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from fatline import runs
from fatline.cli.bench.relay import Relay
from fatline.cli.sandbox import PrivateSshd
from fatline.client import Client

# For anything that is to happen at once: generous, because test machines are busy.
DEADLINE = 20.0

# Rule 2: how soon a loss must be told.
LOSS_SECONDS = 2.0

T = TypeVar("T")

MakeSshd = Callable[..., PrivateSshd]
"""What the fixture `make_sshd` gives."""

MakeRelay = Callable[..., Relay]
"""What the fixture `make_relay` gives."""


def wait_for(what: str, condition: Callable[[], T], timeout: float = DEADLINE) -> T:
    """The first true value of `condition`; fails with `what` when there is none in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not: it is only its parent's to collect."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_gone(pids: Iterable[int], timeout: float = DEADLINE) -> None:
    """Wait until none of the processes runs."""
    for pid in pids:
        wait_for(f"process {pid} to end: {command_line(pid)}", lambda pid=pid: not is_alive(pid), timeout)  # type: ignore[misc]


def children(pid: int) -> list[int]:
    """The processes that a process with one thread has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> str:
    """What a process was started as; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def mux_pid(client: Client) -> int:
    """The pid of the mux, as it says itself."""
    return int(status_value(client, "pid"))


def status_value(client: Client, name: str) -> str:
    """One value of the mux's status."""
    match = re.search(rf"^{name} (.*)$", client.status(), re.MULTILINE)
    assert match, f"no {name!r} in the mux's status"
    return match[1]


def agent_pid(client: Client, context_id: int) -> int:
    """The pid of an agent that runs on this machine."""
    return int(shell(client, context_id, "echo $PPID").strip())


def shell(client: Client, context_id: int, command: str, timeout: float = DEADLINE) -> bytes:
    """The output of a shell command run by an agent; it must succeed."""
    body = {"mode": "command", "argv": [b"/bin/sh", b"-c", command.encode()]}
    result = runs.run(client, context_id, body, timeout=timeout)
    assert result.rc == 0, result
    return result.stdout


def interpreters() -> list[str]:
    """Every Python on this machine that an agent supports, by its path."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted(glob.glob(f"{root}/versions/*/bin"))
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(glob.glob(f"{folder}/python[23].*")):
            name = os.path.basename(path)
            if re.fullmatch(r"python(2\.7|3\.([5-9]|1[0-4]))", name) and "shims" not in path:
                found.setdefault(name, path)
    return [path for path in found.values() if _works(path)]


def _works(path: str) -> bool:
    try:
        return subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode == 0
    except OSError:
        return False
