# SPDX-License-Identifier: GPL-3.0-or-later
"""The ssh connection: ansible-core's own, with warm runs below its retries and error handling.

Everything that decides what is run, as whom and with which ssh is inherited. Overridden is the one method
that starts ssh and waits for it (`_bare_run`), its counterpart for files, and what has to agree with them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ansible.utils.display import Display

from fatline import boot, files, mux, runs
from fatline.ansible import agents, keys, payload, run, sshargs, summary, versions
from fatline.ansible.agents import Agent, Place
from fatline.ansible.decide import Decision, Route, Situation, decide, is_startup_variable
from fatline.ansible.sshargs import SshPlan
from fatline.client import Client, get_client
from fatline.errors import BootError, Dead, FatlineError, Refused, RemoteError
from fatline.protocol import Death

Result = tuple[int, bytes, bytes]

# Beyond ssh's own ConnectTimeout: name resolution, a slow login, the start of Python.
_LOGIN_SECONDS = 60

# Somebody at the terminal types a passphrase or confirms a host key (ansible fact 16).
_PROMPT_SECONDS = 600

# Where the user wants no persistent connections, an agent must bridge the gap between two tasks; the main
# process closes it at the end of the run.
_TRANSIENT_PERSIST = 15

# ssh binds a temporary name, 17 characters longer, and a socket's path has 108.
_CONTROL_PATH_MAX = 90

_SSHPASS_ERRORS = range(1, 7)

display = Display()


@dataclass(frozen=True)
class _Job:
    """One command as core hands it over."""

    plan: SshPlan
    in_data: bytes | None
    sudoable: bool
    checkrc: bool


class _Fallback(Exception):
    """The command goes through the stock plugin; nothing of it has been sent."""


class _SshFailed(Exception):
    """ssh could not connect or log in; nothing has been sent."""

    def __init__(self, rc: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(rc)
        self.result = (rc, stdout, stderr)


def disabled() -> bool:
    """Say whether the user has switched Fatline off."""
    return os.environ.get("FATLINE_DISABLE", "0") not in ("", "0")


class Connection(versions.StockConnection):  # type: ignore[misc]
    """ssh with an agent at the other end.

    Instances may have been made as core's class and turned into this one (see `activate`), so that nothing
    here relies on `__init__`.
    """

    _fl_plan: SshPlan | None = None
    _fl_pipelining_unset = False
    _fl_never: bool | None = None

    # ---- options ---------------------------------------------------------------------------------

    def set_options(
        self,
        task_keys: Mapping[str, Any] | None = None,
        var_options: Mapping[str, Any] | None = None,
        direct: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the options as core does, and note whether the user has an opinion about pipelining."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._fl_never = None
        self._fl_pipelining_unset = versions.option_origin(self, "pipelining", var_options) == "default"

    def set_option(self, option: str, value: Any) -> None:
        """Set one option as core does; it may be one that decides whether an agent may be met."""
        super().set_option(option, value)
        self._fl_never = None

    def get_option(self, option: str, hostvars: Mapping[str, Any] | None = None) -> Any:
        """Report pipelining as available where the user left it open and it cannot do harm.

        With become it can: requiretty refuses a pipelined sudo (ansible fact 12).
        """
        value = super().get_option(option, hostvars=hostvars)
        if option == "pipelining" and not value and self._fl_pipelining_unset:
            return self.become is None and not self._fl_excluded()
        return value

    def _fl_excluded(self) -> bool:
        """Say whether no command of this connection may ever meet an agent."""
        if self._fl_never is None:
            # Core asks several times a task, and taking the arguments apart costs 0.3 ms.
            self._fl_never = disabled() or self._fl_windows() or sshargs.forces_tty(self._fl_user_arguments())
        return self._fl_never

    def _fl_windows(self) -> bool:
        return bool(getattr(self._shell, "_IS_WINDOWS", False))

    def _fl_user_arguments(self) -> list[bytes]:
        texts = (self.get_option(name) for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"))
        return [word.encode() for text in texts if text for word in self._split_ssh_args(text)]

    # ---- core's ssh command line -------------------------------------------------------------------

    def _build_command(self, binary: str, subsystem: str, *other_args: bytes | str) -> list[bytes]:
        """Build core's command line, with Fatline's ControlPath where core would have added its own.

        So every program that core starts for this host, ``ssh -O`` included, rides the agent's connection.
        """
        argv: list[bytes] = super()._build_command(binary, subsystem, *other_args)
        if disabled():
            return argv
        if subsystem == "ssh":
            self._fl_plan = self._fl_take_apart(argv, len(other_args))
        elif (plan := self._fl_bare_plan()).own_control_path:
            self._fl_use_control_path(argv, plan.key)
        return argv

    def _fl_take_apart(self, argv: list[bytes], added: int) -> SshPlan | None:
        executable = os.fsencode(self.get_option("ssh_executable"))
        if executable not in argv:
            return None
        plan = SshPlan(argv, argv.index(executable), len(argv) - added)
        try:
            plan.key = self._fl_connection_key(plan.options)
        except (FatlineError, OSError) as error:
            # Core calls this on its way to ssh: what is raised here would fail the task.
            plan.trouble = str(error)
            return plan
        plan.own_control_path = self._fl_use_control_path(argv[: plan.options_end], plan.key, argv)
        return plan

    def _fl_connection_key(self, options: list[bytes]) -> bytes:
        password = versions.connection_password(self)
        return keys.connection_key(
            options,
            self.host,
            environ=os.environ,
            password=password,
            secret=b"" if password is None else keys.secret(),
            scratch=versions.scratch_directory(),
        )

    def _fl_use_control_path(self, options: list[bytes], key: bytes, argv: list[bytes] | None = None) -> bool:
        """Replace core's ControlPath in place; leave one that the user has chosen alone (ansible fact 17)."""
        index = sshargs.control_path_index(options)
        if index is None or self.get_option("control_path"):
            return False
        path = keys.control_path(key)
        if path is None or len(path) > _CONTROL_PATH_MAX:
            return False
        (options if argv is None else argv)[index] = sshargs.control_path_option(path)
        return True

    def _fl_bare_plan(self) -> SshPlan:
        """Build an ssh command line only to read it."""
        kept = self._fl_plan
        with versions.own_sshpass_pipe(self):
            self._build_command(self.get_option("ssh_executable"), "ssh", self.host, "")
            versions.close_sshpass_pipe(self)
        plan, self._fl_plan = self._fl_plan, kept
        return plan or SshPlan([], 0, 0)

    # ---- running a command -------------------------------------------------------------------------

    def _bare_run(
        self, cmd: list[bytes], in_data: bytes | None, sudoable: bool = True, checkrc: bool = True
    ) -> Result:
        """Run one command: warm, through the agent, or as core does."""
        plan = self._fl_plan
        if plan is None or plan.argv is not cmd:
            return self._fl_stock(cmd, in_data, sudoable, checkrc)
        try:
            result = self._fl_run(_Job(plan, in_data, sudoable, checkrc))
        except _Fallback as fallback:
            self._fl_say(summary.STOCK, str(fallback))
            self._fl_hold(plan)
            return self._fl_stock(cmd, in_data, sudoable, checkrc)
        except _SshFailed as failed:
            result = failed.result
            versions.close_sshpass_pipe(self)
            versions.ssh_failed(self, cmd, result[0], result[2], self._fl_core_pipelines(in_data, checkrc))
            return result
        versions.close_sshpass_pipe(self)
        return result

    def _fl_hold(self, plan: SshPlan) -> None:
        """Stay attached to the agent whose ssh carries a stock command, for as long as this process lives.

        A mux that nobody uses ends after a while, and takes the ssh processes of its agents with it.
        """
        if disabled() or not plan.own_control_path:
            return
        with contextlib.suppress(FatlineError):
            if mux.socket_path().exists():
                agents.find(get_client(), plan.key, None)

    def _fl_stock(self, cmd: list[bytes], in_data: bytes | None, sudoable: bool, checkrc: bool) -> Result:
        result: Result = super()._bare_run(cmd, in_data, sudoable=sudoable, checkrc=checkrc)
        return result

    def _fl_run(self, job: _Job) -> Result:
        decision, parsed, command = self._fl_decide(job)
        if decision.route is Route.STOCK:
            raise _Fallback(decision.reason)
        if decision.route is Route.WARM and parsed is not None and command is not None:
            return self._fl_warm(job, parsed, command)
        return self._fl_command(job, decision.reason)

    def _fl_decide(self, job: _Job) -> tuple[Decision, payload.Payload | None, payload.Command | None]:
        """Choose the way, and take the payload apart if it might run warm."""
        situation = self._fl_situation(job)
        decision = decide(situation)
        if decision.route is Route.STOCK or not job.in_data:
            return decision, None, None
        parsed = payload.parse(job.in_data, versions.ships)
        command = payload.parse_command(job.plan.command.decode(errors="surrogateescape"))
        names = [os.fsdecode(name) for name in command.env] if command else []
        situation = dataclasses.replace(
            situation,
            payload=parsed is not None,
            command_shape=command is not None,
            startup_variables=tuple(name for name in names if is_startup_variable(name)),
        )
        return decide(situation), parsed, command

    def _fl_situation(self, job: _Job) -> Situation:
        plan = job.plan
        return Situation(
            disabled=disabled(),
            windows=self._fl_windows(),
            user_tty=sshargs.forces_tty(plan.options),
            become=job.sudoable and self.become is not None,
            extra_ssh_arguments=not plan.is_command,
            given_up=plan.trouble or run.current().given_up(plan.key),
            in_data=bool(job.in_data),
            wants_tty=plan.wants_tty,
        )

    # ---- warm runs ---------------------------------------------------------------------------------

    def _fl_warm(self, job: _Job, parsed: payload.Payload, command: payload.Command) -> Result:
        body = parsed.exec_body(command.interpreter, command.env)

        def attempt(client: Client, agent: Agent) -> runs.RunResult:
            return runs.run(
                client,
                agent.context_id,
                body,
                blobs=parsed.blobs,
                stdin=parsed.params,
                secret=True,
                label=self.host,
            )

        try:
            result, reason = self._fl_on_agent(job, command.interpreter, attempt)
        except Refused as refused:
            return self._fl_command(job, f"the agent refused a warm run: {refused.reason}")
        self._fl_say(summary.WARM, reason, cold=not result.warm)
        return self._fl_result(job, result.rc, result.stdout, result.stderr)

    def _fl_on_agent(
        self, job: _Job, interpreter: str, attempt: Callable[[Client, Agent], runs.RunResult]
    ) -> tuple[runs.RunResult, str]:
        """Run on the agent of an interpreter, once more where rule 13 allows it; also say what was found.

        :raises Refused: nothing ran, and a fresh agent would not help.
        """
        before = ""
        for last in (False, True):
            client, agent = self._fl_obtain(job, interpreter)
            try:
                result = self._fl_attempt(job, client, agent, attempt)
                return result, _warmth(agent, result) + before
            except Refused as refused:
                if last or not refused.stale:
                    raise
                before = f", the one before was stale: {refused.reason}"
                with contextlib.suppress(FatlineError):
                    client.retire(agent.context_id)
            except Dead as dead:
                if last:
                    raise _Fallback(f"no agent takes the call: {dead.reason}") from dead
                before = f", the one before was gone: {dead.reason}"
        raise AssertionError("the second attempt returns or raises")

    def _fl_attempt(
        self, job: _Job, client: Client, agent: Agent, attempt: Callable[[Client, Agent], runs.RunResult]
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

    def _fl_lost(self, job: _Job, reason: str) -> NoReturn:
        """The connection broke under a command that may have run: UNREACHABLE (rule 13)."""
        self._fl_say(summary.COMMAND, f"lost: {reason}")
        versions.close_sshpass_pipe(self)
        versions.run_lost(
            self, f"fatline: {reason}".encode(), self._fl_core_pipelines(job.in_data, job.checkrc)
        )

    # ---- commands through an attached agent --------------------------------------------------------

    def _fl_command(self, job: _Job, reason: str) -> Result:
        """Run a command line on an agent that is there already; there is none for `raw` (ansible fact 13)."""
        client, agent = self._fl_find(job.plan, reason)
        closing = sshargs.closing_words(job.plan) if job.plan.wants_tty else b""
        if closing is None:
            raise _Fallback("what ssh says when the terminal closes is not certain")
        body: dict[str, Any] = {"mode": "command", "command": job.plan.command}
        if job.plan.wants_tty:
            body |= {"pty": True, "term": os.environ.get("TERM", "")}

        def attempt(on: Client, target: Agent) -> runs.RunResult:
            return runs.run(on, target.context_id, body, stdin=job.in_data, label=self.host)

        try:
            result = self._fl_attempt(job, client, agent, attempt)
        except (Refused, Dead) as error:
            raise _Fallback(f"{reason}; the agent did not take it: {error}") from error
        self._fl_say(summary.COMMAND, reason, cold=True)
        return self._fl_result(job, result.rc, result.stdout, result.stderr + closing)

    def _fl_find(self, plan: SshPlan, reason: str) -> tuple[Client, Agent]:
        if not plan.key:
            raise _Fallback(f"{reason}; {plan.trouble or 'not a plain ssh command line'}")
        try:
            client = get_client()
            agent = agents.find(client, plan.key, _control_path(plan))
        except FatlineError as error:
            raise _Fallback(f"{reason}; {error}") from error
        if agent is None:
            raise _Fallback(f"{reason}, and no agent yet")
        return client, agent

    def _fl_result(self, job: _Job, rc: int, stdout: bytes, stderr: bytes) -> Result:
        """Return what ran, as `_bare_run` would; exit status 255 is UNREACHABLE, but never run again."""
        if rc == 255 and versions.is_connection_failure(stdout, stderr):
            core_pipelines = self._fl_core_pipelines(job.in_data, job.checkrc)
            if core_pipelines or int(self.get_option("reconnection_retries")):
                versions.close_sshpass_pipe(self)
                versions.run_lost(self, stderr, core_pipelines)
        return rc, stdout, stderr

    def _fl_core_pipelines(self, in_data: bytes | None, checkrc: bool) -> bool:
        """Say whether core has words of its own for a failure of this command: it has for sent input.

        Without Fatline there would be none where the user left pipelining open.
        """
        return bool(in_data and checkrc) and not self._fl_pipelining_unset

    # ---- booting -----------------------------------------------------------------------------------

    def _fl_obtain(self, job: _Job, interpreter: str) -> tuple[Client, Agent]:
        """Attach to the agent of an interpreter, or boot it."""
        place = self.fl_place(job.plan, interpreter)
        given_up = run.current().given_up(place.key)
        if given_up:
            raise _Fallback(given_up)
        try:
            client = get_client()
            agent = agents.obtain(client, place, self.fl_starter(interpreter), self.fl_login_seconds())
        except BootError as error:
            self._fl_boot_failed(place, error)
        except FatlineError as error:
            raise _Fallback(str(error)) from error
        return client, agent

    def fl_place(self, plan: SshPlan, interpreter: str) -> Place:
        """Say which agent an interpreter on this connection needs."""
        persist = sshargs.persist_seconds(plan.options)
        key = keys.agent_key(plan.key, interpreter)
        return Place(
            key,
            plan.key,
            self.host,
            persist or _TRANSIENT_PERSIST,
            control_path=_control_path(plan),
            transient=not persist,
        )

    def fl_plan(self) -> SshPlan:
        """Return core's ssh command line for this connection, without a command."""
        return self._fl_bare_plan()

    def fl_starter(self, interpreter: str, extra: tuple[bytes, ...] = ()) -> agents.Start:
        """Return the function that boots an agent over this connection, with `extra` ssh options in front."""

        def start(client: Client, place: Place) -> int:
            return self._fl_start(client, place, interpreter, extra)

        return start

    def _fl_start(self, client: Client, place: Place, interpreter: str, extra: tuple[bytes, ...]) -> int:
        """Boot an agent; leave out, one by one, the options that this ssh turns out not to know."""
        unknown: set[bytes] = set()
        while True:
            try:
                context_id = self._fl_spawn(client, place, interpreter, extra, frozenset(unknown))
            except BootError as error:
                option = sshargs.rejected_option(error.stderr)
                if not option or option in unknown:
                    raise
                unknown.add(option)
                continue
            run.current().booted(context_id, transient=place.transient)
            return context_id

    def _fl_spawn(
        self,
        client: Client,
        place: Place,
        interpreter: str,
        extra: tuple[bytes, ...],
        unknown: frozenset[bytes],
    ) -> int:
        """Start ssh as core would start it, with core's password mechanism, and boot an agent over it."""
        kept = self._fl_plan
        launched = boot.launcher([interpreter])
        try:
            with versions.own_sshpass_pipe(self):
                executable = self.get_option("ssh_executable")
                self._build_command(executable, "ssh", self.host, launched.command)
                plan = self._fl_plan
                if plan is None:
                    raise BootError(place.label, boot.STAGE_START, 0.0, reason="not a plain ssh command line")
                with versions.password_channel(self) as channel:
                    booted = boot.start_agent(
                        client,
                        place.key,
                        [*channel.prefix, *sshargs.agent_argv(plan, extra, unknown)],
                        launched,
                        label=place.label,
                        deadline=time.monotonic() + self.fl_login_seconds(),
                        env=channel.environ,
                        pass_fds=channel.pass_fds,
                        new_session=channel.new_session,
                        alias=place.alias,
                        persist=place.persist,
                    )
                    return booted.context_id
        finally:
            self._fl_plan = kept

    def fl_login_seconds(self) -> float:
        """Return how long a login may take, somebody typing included."""
        waits = _PROMPT_SECONDS if _has_terminal() else _LOGIN_SECONDS
        return float(self.get_option("timeout")) + waits

    def _fl_boot_failed(self, place: Place, error: BootError) -> NoReturn:
        """ssh's own failure is core's to report; a target that cannot have an agent is stock's to serve."""
        if error.rc is not None and self._fl_is_ssh_failure(error):
            self._fl_say(summary.STOCK, "ssh failed")
            raise _SshFailed(error.rc, error.stdout, error.stderr) from error
        key = place.key if error.stage == boot.STAGE_INTERPRETER else place.alias
        run.current().give_up(key, f"no agent: {error.reason or error.stage}")
        display.vvv(f"fatline: {error}", host=self.host)
        raise _Fallback(f"no agent: {error.reason or error.stage}") from error

    def _fl_is_ssh_failure(self, error: BootError) -> bool:
        if error.stage == boot.STAGE_CONNECT:
            return True
        return versions.connection_password(self) is not None and error.rc in _SSHPASS_ERRORS

    # ---- files -------------------------------------------------------------------------------------

    def _file_transport_command(self, in_path: str, out_path: str, sftp_action: str) -> Result:
        """Copy a file through an attached agent, or as core does.

        A transfer is not a task: repeating it changes nothing, so core's own way, with core's own error
        messages, is right after any failure.
        """
        try:
            self._fl_transfer(in_path, out_path, sftp_action)
        except _Fallback as fallback:
            self._fl_say(summary.STOCK, str(fallback))
            result: Result = super()._file_transport_command(in_path, out_path, sftp_action)
            return result
        self._fl_say(summary.COMMAND, f"file {sftp_action}", cold=True)
        return 0, b"", b""

    def _fl_transfer(self, in_path: str, out_path: str, sftp_action: str) -> None:
        reason = f"file {sftp_action}"
        remote = out_path if sftp_action == "put" else in_path
        if self._fl_excluded() or not remote.startswith("/"):
            raise _Fallback(f"{reason} of a path that is not absolute")
        client, agent = self._fl_find(self._fl_bare_plan(), reason)
        b_remote = os.fsencode(remote)
        try:
            if sftp_action == "put":
                files.put_file(client, agent.context_id, in_path, b_remote, label=self.host)
            else:
                files.fetch_file(client, agent.context_id, b_remote, out_path, label=self.host)
        except (FatlineError, RemoteError, OSError) as error:
            raise _Fallback(f"{reason}: {type(error).__name__}") from error

    # ---- the rest ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """Let no later task use this connection's agents, then reset it as core does (ansible fact 19)."""
        self.host = self.get_option("host") or self._play_context.remote_addr
        if not disabled() and (key := self._fl_bare_plan().key):
            with contextlib.suppress(FatlineError):
                count = agents.retire_all(get_client(), key)
                display.vvv(f"fatline: reset: {count} agents retired", host=self.host)
        super().reset()

    def _fl_say(self, outcome: str, reason: str, *, cold: bool = False) -> None:
        """One line at -vvv (never a warning: rule 12), one count for the summary."""
        run.current().count(outcome, reason if outcome == summary.STOCK else "")
        word = "cold" if cold else outcome
        display.vvv(f"fatline: {word}: {reason}", host=self.host)


def _control_path(plan: SshPlan) -> str | None:
    return keys.control_path(plan.key) if plan.own_control_path else None


def _has_terminal() -> bool:
    """Say whether ssh could ask somebody for a passphrase."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _warmth(agent: Agent, result: runs.RunResult) -> str:
    """Say what a module run found on the target."""
    if agent.booted:
        return "first run of a new agent"
    return "modules held by the agent" if result.warm else "new modules for the agent"
