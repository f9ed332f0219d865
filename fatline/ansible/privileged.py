# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections whose tasks become another user: one agent per account, started by the become plugin itself.

The plugin wraps the agent's launcher as it wraps any command; a session of its own carries it, and once the
plugin has seen its success mark the agent serves all tasks with the same settings, in this run only (rule 9).
Whatever an agent cannot serve is the genuine command.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.display import Display

from fatline import boot, mux
from fatline.ansible import agents, become, run, summary, versions
from fatline.ansible.agents import Agent, Place
from fatline.ansible.connection import AgentConnection, Fallback, Job, Link, Result
from fatline.ansible.switches import become_disabled, disabled
from fatline.client import Client, get_client
from fatline.errors import BootError, FatlineError

# A root agent ends with its run; one of an ordinary account about a second after it fell idle (rule 11).
_ROOT_PERSIST = 3600
_ACCOUNT_PERSIST = 1

# For an account to be free: the agent, its sudo and the ssh session have to end.
_ACCOUNT_SECONDS = 5.0

# Asked for before any payload has named one; most payloads name this one in the end.
_USUAL_PYTHON = "/usr/bin/python3"

display = Display()


class Finished(Exception):
    """The escalation ended as the genuine command would have ended (see `_check_for_lockout`)."""

    def __init__(self, result: Result) -> None:
        """Take what the genuine command would have returned."""
        super().__init__(result[0])
        self.result = result


