# SPDX-License-Identifier: GPL-3.0-or-later
"""The local connection: ansible-core's own, with modules forked from a warm interpreter on this machine.

Only module payloads are worth an agent here, those of tasks with ``become`` included. Everything else, files
too, is done by ansible-core's own methods: there is no wire to spare.

What a local module sees of its parent is the controller itself: environment, working directory, umask,
session. So an agent belongs to one run, and serves only where all of these are what they were when it was
started; where one differs, another agent is started.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from ansible import constants as C
from ansible.utils.display import Display

from fatline import boot
from fatline.ansible import agents, become, summary, surroundings, versions
from fatline.ansible.connection import Fallback, Job, Link, Result, link_of_this_run
from fatline.ansible.privileged import PrivilegedConnection
from fatline.client import Client

_START_SECONDS = 60

display = Display()


class Connection(PrivilegedConnection, versions.StockLocal):  # type: ignore[misc]
    """This machine, with an agent for module runs."""

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Result:
        """Run a module warm, and everything else as core does."""
        if not self._connected:
            self._connect()
        job = self._fl_job(cmd, in_data, sudoable)
        self._fl_free_accounts(job, sudoable)
        outcome = self._fl_outcome(job)
        if isinstance(outcome, Exception):
            self._fl_say(summary.STOCK, str(outcome), module=job.runs_module)
            outcome = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        result: Result = outcome
        return result

    def _fl_job(self, cmd: str, in_data: bytes | None, sudoable: bool) -> Job:
        meets_agent = bool(in_data or self.become) and not self._fl_excluded()
        link = self._fl_link() if meets_agent else Link(b"")
        situation = self._fl_situation(link, cmd, in_data, sudoable)
        job = Job(link, os.fsencode(cmd), in_data, situation, signals=surroundings.passed_on_signals())
        return self._fl_privileged_job(job) if sudoable else job

    def _fl_link(self) -> Link:
        """Name the surroundings that a module started now would have."""
        try:
            return link_of_this_run([os.fsencode(_shell())], self.cwd)
        except OSError as error:
            # Core has words for a working directory that is not there.
            return Link(b"", trouble=f"what a module would inherit is not certain: {error.strerror}")

    def _fl_address(self) -> str:
        return "this machine"

    def _fl_escalation(self, wrapped: become.Wrapped) -> become.LocalEscalation:
        return become.LocalEscalation(self, wrapped)

    def _fl_become_trouble(self) -> str:
        return super()._fl_become_trouble() or versions.local_become_trouble(self)

    def _fl_prepare(self, recorder: become.Recorder) -> bool:
        # Only a connected plugin knows as whom it runs.
        self._connect()
        return super()._fl_prepare(recorder)

    def _fl_privileged_job(self, job: Job) -> Job:
        privileged = super()._fl_privileged_job(job)
        if privileged.wrapped is not None and os.geteuid() != 0:
            # Only root's signals come to sudo and what it has started.
            privileged = privileged._replace(signals=())
        return privileged

    def _fl_command(self, job: Job, reason: str) -> NoReturn:
        """Leave what is not a module to core: its way is as short as the agent's."""
        raise Fallback(f"{reason} on this machine")

    def _fl_warm(self, job: Job, parsed: Any, command: Any) -> Result:
        display.vvv(f"EXEC {os.fsdecode(job.command)}", host=self.fl_label())
        return super()._fl_warm(job, parsed, command)

    def fl_starter(self, interpreter: str) -> agents.Start:
        """Return the function that boots an agent the way core starts a local command."""

        def start(client: Client, place: agents.Place) -> int:
            launched = boot.launcher([interpreter], "privileged" if place.privileged else "")
            cwd = None if self.cwd is None else os.fsdecode(self.cwd)
            with self._fl_dressed(place, launched) as (command, gate):
                return self._fl_boot(client, place, [_shell(), "-c", command], launched, cwd=cwd, gate=gate)

        return start

    def fl_login_seconds(self) -> float:
        """Return how long an interpreter may take to start."""
        return _START_SECONDS

    def _fl_exec_fields(self) -> dict[str, Any]:
        return {} if surroundings.has_own_session() else {"session": "inherit"}


def _shell() -> str:
    """Return the shell that core runs local commands with."""
    words = C.DEFAULT_EXECUTABLE.split() if C.DEFAULT_EXECUTABLE else []
    return str(words[0]) if words else "/bin/sh"
