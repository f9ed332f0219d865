# SPDX-License-Identifier: BSD-3-Clause
"""What the processes of one ansible-playbook run share: counts, hosts given up, agents of this run alone."""

from __future__ import annotations

import contextlib
import os

from fatline.ansible.shared import AppendLog
from fatline.ansible.summary import BOOTED, Ledger, Totals
from fatline.client import get_client
from fatline.errors import FatlineError


class Run:
    """State of one run, made in its main process before the first fork.

    Behind the connection door alone nothing runs in the main process: then each worker has one of its own,
    which is as good for everything but the summary.
    """

    def __init__(self) -> None:
        """Begin a run in this process."""
        self.main_pid = os.getpid()
        self._ledger = Ledger()
        self._given_up = AppendLog()
        self._transient = AppendLog()
        self.summary_printed = False

    def count(self, outcome: str, reason: str = "") -> None:
        """Count one command for the summary."""
        self._ledger.record(outcome, reason)

    def totals(self) -> Totals:
        """Return the counts so far."""
        return self._ledger.totals()

    def give_up(self, key: bytes, reason: str) -> None:
        """Leave what `key` names to the stock plugin for the rest of the run."""
        self._given_up.append([key.hex(), reason])

    def given_up(self, *keys: bytes) -> str:
        """Return why one of these keys was given up, or an empty string."""
        names = {key.hex() for key in keys}
        return next((str(reason) for name, reason in self._given_up.records() if name in names), "")

    def booted(self, context_id: int, *, transient: bool) -> None:
        """Note a new agent; a transient one ends with the run."""
        self.count(BOOTED)
        if transient:
            self._transient.append(context_id)

    def end(self) -> None:
        """Give up the agents that must not outlive the run: the user wants no persistent connections.

        Another run may be using one of them this moment, so they are not cut off.
        """
        context_ids = self._transient.records()
        if not context_ids:
            return
        with contextlib.suppress(FatlineError):
            client = get_client()
            for context_id in context_ids:
                with contextlib.suppress(FatlineError):
                    client.retire(context_id)


_run: Run | None = None


def current() -> Run:
    """Return the run that this process belongs to, begun here if no parent has."""
    global _run
    if _run is None:
        _run = Run()
    return _run