class PrivilegedConnection(AgentConnection):
    """An agent connection on which become plugins start agents too."""

    _fl_asked = False
    _fl_playbook_pid = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what core gives, and note which process it calls the playbook's (ansible fact 28).

        Not reached where core's object was turned into this one: then the main process has begun the run.
        """
        super().__init__(*args, **kwargs)
        self._fl_playbook_pid = int(kwargs.get("ansible_playbook_pid") or 0)

    # ---- the transport's -----------------------------------------------------------------------------

    def _fl_link(self) -> Link:
        """Say which connection the task's commands will take."""
        raise NotImplementedError

    def _fl_address(self) -> str:
        """Name the machine, whoever logs in to it."""
        raise NotImplementedError

    def _fl_escalation(self, wrapped: become.Wrapped) -> become.Escalation | become.LocalEscalation:
        """Say how the wrapped command comes to its success mark."""
        return become.Escalation(self)

    def _fl_is_fatal(self, error: BaseException) -> bool:
        """Say whether a boot that failed in this way is the failure of the command it was for."""
        return isinstance(error, (AnsibleError, Finished))

    # ---- what core asks and says ---------------------------------------------------------------------

    def set_become_plugin(self, plugin: Any) -> None:
        """Take the become plugin as core does, and note what it wraps."""
        super().set_become_plugin(plugin)
        become.recorder(plugin)

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Answer core, which is about to run a module (from ansible-core 2.19 on)."""
        self._fl_asked = not wrap_async
        try:
            return bool(super().is_pipelining_enabled(wrap_async))
        finally:
            self._fl_asked = False

    def _fl_may_pipeline(self) -> bool:
        """Say whether nothing can go wrong.

        With become it can: requiretty or a list of permitted commands refuses what comes without a terminal
        or a file (ansible fact 12). So a privileged agent is booted when core asks on behalf of a module, and
        the answer is yes only once it is up.
        """
        recorder = become.recorder(self.become)
        if recorder is None:
            return True
        if not self._fl_asked and not versions.asks_for_pipelining():
            # Somebody wants to know what `ansible_pipelining` is.
            return False
        if recorder.ready is None:
            recorder.ready = self._fl_prepare(recorder)
        return recorder.ready

    def _fl_prepare(self, recorder: become.Recorder) -> bool:
        """Have a privileged agent ready; what fails for good is told to the command that would fail."""
        if not versions.becomes(self):
            return True
        try:
            link = self._fl_link()
            trouble = self._fl_become_trouble() or run.current().given_up(link.key)
            if trouble or not link.key:
                raise Fallback(f"become: {trouble or link.trouble}")
            interpreter = run.current().interpreter(link.key) or _USUAL_PYTHON
            _, agent = self._fl_obtain_at(self._fl_privileged_place(link, interpreter), interpreter)
            recorder.guessed = agent if agent.booted else None
        except Fallback as fallback:
            display.vvv(f"fatline: no pipelining: {fallback}", host=self.fl_label())
            return False
        except Exception as error:
            if not self._fl_is_fatal(error):
                raise
            recorder.verdict = error
            return False
        return True

    # ---- commands ------------------------------------------------------------------------------------

    def _fl_privileged_job(self, job: Job) -> Job:
        """Add to a job what the become plugin has to do with it."""
        recorder = become.recorder(self.become)
        if recorder is None or (not recorder.plugin.success and not versions.becomes(self)):
            # Become to the user that is logged in already changes nothing.
            return job
        trouble = self._fl_become_trouble()
        if not recorder.made(job.command):
            trouble = trouble or "a command of unknown form"
        elif recorder.last is not None and (interpreter := become.module_interpreter(recorder.last.plain)):
            # Sent as a file; the next one's agent can be of the right kind.
            run.current().note_interpreter(job.link.key, interpreter)
        situation = job.situation._replace(become=True, become_trouble=trouble)
        return job._replace(situation=situation, wrapped=recorder.last or become.UNKNOWN)

    def _fl_become_trouble(self) -> str:
        """Say why no command of the become plugin can go to an agent, or return an empty string."""
        plugin = self.become
        rows = (
            (become_disabled(), "FATLINE_BECOME is 0"),
            (not getattr(plugin, "pipelining", True) or plugin.name == "su", f"{plugin.name} takes no input"),
            (versions.keeps_remote_files(), "remote files are kept"),
            (self._play_context.executable != become.SHELL, "another shell than /bin/sh"),
        )
        return next((words for matches, words in rows if matches), "")

    def _fl_outcome(self, job: Job) -> Result | Exception:
        """Run one command, or return why it has not been run."""
        try:
            self._fl_tell_verdict(job)
            return super()._fl_outcome(job)
        except Finished as finished:
            self._fl_say(summary.STOCK, "become: the escalation failed", module=job.runs_module)
            return finished.result

    def _fl_tell_verdict(self, job: Job) -> None:
        """Raise what has become of an escalation that core did not ask for yet: one attempt, one answer."""
        recorder = become.recorder(self.become)
        if recorder is None or recorder.verdict is None:
            return
        if job.wrapped is not None or not isinstance(recorder.verdict, (AnsibleError, Finished)):
            verdict, recorder.verdict = recorder.verdict, None
            raise verdict

    def _fl_refused(self, job: Job, reason: str) -> Result:
        """Run otherwise what an agent has turned down; never as another user than was meant."""
        if job.wrapped is not None:
            raise Fallback(f"become: {reason}")
        return super()._fl_refused(job, reason)

    def _fl_find(self, link: Link, reason: str) -> tuple[Client, Agent]:
        """Attach to the login user's agent; where all tasks are privileged, none of them has booted it."""
        try:
            return super()._fl_find(link, reason)
        except Fallback as fallback:
            interpreter = run.current().interpreter(link.key) if self.become is not None else ""
            if not interpreter or run.current().given_up(link.key):
                raise
            try:
                return self._fl_obtain_at(link.place(interpreter, self.fl_label()), interpreter)
            except Exception as error:
                if not self._fl_is_fatal(error):
                    raise
                # The stock plugin's own attempt will tell.
                raise fallback from error

    def _fl_obtain(self, job: Job, interpreter: str) -> tuple[Client, Agent]:
        """Attach to the agent of an interpreter and an account, or boot it."""
        if job.wrapped is None:
            return super()._fl_obtain(job, interpreter)
        client, agent = self._fl_obtain_at(self._fl_privileged_place(job.link, interpreter), interpreter)
        recorder = become.recorder(self.become)
        if recorder is not None and recorder.guessed is not None and recorder.guessed.key != agent.key:
            with contextlib.suppress(FatlineError):
                client.retire(recorder.guessed.context_id, now=True)
            recorder.guessed = None
        return client, agent

    # ---- privileged agents ---------------------------------------------------------------------------

    def _fl_owner(self) -> int:
        return run.current().owner(self._fl_playbook_pid or os.getppid())

    def _fl_privileged_place(self, link: Link, interpreter: str) -> Place:
        """Say which privileged agent the become plugin's settings and an interpreter name (rule 9)."""
        recorder = become.recorder(self.become)
        assert recorder is not None
        plugin, owner = recorder.plugin, self._fl_owner()
        secret = run.current().secret(owner)
        settings = recorder.settings(self._shell)
        if settings is None:
            raise Fallback("become: the plugin wraps the same command differently every time")
        user = versions.become_user(plugin, self._play_context)
        is_root = user in become.ROOT_USERS
        password = become.password(plugin, self._play_context)
        identity = become.agent_key(secret, link.key, plugin.name, settings, password)
        given_up = run.current().given_up(identity)
        if given_up:
            raise Fallback(given_up)
        return Place(
            become.agent_key(secret, identity, interpreter),
            self._fl_alias(link.key, is_root=is_root),
            f"{self.fl_label()}:{plugin.name}:{user or 'root'}",
            _ROOT_PERSIST if is_root else _ACCOUNT_PERSIST,
            control_path=link.control_path,
            owner=owner,
            identity=identity,
        )

    def _fl_alias(self, connection: bytes, *, is_root: bool) -> bytes:
        """Name all root agents of a connection, or all agents of this machine that are ordinary accounts."""
        secret = run.current().secret(self._fl_owner())
        if is_root:
            return become.agent_key(secret, "root", connection)
        return become.agent_key(secret, "accounts", self._fl_address())

    def _fl_aliases(self, connection: bytes) -> tuple[bytes, bytes]:
        """Name all privileged agents that a reset of a connection concerns."""
        return self._fl_alias(connection, is_root=True), self._fl_alias(connection, is_root=False)

    def _fl_free_accounts(self, job: Job, sudoable: bool) -> None:
        """Rule 11: before a command that may remove an account, no agent runs as one (ansible fact 25)."""
        if disabled() or (self.become is not None and not sudoable):
            # Core's own preparations remove nobody.
            return
        user = versions.remote_user(self)
        if job.wrapped is not None:
            user = versions.become_user(self.become, self._play_context)
        if user not in become.ROOT_USERS:
            return
        accounts = self._fl_alias(job.link.key, is_root=False)
        if run.current().may_hold_account(accounts) and mux.socket_path().exists():
            with contextlib.suppress(FatlineError):
                count = agents.end_all(get_client(), accounts, _ACCOUNT_SECONDS)
                if count:
                    display.vvv(f"fatline: {count} agents of other accounts ended", host=self.fl_label())

    @contextlib.contextmanager
    def _fl_dressed(self, place: Place, launched: boot.Launcher) -> Iterator[tuple[str, boot.Gate | None]]:
        """Dress the launcher as the become plugin dresses a command, for the time of the boot."""
        recorder = become.recorder(self.become)
        if not place.privileged or recorder is None:
            yield launched.command, None
            return
        if place.persist == _ACCOUNT_PERSIST:
            run.current().opened_account(place.alias)
        with recorder.wrapping(launched.command, self._shell) as wrapped:
            if not wrapped.success:
                raise Fallback("become: the plugin has no success mark")
            gate = self._fl_escalation(wrapped)
            try:
                yield become.shell_command(wrapped.text), gate
            except BootError as error:
                _check_for_lockout(error, gate, wrapped)
                raise
            except AnsibleError as error:
                if gate.is_final:
                    raise
                # sudo asks for a password as well where it permits other commands.
                reason = str(error).partition("\n")[0]
                raise BootError(place.label, boot.STAGE_READY, 0.0, reason=reason) from error


def _check_for_lockout(
    error: BootError, gate: become.Escalation | become.LocalEscalation, wrapped: become.Wrapped
) -> None:
    """Raise `Finished` where a second try could lock the account: a password was sent and no mark came.

    What the plugin's command said is then taken for what the genuine one would have said. Only words that
    repeat our command are about that command alone: the genuine one may be permitted.
    """
    if error.rc is None or error.rc == boot.SSH_FAILED_RC or not gate.answered or gate.is_open:
        return
    if wrapped.success.encode() not in error.stdout + error.stderr:
        raise Finished((error.rc, gate.output("stdout"), gate.output("stderr"))) from error
