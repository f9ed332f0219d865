# SPDX-License-Identifier: GPL-3.0-or-later
"""What every connection with an agent at its other end has in common.

A mixin in front of one of ansible-core's connection classes. It decides which way a command goes, runs it
warm or as a command of the agent, copies files through the agent, and says what it did. How an agent is
started, and what core does with a connection that broke, differs from transport to transport: those methods
are marked as the transport's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

from fatline import boot, files, runs
from fatline.ansible import agents, become, keys, payload, run, summary, surroundings, versions
from fatline.ansible.agents import Agent, Place
from fatline.ansible.decide import ARGUMENT_MAX, Decision, Route, Situation, decide, is_startup_variable
from fatline.ansible.switches import disabled
from fatline.client import Client, get_client
from fatline.errors import BootError, Dead, FatlineError, Refused, RemoteError
from fatline.protocol import Death

Result = tuple[int, bytes, bytes]

# Name resolution, a slow login, the start of Python.
_LOGIN_SECONDS = 60

display = Display()


class Link(NamedTuple):
    """The connection that a command takes: it names the agents that may serve it."""

    key: bytes
    """Names the connection; empty where it cannot be named, and so can have no agent."""
    trouble: str = ""
    """Why it cannot be named, in words."""
    persist: int = 0
    """Seconds that its agents stay when nobody is attached."""
    transient: bool = False
    """Whether its agents must not outlive the run."""
    control_path: str | None = None
    """The socket of the ssh master that it shares, if it is Fatline's own."""
    owner: int = 0
    """The process that its agents end with; 0 where they may outlive the run."""

    def place(self, interpreter: str, label: str) -> Place:
        """Say which agent an interpreter on this connection needs."""
        return Place(
            keys.agent_key(self.key, interpreter),
            self.key,
            label,
            self.persist,
            control_path=self.control_path,
            transient=self.transient,
            owner=self.owner,
        )


class Job(NamedTuple):
    """One command as core hands it over."""

    link: Link
    command: bytes
    in_data: bytes | None
    situation: Situation
    core_pipelines: bool = False
    """Whether core has words of its own for a failure of this command."""
    signals: tuple[int, ...] = ()
    """Those that are the module's as well, if they come to this process while it runs."""
    closing: Callable[[], bytes | None] = lambda: b""
    """What the transport itself writes to stderr when a terminal closes; None if that is not certain."""
    wrapped: become.Wrapped | None = None
    """What the become plugin made of it, if it did."""

    @property
    def runs_module(self) -> bool:
        """Whether a module is run: one that is the command's input, or a file that was copied before."""
        command = self.plain_command
        return payload.runs_file(command) or bool(self.in_data and not payload.fills_file(command))

    @property
    def plain_command(self) -> str:
        """The command line as it would be without become."""
        if self.wrapped is not None:
            return become.shell_command(self.wrapped.plain)
        return self.command.decode(errors="surrogateescape")


def link_of_this_run(parts: Iterable[bytes], cwd: bytes | str | None = None) -> Link:
    """Name a connection whose agents inherit from this process, and so belong to this run.

    :param parts: what makes it another connection than others of the run.
    :raises OSError: `cwd`, where its programs are started, is not there.
    """
    key = keys.digest([*parts, *surroundings.inherited(cwd)])
    return Link(key, persist=surroundings.PERSIST, transient=True, owner=surroundings.main_pid())


class Fallback(Exception):
    """The stock plugin's own method does it; nothing of it has been sent."""


