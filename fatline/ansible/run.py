# SPDX-License-Identifier: BSD-3-Clause
"""What the processes of one ansible-playbook run share: counts, hosts given up, agents of this run alone."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets

from fatline.ansible import keys
from fatline.ansible.login import LoginShells
from fatline.ansible.shared import AppendLog
from fatline.ansible.summary import BOOTED, Ledger, Totals
from fatline.ansible.surroundings import start_time
from fatline.client import get_client
from fatline.errors import FatlineError


class Run:
    """State of one run, made in its main process before the first fork.

    Behind the connection door alone nothing runs in the main process: then each worker has one of its own,
    which is as good for everything but the summary.
    """

    def __init__(self, *, in_main: bool = False) -> None:
        """Begin a run in this process; `in_main` says that it is the main one."""
        self.main_pid = os.getpid()
        self._in_main = in_main
        self._token = secrets.token_bytes(32)
        self._interpreters = AppendLog()
        self._accounts = AppendLog()
        self._ledger = Ledger()
        self._given_up = AppendLog()
        self._transient = AppendLog()
        self.login_shells = LoginShells()
        self.summary_printed = False

    def count(self, outcome: str, reason: str = "", module: bool = False) -> None:
        """Count one command for the summary."""
        self._ledger.record(outcome, reason, module)

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

    def owner(self, playbook_pid: int) -> int:
        """Return the process that this run lives and ends with; `playbook_pid` is core's word for it."""
        return self.main_pid if self._in_main else playbook_pid

    def secret(self, owner: int) -> bytes:
        """Return the key under which this run's privileged agents are named (rule 9).

        Without a part in the main process the workers share nothing but files: then it is made of this
        user's own secret and the identity of the main process.
        """
        if self._in_main:
            return self._token
        return hmac.digest(keys.secret(), f"{owner} {_life(owner)}".encode(), "sha256")

    def note_interpreter(self, connection: bytes, interpreter: str) -> None:
        """Remember which Python the payloads for a connection ask for."""
        if self.interpreter(connection) != interpreter:
            self._interpreters.append([connection.hex(), interpreter])

    def interpreter(self, connection: bytes) -> str:
        """Return the Python that was asked for last, or an empty string."""
        name = connection.hex()
        found = [str(path) for key, path in self._interpreters.records() if key == name]
        return found[-1] if found else ""

    def opened_account(self, host: bytes) -> None:
        """Note that an agent runs as an ordinary account of a host that the run has become."""
        self._accounts.append(host.hex())

    def may_hold_account(self, host: bytes) -> bool:
        """Say whether there may be such an agent; a run without a part in the main process cannot tell."""
        return not self._in_main or host.hex() in self._accounts.records()

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


def _life(pid: int) -> str:
    """Tell a process from a later one of its number; empty if it is gone."""
    try:
        return str(start_time(pid))
    except OSError:
        return ""


_run: Run | None = None


def begin() -> Run:
    """Begin the run in its main process, before the first fork."""
    global _run
    if _run is None:
        _run = Run(in_main=True)
    return _run


def current() -> Run:
    """Return the run that this process belongs to, begun here if no parent has."""
    global _run
    if _run is None:
        _run = Run()
    return _run
