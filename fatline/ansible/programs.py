# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that run each command with a program on this machine: docker, kubectl, chroot and so on.

The plugins come from collections. Fatline stands in front of each with a subclass made when it is first seen,
and starts an agent as the plugin would start a command: with the command line that the plugin itself makes.
What differs between them is told by a `Program`, in the table of `fatline.ansible.transports`.

Such a plugin connects anew for every command, so nothing of its connections outlives a run, and neither do
the agents.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fatline import boot, runs
from fatline.ansible import agents, summary, surroundings
from fatline.ansible.connection import AgentConnection, Fallback, Job, Link, Result, link_of_this_run
from fatline.client import Client
from fatline.errors import BootError

_START_SECONDS = 60


@dataclass(frozen=True)
class CommandLine:
    """What a plugin would start for a command."""

    argv: Sequence[str | bytes]
    env: Mapping[str, str] | None = None
    afterwards: Callable[[], object] = lambda: None
    """To be called when the program has been started, and has read what it needs."""
    lasting: bool = True
    """Whether the next command of this connection has the same command line, but for the command."""


@dataclass(frozen=True)
class Program:
    """How one plugin runs a command, given as core gives it: one string."""

    command_line: Callable[[Any, str], CommandLine]
    """What it starts on this machine."""
    inside: Callable[[Any, str], list[str]]
    """What the program then executes at its other end."""
    identity: Callable[[Any], str] = field(default=lambda _connection: "")
    """Tells what is there from something else under the same name, where the command line does not."""
    is_here: bool = False
    """Whether what it executes stays in this process's session, and gets its signals."""
    takes_input: bool = True
    """Whether the plugin's own method hands input on."""
    tells_wait_status: bool = False
    """Whether it returns what wait(2) gives, where an exit status is expected."""


class ProgramConnection(AgentConnection):
    """A mixin in front of a collection's plugin."""

    fl_program: Program

    # Where there is no agent, the plugin's own method takes the module on its input, or `_fl_stock` does.
    has_pipelining = True

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Result:
        """Run a command: warm, through the agent, or as the plugin does."""
        if not self._connected:
            self._connect()
        if not isinstance(cmd, str):
            # nsenter's own file transfer: not a command of core's.
            return self._fl_stock(cmd, in_data, sudoable)
        outcome = self._fl_outcome(self._fl_job(cmd, in_data, sudoable))
        if isinstance(outcome, Exception):
            self._fl_say(summary.STOCK, str(outcome), module=bool(in_data))
            return self._fl_stock(cmd, in_data, sudoable)
        return outcome

    def _fl_stock(self, cmd: str, in_data: bytes | None, sudoable: bool) -> Result:
        if in_data and not self.fl_program.takes_input:
            line = self.fl_program.command_line(self, cmd)
            ended = subprocess.run(
                list(line.argv), input=in_data, capture_output=True, env=line.env, check=False
            )
            line.afterwards()
            return ended.returncode, ended.stdout, ended.stderr
        result: Result = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return result

    def _fl_job(self, cmd: str, in_data: bytes | None, sudoable: bool) -> Job:
        link = Link(b"") if self._fl_excluded() else self._fl_link()
        situation = self._fl_situation(link, cmd, in_data, sudoable)
        signals = surroundings.passed_on_signals() if self.fl_program.is_here else ()
        return Job(link, os.fsencode(cmd), in_data, situation, signals=signals)

    def _fl_link(self) -> Link:
        """Name the place that this plugin's command line leads to."""
        line = self.fl_program.command_line(self, "")
        line.afterwards()
        if not line.lasting:
            return Link(b"", trouble="the command line changes from command to command")
        try:
            identity = self.fl_program.identity(self)
            words = [self.transport, identity, *line.argv, *(f"{k}={v}" for k, v in (line.env or {}).items())]
            return link_of_this_run([os.fsencode(word) for word in words])
        except OSError as error:
            return Link(b"", trouble=f"what the command line leads to is not certain: {error.strerror}")

    def _fl_command_fields(self, job: Job) -> dict[str, Any]:
        argv = self.fl_program.inside(self, os.fsdecode(job.command))
        return {"argv": [os.fsencode(word) for word in argv]}

    def _fl_exec_fields(self) -> dict[str, Any]:
        keeps = self.fl_program.is_here and not surroundings.has_own_session()
        return {"session": "inherit"} if keeps else {}

    def _fl_status(self, result: runs.RunResult) -> int:
        if self.fl_program.tells_wait_status:
            return result.signal or result.rc << 8
        return super()._fl_status(result)

    def fl_starter(self, interpreter: str) -> agents.Start:
        """Return the function that boots an agent the way the plugin runs a command."""

        def start(client: Client, place: agents.Place) -> int:
            launched = boot.launcher([interpreter])
            # In the form that all of core's commands have: some plugins take it apart.
            line = self.fl_program.command_line(self, f"/bin/sh -c {shlex.quote(launched.command)}")
            try:
                return self._fl_boot(client, place, line.argv, launched, env=line.env)
            finally:
                line.afterwards()

        return start

    def fl_login_seconds(self) -> float:
        """Return how long the program and an interpreter may take to start."""
        return _START_SECONDS

    def _fl_boot_failed(self, place: agents.Place, error: BootError) -> NoReturn:
        """Give up only what would fail in the same way again: a container may yet be started."""
        if error.rc is not None and error.stage not in (boot.STAGE_INTERPRETER, boot.STAGE_SOURCE):
            raise Fallback(f"no agent: {error.reason or error.stage}") from error
        super()._fl_boot_failed(place, error)


class _Asked(BaseException):
    """A plugin has come to the point of starting its program."""

    def __init__(self, argv: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        self.argv = argv
        self.settings = settings


def asked_of(function: Callable[..., Any], *arguments: Any) -> CommandLine:
    """Return the command line that a plugin's method would start, without starting it.

    For plugins that make it and start it in one method: the command line stays the plugin's own, whatever
    its version adds. Workers have one thread, so nobody else asks for a process meanwhile.
    """
    try:
        with _nothing_started():
            function(*arguments)
    except _Asked as asked:
        argv = asked.argv
        if asked.settings.get("shell"):
            argv = [asked.settings.get("executable") or "/bin/sh", "-c", argv]
        return CommandLine(list(argv), asked.settings.get("env"))
    raise Fallback("the plugin starts no program")


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    def refuse(argv: Any, **settings: Any) -> NoReturn:
        raise _Asked(argv, settings)

    kept = subprocess.Popen
    subprocess.Popen = refuse  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        subprocess.Popen = kept  # type: ignore[misc]
