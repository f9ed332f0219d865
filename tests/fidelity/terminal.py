# SPDX-License-Identifier: BSD-3-Clause
"""Run a program on a terminal of its own, and type answers to what it asks.

    terminal.py ANSWERS PROGRAM [ARGUMENT...]

ANSWERS is a JSON list of pairs: a regular expression for the end of a question, and what is typed then.
Each is typed once, in this order. What the terminal shows goes to standard output; the exit status is the
program's, or 1 where a question was not asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import sys
from collections.abc import Sequence


def _converse(terminal: int, answers: Sequence[tuple[str, str]]) -> bool:
    """Type each answer once its question is seen; say whether all were asked."""
    waiting, seen = list(answers), ""
    # The terminal is gone (EIO) when nobody has it open any more.
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            os.write(1, data)
            seen += data.decode(errors="replace")
            if waiting and re.search(waiting[0][0] + r"\s*\Z", seen):
                os.write(terminal, waiting.pop(0)[1].encode() + b"\n")
                seen = ""
    return not waiting


def main(answers: str, *command: str) -> int:
    """Run it; return the exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    complete = _converse(terminal, json.loads(answers))
    _, status = os.waitpid(pid, 0)
    if not complete:
        print("a question was not asked", file=sys.stderr)
    return os.waitstatus_to_exitcode(status) or (0 if complete else 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
