# SPDX-License-Identifier: BSD-3-Clause
"""Whether a login shell that an agent starts finds what one that sshd starts would find.

sshd starts the login shell of every command in an environment that no start-up file has touched. An agent
is itself below a login shell, and the shell that it starts for a command reads those files a second time.
Most files come to the same then; one that appends to PATH does not. So it is tried: the agent says
what it would pass on, then has the login shell read its files and say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fatline.ansible.shared import AppendLog
from fatline.runs import RunResult

# All that a shell could pass on to a command, in words that every login shell takes as they are. The marks
# keep out what start-up files print.
_SAY = (
    "/bin/sh -c 'echo FATLINE-BEGIN; env -0 && pwd && umask && ulimit -a && ulimit -Ha && echo FATLINE-END'"
)
_SAID = re.compile(rb"FATLINE-BEGIN\r?\n(.*?)FATLINE-END\r?\n", re.DOTALL)

PROBE = [b"/bin/sh", b"-c", f'{_SAY}; "$SHELL" -c "{_SAY}"'.encode()]
"""A program that an agent runs as it is: what is passed on, without the login shell and with it."""


class LoginShells:
    """Which agents' login shells have been tried in this run, and what came out."""

    def __init__(self) -> None:
        """Know of none; make it before the first fork."""
        self._verdicts = AppendLog()

    def may_serve(
        self, context_id: int, wants_tty: bool, probe: Callable[[Mapping[str, Any]], RunResult]
    ) -> bool:
        """Say whether an agent's login shell is as good as sshd's; `probe` runs an EXEC body on that agent.

        Start-up files may look whether there is a terminal, so that with one it is another question.
        """
        key = [context_id, wants_tty]
        for known, verdict in self._verdicts.records():
            if known == key:
                return bool(verdict)
        verdict = is_settled(probe({"mode": "command", "argv": PROBE}).stdout)
        self._verdicts.append([key, verdict])
        return verdict


def is_settled(output: bytes) -> bool:
    """Say whether the probe's two answers are the same."""
    # A shell may put its variables into another order.
    said = [sorted(text.split(b"\0")) for text in _SAID.findall(output)]
    return len(said) == 2 and said[0] == said[1]
