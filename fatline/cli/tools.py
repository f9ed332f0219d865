# SPDX-License-Identifier: BSD-3-Clause
"""Other programs that the command line starts, and values that options share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path


def ansible_command(name: str) -> list[str]:
    """The start of the command line for ``ansible``, ``ansible-playbook``, ...

    It is the one of the running interpreter, whatever PATH says: that is the ansible-core in which Fatline is
    installed.
    """
    script = Path(sys.executable).parent / name
    if script.exists():
        return [str(script)]
    return [sys.executable, "-m", "ansible", name.removeprefix("ansible-").replace("ansible", "adhoc")]


def default_python() -> str:
    """The interpreter for modules on a loopback target: the system's, as on a real one."""
    return "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not too small."""

    def number(text: str) -> int:
        if (value := int(text)) < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}")
        return value

    return number
