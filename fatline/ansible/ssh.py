# SPDX-License-Identifier: GPL-3.0-or-later
"""The ssh connection: ansible-core's own, with warm runs below its retries and error handling.

Everything that decides what is run, as whom and with which ssh is inherited. Overridden is the one method
that starts ssh and waits for it (`_bare_run`), its counterpart for files, and what has to agree with them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn

from ansible.utils.display import Display

from fatline import boot, mux, runs
from fatline.ansible import agents, keys, payload, run, sshargs, summary, versions
from fatline.ansible.agents import Place
from fatline.ansible.connection import Fallback, Job, Link, Result
from fatline.ansible.decide import Situation
from fatline.ansible.privileged import PrivilegedConnection
from fatline.ansible.sshargs import SshPlan
from fatline.ansible.switches import disabled
from fatline.client import Client, get_client
from fatline.errors import BootError, FatlineError

display = Display()

# Beyond ssh's own ConnectTimeout: name resolution, a slow login, the start of Python.
_LOGIN_SECONDS = 60

# Somebody at the terminal types a passphrase or confirms a host key (ansible fact 16).
_PROMPT_SECONDS = 600

# Where the user wants no persistent connections, an agent must bridge the gap between two tasks; the main
# process closes it at the end of the run.
_TRANSIENT_PERSIST = 15

# ssh binds a temporary name, 17 characters longer, and a socket's path has 108.
_CONTROL_PATH_MAX = 90

# Where core begins to read what a module printed; what comes before is junk to it.
_RESULT = re.compile(rb"^\s*[{\[]", re.MULTILINE)

# Names that every sftp, scp and shell takes as they are. What each makes of others is its own affair, and
# where one fails, core warns and tries the next.
_PLAIN_NAME = re.compile(r"[\w ./@%+=:,-]*")

_SSH_ERROR = 255
_SSHPASS_ERRORS = range(1, 7)


# By the texts of the user's ssh arguments; a process meets a few of them.
_tty_requested: dict[tuple[str, ...], bool] = {}


@functools.lru_cache(maxsize=256)
def _split(argstring: str) -> tuple[str, ...]:
    return tuple(versions.StockConnection._split_ssh_args(argstring))


class _SshFailed(Exception):
    """ssh could not connect or log in; nothing has been sent."""

    def __init__(self, rc: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(rc)
        self.result = (rc, stdout, stderr)


class Connection(PrivilegedConnection, versions.StockConnection):  # type: ignore[misc]
    """ssh with an agent at the other end."""

    _fl_plan: SshPlan | None = None
    _fl_never: bool | None = None
    _fl_tty: bool | None = None

    # ---- options ---------------------------------------------------------------------------------

    def set_options(
        self,
        task_keys: Mapping[str, Any] | None = None,
        var_options: Mapping[str, Any] | None = None,
        direct: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the options; some decide whether an agent may be met."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._fl_never = self._fl_tty = None

    def set_option(self, option: str, value: Any) -> None:
        """Set one option as core does; it may be one that decides whether an agent may be met."""
        super().set_option(option, value)
        self._fl_never = self._fl_tty = None

    def _is_tty_requested(self) -> bool:
        """Answer as core does, which parses the same arguments three times a task (from 2.19 on)."""
        if self._fl_tty is None:
            texts = self._fl_user_texts()
            if texts not in _tty_requested:
                _tty_requested[texts] = bool(super()._is_tty_requested())
            self._fl_tty = _tty_requested[texts]
        return self._fl_tty

    @staticmethod
    def _split_ssh_args(argstring: str) -> list[str]:
        """Split a text of arguments as core does, which splits the same few eight times for each command."""
        return list(_split(argstring))

    def fl_label(self) -> str:
        """Name the host as ssh knows it."""
        return str(self.host)

    def _fl_excluded(self) -> bool:
        """Say whether no command of this connection may ever meet an agent."""
        if self._fl_never is None:
            # Core asks several times a task, and taking the arguments apart costs 0.3 ms.
            self._fl_never = super()._fl_excluded() or sshargs.forces_tty(self._fl_user_arguments())
        return self._fl_never

    def _fl_user_texts(self) -> tuple[str, ...]:
        return tuple(self.get_option(name) for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"))

    def _fl_user_arguments(self) -> list[bytes]:
        texts = self._fl_user_texts()
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
        job = self._fl_job(plan, in_data, sudoable, checkrc)
        self._fl_free_accounts(job, sudoable)
        outcome = self._fl_outcome(job)
        if isinstance(outcome, Fallback):
            self._fl_say(summary.STOCK, str(outcome), module=job.runs_module)
            self._fl_hold(plan)
            result = self._fl_stock(cmd, in_data, sudoable, checkrc)
            return result if self._fl_is_sshpass_status(result[0]) else self._fl_as_copied(plan, job, result)
        self._fl_tell_command(cmd)
        versions.close_sshpass_pipe(self)
        if isinstance(outcome, _SshFailed):
            versions.ssh_failed(self, cmd, outcome.result[0], outcome.result[2], job.core_pipelines)
            return outcome.result
        assert isinstance(outcome, tuple)
        return self._fl_as_copied(plan, job, outcome)

    def _fl_tell_command(self, cmd: list[bytes]) -> None:
        """Tell at -vvv, in core's words, what core asked for: people and programs look for it there."""
        if display.verbosity >= 3:
            words = " ".join(shlex.quote(os.fsdecode(word)) for word in cmd)
            display.vvv(f"SSH: EXEC {words}", host=self.host)

    def _fl_as_copied(self, plan: SshPlan, job: Job, result: Result) -> Result:
        """Return what is no module's result as core would have got it without pipelining.

        It copies modules then and runs them on a terminal: what they say on stderr is on stdout, and stderr
        has ssh's own words, that the connection is closed.
        """
        rc, stdout, stderr = result
        open_to_us = job.in_data and self._fl_pipelining_unset and self.get_option("use_tty")
        if not open_to_us or rc == _SSH_ERROR or _RESULT.search(stdout):
            return result
        if payload.parse_command(job.plain_command) is None:
            return result
        # Where the words of ssh are not certain they are left out: no result is in them.
        closing = sshargs.closing_words(plan) or b""
        return rc, (stdout + stderr).replace(b"\n", b"\r\n"), closing

    def _fl_outcome(self, job: Job) -> Result | Exception:
        """Run one command, or return why it has not been run; also that ssh itself has failed."""
        try:
            return super()._fl_outcome(job)
        except _SshFailed as failed:
            return failed

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

    def _fl_job(self, plan: SshPlan, in_data: bytes | None, sudoable: bool, checkrc: bool) -> Job:
        situation = Situation(
            disabled=disabled(),
            windows=self._fl_windows(),
            user_tty=sshargs.forces_tty(plan.options),
            extra_ssh_arguments=not plan.is_command,
            given_up=plan.trouble or run.current().given_up(plan.key),
            in_data=bool(in_data),
            wants_tty=plan.wants_tty,
        )
        job = Job(
            _link(plan),
            plan.command,
            in_data,
            situation,
            # Without Fatline core would have no words for it where the user left pipelining open.
            core_pipelines=bool(in_data and checkrc) and not self._fl_pipelining_unset,
            closing=lambda: sshargs.closing_words(plan),
        )
        return self._fl_privileged_job(job) if sudoable else job

    def _fl_tell_verdict(self, job: Job) -> None:
        """Raise the verdict that is waiting; ssh is not started after all."""
        try:
            super()._fl_tell_verdict(job)
        except BaseException:
            versions.close_sshpass_pipe(self)
            raise

    def _fl_is_fatal(self, error: BaseException) -> bool:
        return isinstance(error, _SshFailed) or super()._fl_is_fatal(error)

    def _fl_link(self) -> Link:
        self.host = self.get_option("host") or self._play_context.remote_addr
        return _link(self._fl_bare_plan())

    def _fl_address(self) -> str:
        return f"{self.host} {self.get_option('port')}"

    def _fl_raise_lost(self, job: Job, stderr: bytes) -> NoReturn:
        """Raise UNREACHABLE in the words core uses for exit status 255."""
        versions.close_sshpass_pipe(self)
        versions.run_lost(self, stderr, job.core_pipelines)

    def _fl_status(self, result: runs.RunResult) -> int:
        """Return the exit status of ssh, which has one of its own where a signal ended the login shell."""
        return _SSH_ERROR if result.signal else result.rc

    def _fl_result(self, job: Job, rc: int, stdout: bytes, stderr: bytes) -> Result:
        """Return what ran, as `_bare_run` would; exit status 255 is UNREACHABLE, but never run again."""
        if rc == _SSH_ERROR and versions.is_connection_failure(stdout, stderr):
            retried = int(self.get_option("reconnection_retries"))
            if job.core_pipelines or retried:
                self._fl_raise_lost(job, stderr)
        return rc, stdout, stderr

    # ---- booting -----------------------------------------------------------------------------------

    def fl_place(self, plan: SshPlan, interpreter: str) -> Place:
        """Say which agent an interpreter on this connection needs."""
        return _link(plan).place(interpreter, self.fl_label())

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
                return self._fl_spawn(client, place, interpreter, extra, frozenset(unknown))
            except BootError as error:
                option = sshargs.rejected_option(error.stderr)
                if not option or option in unknown:
                    raise
                unknown.add(option)

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
        launched = boot.launcher([interpreter], "privileged" if place.privileged else "")
        try:
            with (
                versions.own_sshpass_pipe(self),
                self._fl_dressed(place, launched) as (command, gate),
            ):
                self._build_command(self.get_option("ssh_executable"), "ssh", self.host, command)
                plan = self._fl_plan
                if plan is None:
                    raise BootError(place.label, boot.STAGE_START, 0.0, reason="not a plain ssh command line")
                argv = sshargs.agent_argv(plan, extra, unknown, rides=place.privileged)
                with versions.password_channel(self) as channel:
                    return self._fl_boot(
                        client,
                        place,
                        [*channel.prefix, *argv],
                        launched,
                        env=channel.environ,
                        pass_fds=channel.pass_fds,
                        new_session=channel.new_session,
                        gate=gate,
                    )
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
        super()._fl_boot_failed(place, error)

    def _fl_is_ssh_failure(self, error: BootError) -> bool:
        if error.stage == boot.STAGE_CONNECT:
            return True
        return self._fl_is_sshpass_status(error.rc)

    def _fl_is_sshpass_status(self, rc: int | None) -> bool:
        """Say whether an exit status may be that of sshpass instead of the command's."""
        return versions.connection_password(self) is not None and rc in _SSHPASS_ERRORS

    # ---- files -------------------------------------------------------------------------------------

    def _file_transport_command(self, in_path: str, out_path: str, sftp_action: str) -> Result:
        """Copy a file through an attached agent, or as core does."""
        refusal = self._fl_transfer_outcome(in_path, out_path, sftp_action)
        if refusal is None:
            return 0, b"", b""
        self._fl_say(summary.STOCK, str(refusal))
        result: Result = super()._file_transport_command(in_path, out_path, sftp_action)
        return result

    def _fl_transfer_outcome(self, in_path: str, out_path: str, sftp_action: str) -> Fallback | None:
        """Copy a file through an attached agent, or return why that was not done (see `_fl_outcome`)."""
        remote = out_path if sftp_action == "put" else in_path
        try:
            if self._fl_excluded() or not remote.startswith("/"):
                raise Fallback(f"file {sftp_action} of a path that is not absolute")
            if self.get_option("ssh_transfer_method") == "piped":
                # The agent gives the modes that sftp and scp give; a pipe leaves them to the umask.
                raise Fallback(f"file {sftp_action}, piped as the user wants it")
            if not (_PLAIN_NAME.fullmatch(in_path) and _PLAIN_NAME.fullmatch(out_path)):
                raise Fallback(f"file {sftp_action}, a name that sftp may not take as it is")
            self._fl_transfer(_link(self._fl_bare_plan()), sftp_action, in_path, out_path)
        except Fallback as refusal:
            return refusal
        return None

    # ---- the rest ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the connection as core does, then let no later task use its agents (ansible fact 19).

        In this order, because an agent's ssh is the master that core looks for and then stops.
        """
        super().reset()
        if not disabled() and (key := self._fl_bare_plan().key):
            self._fl_retire_agents(key, *self._fl_aliases(key))


def _link(plan: SshPlan) -> Link:
    """Say what a command line's connection is, and how long the user lets it stay."""
    persist = 0 if mux.has_own_directory() else sshargs.persist_seconds(plan.options)
    return Link(
        plan.key,
        plan.trouble or "not a plain ssh command line",
        persist=persist or _TRANSIENT_PERSIST,
        transient=not persist,
        control_path=keys.control_path(plan.key) if plan.own_control_path else None,
    )


def _has_terminal() -> bool:
    """Say whether ssh could ask somebody for a passphrase."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
