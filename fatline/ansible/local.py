# SPDX-License-Identifier: GPL-3.0-or-later
"""The local connection: ansible-core's own, with modules forked from a warm interpreter on this machine.

Only module payloads are worth an agent here. Everything else, files included, is done by ansible-core's own
methods: there is no wire to spare. A task under ``become`` that core has wrapped is such a thing too.

What a local module sees of its parent is the controller itself: environment, working directory, umask,
session. So an agent belongs to one run, and serves only where all of these are what they were when it was
started; where one differs, another agent is started.
"""

from __future__ import annotations

import os
import time
from typing import Any, NoReturn

from ansible import constants as C
from ansible.utils.display import Display

from fatline import boot
from fatline.ansible import agents, run, summary, surroundings, versions
from fatline.ansible.connection import AgentConnection, Fallback, Job, Link, Result, link_of_this_run
from fatline.ansible.decide import Situation
from fatline.ansible.switches import disabled
from fatline.client import Client

_START_SECONDS = 60

display = Display()


class Connection(AgentConnection, versions.StockLocal):  # type: ignore[misc]
    """This machine, with an agent for module runs."""

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Result:
        """Run a module warm, and everything else as core does."""
        if not self._connected:
            self._connect()
        try:
            return self._fl_run(self._fl_job(cmd, in_data, sudoable))
        except Fallback as fallback:
            self._fl_say(summary.STOCK, str(fallback))
            result: Result = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
            return result

    def _fl_job(self, cmd: str, in_data: bytes | None, sudoable: bool) -> Job:
        link = self._fl_link() if in_data and not self._fl_excluded() else Link(b"")
        situation = Situation(
            disabled=disabled(),
            windows=self._fl_windows(),
            become=sudoable and versions.is_wrapped(self.become, cmd),
            become_trouble="there are no privileged agents on this connection",
            given_up=run.current().given_up(link.key) or link.trouble,
            in_data=bool(in_data),
        )
        return Job(link, os.fsencode(cmd), in_data, situation, signals=surroundings.passed_on_signals())

    def _fl_link(self) -> Link:
        """Name the surroundings that a module started now would have."""
        try:
            return link_of_this_run([os.fsencode(_shell())], self.cwd)
        except OSError as error:
            # Core has words for a working directory that is not there.
            return Link(b"", trouble=f"what a module would inherit is not certain: {error.strerror}")

    def _fl_command(self, job: Job, reason: str) -> NoReturn:
        """Leave what is not a module to core: its way is as short as the agent's."""
        raise Fallback(f"{reason} on this machine")

    def _fl_warm(self, job: Job, parsed: Any, command: Any) -> Result:
        display.vvv(f"EXEC {os.fsdecode(job.command)}", host=self.fl_label())
        return super()._fl_warm(job, parsed, command)

    def fl_starter(self, interpreter: str) -> agents.Start:
        """Return the function that boots an agent the way core starts a local command."""

        def start(client: Client, place: agents.Place) -> int:
            launched = boot.launcher([interpreter])
            booted = boot.start_agent(
                client,
                place.key,
                [_shell(), "-c", launched.command],
                launched,
                label=place.label,
                deadline=time.monotonic() + self.fl_login_seconds(),
                cwd=None if self.cwd is None else os.fsdecode(self.cwd),
                alias=place.alias,
                persist=place.persist,
            )
            run.current().booted(booted.context_id, transient=place.transient)
            return booted.context_id

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