class AgentConnection(ConnectionBase):  # type: ignore[misc]
    """A mixin in front of a stock connection class.

    Instances may have been made as core's class and turned into this one (see `activate`), so that nothing
    here relies on `__init__`; and the base is core's, or their layout would differ.
    """

    _fl_pipelining_unset = False

    # ---- the transport's -----------------------------------------------------------------------------

    def fl_label(self) -> str:
        """Name the host, for the user."""
        return str(self._play_context.remote_addr)

    def fl_starter(self, interpreter: str) -> agents.Start:
        """Return the function that boots an agent over this connection."""
        raise NotImplementedError

    def fl_login_seconds(self) -> float:
        """Return how long the start of an agent may take."""
        return float(self._play_context.timeout) + _LOGIN_SECONDS

    def _fl_excluded(self) -> bool:
        """Say whether no command of this connection may ever meet an agent."""
        return disabled() or self._fl_windows()

    def _fl_raise_lost(self, job: Job, stderr: bytes) -> NoReturn:
        """Raise what makes the task UNREACHABLE, and lets nobody run it again (rule 13)."""
        versions.agent_lost(self, stderr)

    def _fl_exec_fields(self) -> dict[str, Any]:
        """Return what the transport adds to the EXEC of a module run."""
        return {}

    def _fl_command_fields(self, job: Job) -> dict[str, Any]:
        """Return what the EXEC of a command says it is."""
        return {"command": job.command}

    def _fl_status(self, result: runs.RunResult) -> int:
        """Return the exit status as the stock plugin tells it: here as subprocess tells a death by signal."""
        return -result.signal if result.signal else result.rc

    def _fl_result(self, job: Job, rc: int, stdout: bytes, stderr: bytes) -> Result:
        """Return what ran, as the stock plugin would."""
        return rc, stdout, stderr

    # ---- options ---------------------------------------------------------------------------------

    def set_options(
        self,
        task_keys: Mapping[str, Any] | None = None,
        var_options: Mapping[str, Any] | None = None,
        direct: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the options as core does, and note whether the user has an opinion about pipelining."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._fl_pipelining_unset = versions.pipelining_is_open(self, var_options)

    def get_option(self, option: str, hostvars: Mapping[str, Any] | None = None) -> Any:
        """Report pipelining as available where the user left it open and it cannot do harm."""
        try:
            value = super().get_option(option, hostvars=hostvars)
        except KeyError:
            # Plugins of collections have no such option; core then looks elsewhere.
            if option != "pipelining" or not self._fl_pipelines():
                raise
            return True
        if option == "pipelining" and not value and self._fl_pipelining_unset:
            return self._fl_pipelines()
        return value

    def _fl_pipelines(self) -> bool:
        return self._fl_pipelining_unset and not self._fl_excluded() and self._fl_may_pipeline()

    def _fl_may_pipeline(self) -> bool:
        """Say whether nothing can go wrong: with become, requiretty refuses pipelining (ansible fact 12)."""
        return self.become is None

    def _fl_windows(self) -> bool:
        return bool(getattr(self._shell, "_IS_WINDOWS", False))

    # ---- running a command -------------------------------------------------------------------------

    def _fl_situation(self, link: Link, cmd: str, in_data: bytes | None, sudoable: bool) -> Situation:
        """Say what is known of a command that a plugin is given as one string."""
        return Situation(
            disabled=disabled(),
            windows=self._fl_windows(),
            become=sudoable and versions.is_wrapped(self.become, cmd),
            become_trouble="there are no privileged agents on this connection",
            given_up=run.current().given_up(link.key) or link.trouble,
            in_data=bool(in_data),
        )

    def _fl_outcome(self, job: Job) -> Result | Exception:
        """Run one command, or return why it is the stock plugin's to run.

        Not raised: from 2.19 on core tells what was being handled when an error was raised as its cause,
        and what stock then raises has no cause.
        """
        try:
            return self._fl_run(job)
        except Fallback as fallback:
            return fallback

    def _fl_run(self, job: Job) -> Result:
        """Run one command warm or through the agent.

        :raises Fallback: it is the stock plugin's to run.
        """
        decision, parsed, command = self._fl_decide(job)
        if decision.route is Route.STOCK:
            raise Fallback(decision.reason)
        if decision.route is Route.WARM and parsed is not None and command is not None:
            return self._fl_warm(job, parsed, command)
        return self._fl_command(job, decision.reason)

    def _fl_decide(self, job: Job) -> tuple[Decision, payload.Payload | None, payload.Command | None]:
        """Choose the way, and take the payload apart if it might run warm."""
        # As good as it can be, until it has been looked at.
        situation = job.situation._replace(
            payload=True, command_shape=True, too_long=len(job.command) > ARGUMENT_MAX
        )
        decision = decide(situation)
        if decision.route is Route.STOCK or not job.in_data:
            return decision, None, None
        parsed = payload.parse(job.in_data, versions.ships, Path(versions.scratch_directory()))
        command = payload.parse_command(job.plain_command)
        if command is not None:
            run.current().note_interpreter(job.link.key, command.interpreter)
        situation = situation._replace(
            payload=parsed is not None,
            command_shape=command is not None,
            startup_variables=_startup_variables(command) if command else (),
        )
        return decide(situation), parsed, command

    # ---- warm runs ---------------------------------------------------------------------------------

    def _fl_warm(self, job: Job, parsed: payload.Payload, command: payload.Command) -> Result:
        shaped = parsed.exec_body(command.interpreter, command.env, chained=bool(command.suffix))
        body = {**shaped, **self._fl_exec_fields()}
        if self._fl_pipelining_unset and (directory := versions.directory_made_by_core(self)):
            body["remote_tmp"] = directory
        if job.wrapped is not None:
            body["sudo_command"] = become.sudo_command(job.wrapped)

        def attempt(client: Client, agent: Agent) -> runs.RunResult:
            return runs.run(
                client,
                agent.context_id,
                body,
                blobs=parsed.blobs,
                stdin=parsed.params,
                secret=True,
                signals=job.signals,
                label=self.fl_label(),
            )

        try:
            result, reason = self._fl_on_agent(job, command.interpreter, attempt)
        except Refused as refused:
            return self._fl_refused(job, f"the agent refused a warm run: {refused.reason}")
        self._fl_say(summary.WARM, reason, cold=not result.warm, module=True)
        return self._fl_result(job, self._fl_status(result), result.stdout, result.stderr)

    def _fl_refused(self, job: Job, reason: str) -> Result:
        """Run otherwise what an agent has turned down."""
        return self._fl_command(job, reason)

    def _fl_on_agent(
        self, job: Job, interpreter: str, attempt: Callable[[Client, Agent], runs.RunResult]
    ) -> tuple[runs.RunResult, str]:
        """Run on the agent of an interpreter, once more where rule 13 allows it; also say what was found.

        :raises Refused: nothing ran, and a fresh agent would not help.
        """
        before = ""
        for last in (False, True):
            client, agent = self._fl_obtain(job, interpreter)
            agents.answers.forget(client)
            try:
                result = self._fl_attempt(job, client, agent, attempt)
                agents.answers.note(client, agent)
                return result, _warmth(agent, result) + before
            except Refused as refused:
                if last or not refused.stale:
                    raise
                before = f", the one before was stale: {refused.reason}"
                with contextlib.suppress(FatlineError):
                    client.retire(agent.context_id)
            except Dead as dead:
                if last:
                    raise Fallback(f"no agent takes the call: {dead.reason}") from dead
                before = f", the one before was gone: {dead.reason}"
        raise AssertionError("the second attempt returns or raises")

    def _fl_attempt(
        self, job: Job, client: Client, agent: Agent, attempt: Callable[[Client, Agent], runs.RunResult]
    ) -> runs.RunResult:
        """Try a call once. Refused and Dead are passed on only where nothing ran (rule 13)."""
        try:
            return attempt(client, agent)
        except Refused:
            raise
        except Dead as dead:
            if dead.code in (Death.NOT_SENT, Death.REJECTED):
                raise
            self._fl_lost(job, dead.reason)
        except FatlineError as error:
            self._fl_lost(job, str(error))

    def _fl_lost(self, job: Job, reason: str) -> NoReturn:
        """The connection broke under a command that may have run: UNREACHABLE (rule 13)."""
        self._fl_say(summary.COMMAND, f"lost: {reason}", module=job.runs_module)
        self._fl_raise_lost(job, f"fatline: {reason}".encode())

    # ---- commands through an attached agent --------------------------------------------------------

    def _fl_command(self, job: Job, reason: str) -> Result:
        """Run a command line on an agent that is there already; there is none for `raw` (ansible fact 13)."""
        client, agent = self._fl_find(job.link, reason)
        wants_tty = job.situation.wants_tty
        closing = job.closing() if wants_tty else b""
        if closing is None:
            raise Fallback("what ssh says when the terminal closes is not certain")
        body: dict[str, Any] = {"mode": "command", **self._fl_command_fields(job)}
        if wants_tty:
            body |= {"pty": True, "term": os.environ.get("TERM", "")}

        def attempt(on: Client, target: Agent) -> runs.RunResult:
            return runs.run(on, target.context_id, body, stdin=job.in_data, label=self.fl_label())

        self._fl_try_login_shell(client, agent, body, reason)
        try:
            result = self._fl_attempt(job, client, agent, attempt)
        except (Refused, Dead) as error:
            raise Fallback(f"{reason}; the agent did not take it: {error}") from error
        self._fl_say(summary.COMMAND, reason, cold=True, module=job.runs_module)
        return self._fl_result(job, self._fl_status(result), result.stdout, result.stderr + closing)

    def _fl_try_login_shell(self, client: Client, agent: Agent, body: Mapping[str, Any], reason: str) -> None:
        """Leave commands to the stock plugin where start-up files make something else of their own work."""
        if "command" not in body:
            return
        terminal = {name: body[name] for name in ("pty", "term") if name in body}

        def probe(question: Mapping[str, Any]) -> runs.RunResult:
            return runs.run(client, agent.context_id, {**question, **terminal}, label=self.fl_label())

        try:
            settled = run.current().login_shells.may_serve(agent.context_id, bool(terminal), probe)
        except FatlineError as error:
            raise Fallback(f"{reason}; {error}") from error
        if not settled:
            raise Fallback(f"{reason}; start-up files of the login shell do not bear to be read twice")

    def _fl_find(self, link: Link, reason: str) -> tuple[Client, Agent]:
        if not link.key:
            raise Fallback(f"{reason}; {link.trouble}")
        try:
            client = get_client()
            agent = agents.find(client, link.key, link.control_path)
        except FatlineError as error:
            raise Fallback(f"{reason}; {error}") from error
        if agent is None:
            raise Fallback(f"{reason}, and no agent yet")
        return client, agent

    # ---- booting -----------------------------------------------------------------------------------

    def _fl_boot(
        self,
        client: Client,
        place: Place,
        argv: Sequence[str | bytes],
        launched: boot.Launcher,
        **settings: Any,
    ) -> int:
        """Boot an agent with a program of this machine, and hand it to the mux; return its context id."""
        with _owner_pidfd(place) as owner:
            booted = boot.start_agent(
                client,
                place.key,
                argv,
                launched,
                label=place.label,
                deadline=time.monotonic() + self.fl_login_seconds(),
                alias=place.alias,
                persist=place.persist,
                owner_pidfd=owner,
                **settings,
            )
        run.current().booted(booted.context_id, transient=place.transient)
        return booted.context_id

    def _fl_obtain(self, job: Job, interpreter: str) -> tuple[Client, Agent]:
        """Attach to the agent of an interpreter, or boot it."""
        return self._fl_obtain_at(job.link.place(interpreter, self.fl_label()), interpreter)

    def _fl_obtain_at(self, place: Place, interpreter: str) -> tuple[Client, Agent]:
        given_up = run.current().given_up(place.key)
        if given_up:
            raise Fallback(given_up)
        try:
            client = get_client()
            agent = agents.obtain(client, place, self.fl_starter(interpreter), self.fl_login_seconds())
        except BootError as error:
            self._fl_boot_failed(place, error)
        except FatlineError as error:
            raise Fallback(str(error)) from error
        return client, agent

    def _fl_boot_failed(self, place: Place, error: BootError) -> NoReturn:
        """A target that cannot have an agent is the stock plugin's to serve."""
        words = f"no agent: {error.reason or error.stage}"
        if place.privileged:
            words = f"become: {words}"
        run.current().give_up(_given_up_by(place, error), words)
        display.vvv(f"fatline: {error}", host=self.fl_label())
        raise Fallback(words) from error

    # ---- files -------------------------------------------------------------------------------------

    def _fl_transfer(self, link: Link, action: str, in_path: str, out_path: str) -> None:
        """Copy a file through an attached agent; `action` is ``put`` or ``get``.

        A transfer is not a task: repeating it changes nothing, so core's own way, with core's own error
        messages, is right after any failure.
        """
        reason = f"file {action}"
        client, agent = self._fl_find(link, reason)
        try:
            if action == "put":
                files.put_file(
                    client, agent.context_id, in_path, os.fsencode(out_path), label=self.fl_label()
                )
            else:
                files.fetch_file(
                    client, agent.context_id, os.fsencode(in_path), out_path, label=self.fl_label()
                )
        except (FatlineError, RemoteError, OSError) as error:
            raise Fallback(f"{reason}: {type(error).__name__}") from error
        self._fl_say(summary.COMMAND, reason, cold=True)

    # ---- the rest ----------------------------------------------------------------------------------

    def _fl_retire_agents(self, *names: bytes) -> None:
        """Let no later task use this connection's agents."""
        with contextlib.suppress(FatlineError):
            client = get_client()
            count = sum(agents.retire_all(client, name) for name in names)
            display.vvv(f"fatline: reset: {count} agents retired", host=self.fl_label())

    def _fl_say(self, outcome: str, reason: str, *, cold: bool = False, module: bool = False) -> None:
        """One line at -vvv (never a warning: rule 12), one count for the summary."""
        run.current().count(outcome, "" if outcome == summary.WARM else reason, module)
        word = "cold" if cold else outcome
        display.vvv(f"fatline: {word}: {reason}", host=self.fl_label())


def _given_up_by(place: Place, error: BootError) -> bytes:
    """Name what a failed boot is about: this interpreter, or all of them.

    A program that ended may have ended because the interpreter is no Python, and the next one may be. What
    did not end in time would cost each its time; what a become plugin refuses would be asked for again.
    """
    if error.stage == boot.STAGE_INTERPRETER:
        return place.key
    if place.privileged:
        return place.identity
    return place.alias if error.rc is None else place.key


@contextlib.contextmanager
def _owner_pidfd(place: Place) -> Iterator[int]:
    """Open the process that an agent is to end with; -1 where it is to outlive it."""
    if not place.owner:
        yield -1
        return
    try:
        descriptor = os.pidfd_open(place.owner)
    except OSError as error:
        raise Fallback(f"the run's main process cannot be watched: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _startup_variables(command: payload.Command) -> tuple[str, ...]:
    names = map(os.fsdecode, command.env)
    return tuple(name for name in names if is_startup_variable(name, command.interpreter))


def _warmth(agent: Agent, result: runs.RunResult) -> str:
    """Say what a module run found on the target."""
    if agent.booted:
        return "first run of a new agent"
    return "modules held by the agent" if result.warm else "new modules for the agent"
