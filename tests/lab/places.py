# SPDX-License-Identifier: BSD-3-Clause
"""Where the lab keeps what is expensive to make, and how it runs commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

NICENESS = 19
SHOWN_LINES = 12


class LabError(Exception):
    """A part of the lab cannot be had here. The message says why, for a table's cell."""


def cache() -> Path:
    """The directory that outlives runs: $FATLINE_LAB, else ~/.cache/fatline-lab."""
    named = os.environ.get("FATLINE_LAB")
    path = Path(named).absolute() if named else Path.home() / ".cache" / "fatline-lab"
    if path.is_relative_to(CHECKOUT):
        raise LabError(f"FATLINE_LAB must lie outside of the checkout, not at {path}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """Report progress, apart from the table on stdout."""
    print(text, file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path],
    what: str,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    seconds: float = 1800,
) -> str:
    """Run a command at the lowest priority; its output, or LabError with its last lines if it fails."""
    try:
        done = subprocess.run(
            ["nice", "-n", str(NICENESS), *map(str, command)],
            env={**os.environ, **(environment or {})},
            input=stdin or "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{what}: not done within {seconds:.0f} s") from None
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-SHOWN_LINES:])
        raise LabError(f"{what}: status {done.returncode}:\n{tail}")
    return done.stdout


@contextlib.contextmanager
def building(path: Path, recipe: str) -> Iterator[bool]:
    """Say whether `path` is to be built; it is gone then, and counts as built when the block ends well.

    Of two runs that want the same thing one waits.
    """
    stamp = path.with_name(path.name + ".recipe")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and stamp.exists() and stamp.read_text() == recipe:
            yield False
            return
        stamp.unlink(missing_ok=True)
        if path.exists():
            shutil.rmtree(path)
        yield True
        stamp.write_text(recipe)
