# SPDX-License-Identifier: BSD-3-Clause
"""Exit codes of the ``fatline`` command, the same for every sub-command."""

from __future__ import annotations

import sys

OK = 0
FAILED = 1
"""It ran, and the answer is bad: a playbook failed, recaps differ, a check found a fault."""
USAGE = 2
"""The command line was wrong."""
CANNOT_RUN = 3
"""Something it needs is missing here."""
INTERRUPTED = 130
"""Ctrl-C."""

EXPLAINED = """\
exit codes:
  0  done, all well
  1  it ran, and the answer is bad (a playbook failed, recaps differ, a check found a fault)
  2  wrong command line
  3  something it needs is missing here; the message says what to do
  130  interrupted
"""


def complain(message: str, code: int) -> int:
    """Print `message` to stderr and return `code`."""
    print(f"fatline: {message}", file=sys.stderr)
    return code
