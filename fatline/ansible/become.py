# SPDX-License-Identifier: GPL-3.0-or-later
"""What Fatline needs of a become plugin: the plain command, the wrapped one, and the way past its prompts.

The plugin builds every command and judges every line of output itself; nothing here knows sudo from su.
Passwords go from the plugin to the prompt and nowhere else (systems facts 3 and 5).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_bytes, to_native

from fatline.ansible import versions
from fatline.ansible.agents import Agent
from fatline.boot import READ_BYTES, Wire

ROOT_USERS = frozenset(("", "root", "0", "#0"))

SHELL = "/bin/sh"
_SHELL = SHELL + " -c "
# What core puts behind a command on a terminal or pipe; the second is of every release.
_SUFFIXES = ("", " && sleep 0")


class Wrapped(NamedTuple):
    """A command before and after the plugin."""

    plain: str
    text: str
    success: str
    """The plugin's success mark in this text."""


UNKNOWN = Wrapped("", "", "")
"""Stands for a command whose wrapping was not seen."""


class Recorder:
    """Notes what one plugin object wraps (ansible fact 24), and what has come of its questions.

    Core makes a plugin object per task, so all that is kept here is of one task.
    """

    def __init__(self, plugin: Any) -> None:
        """Watch a plugin from now on."""
        self.plugin = plugin
        self.last: Wrapped | None = None
        self.ready: bool | None = None
        """Whether an agent was there when core asked about pipelining."""
        self.guessed: Agent | None = None
        """That agent, if it was booted for this task with an interpreter that nobody had named."""
        self.verdict: BaseException | None = None
        """How an escalation ended that core does not know of yet; told to its next command."""
        self._build = plugin.build_become_command
        plugin.build_become_command = self._build_and_note
        plugin.fatline_recorder = self

    def _build_and_note(self, cmd: str, shell: Any) -> str:
        text: str = self._build(cmd, shell)
        self.last = Wrapped(cmd, text, self.plugin.success)
        return text

    def made(self, command: bytes) -> bool:
        """Say whether a remote command is what was wrapped last, and nothing else."""
        if self.last is None or not self.last.success:
            return False
        texts = (_SHELL + shlex.quote(self.last.text + suffix) for suffix in _SUFFIXES)
        return command in [text.encode(errors="surrogateescape") for text in texts]

    @contextlib.contextmanager
    def wrapping(self, command: str, shell: Any) -> Iterator[Wrapped]:
        """Wrap a command of our own; the plugin expects its prompt and mark until the end of the block."""
        plugin = self.plugin
        kept = (plugin.success, plugin.prompt, plugin._id)
        try:
            yield Wrapped(command, self._build(command, shell), plugin.success)
        finally:
            plugin.success, plugin.prompt, plugin._id = kept

    def settings(self, shell: Any) -> str | None:
        """Say in one text all that decides how the plugin wraps: user, flags, executable and the rest.

        It is the plugin's own wrapping of a constant, without the mark that differs every time. None if
        something else differs too.
        """
        texts = set()
        for _ in range(2):
            with self.wrapping("fatline", shell) as wrapped:
                mark = self.plugin._id or wrapped.success
                texts.add(wrapped.text.replace(mark, "") if mark else wrapped.text)
        return texts.pop() if len(texts) == 1 else None


def module_interpreter(plain: str) -> str:
    """Return the interpreter of a module that was sent as a file; empty for any other command."""
    try:
        words = shlex.split(plain)
    except ValueError:
        return ""
    if len(words) < 2 or not words[-2].startswith("/"):
        return ""
    return words[-2] if os.path.basename(words[-1]).startswith("AnsiballZ_") else ""


def recorder(plugin: Any) -> Recorder | None:
    """Return the recorder of a plugin, made on first need; None without a plugin."""
    if plugin is None:
        return None
    return getattr(plugin, "fatline_recorder", None) or Recorder(plugin)


def shell_command(text: str) -> str:
    """Spell the remote command as core does."""
    return _SHELL + shlex.quote(text)


def sudo_command(wrapped: Wrapped) -> bytes:
    """Return what sudo would show a task of this command in SUDO_COMMAND."""
    return f"{_SHELL}echo {wrapped.success} ; {wrapped.plain}".encode(errors="surrogateescape")


def password(plugin: Any, play_context: Any) -> str | None:
    """Return the password that the plugin's prompt would be given."""
    value = plugin.get_option("become_pass", playcontext=play_context)
    return None if value is None else str(value)


def agent_key(secret: bytes, *parts: bytes | str | None) -> bytes:
    """Name a privileged agent: a digest under the run's secret, so that nobody else can (rule 9)."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        data = b"-" if part is None else b"+" + (os.fsencode(part) if isinstance(part, str) else part)
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()


class Escalation:
    """The way from ssh's start to the plugin's success mark, as core's own loop goes it.

    A gate of the boot (see `fatline.boot.Gate`): no byte but the password, and that only where the plugin
    has recognised its prompt, is sent before the mark.
    """

    def __init__(self, connection: Any) -> None:
        """Expect what the connection's plugin expects now."""
        self._connection = connection
        self._plugin = connection.become
        self._flags = versions.watch_escalation(connection)
        self._awaits_prompt = bool(self._plugin.prompt)
        self._rest = {"stdout": b"", "stderr": b""}
        self._kept = {"stdout": b"", "stderr": b""}
        self.quiet_seconds = 2.0 + float(connection.get_option("timeout"))
        self.is_open = False
        self.answered = False
        """Whether a password was sent."""
        self.is_late = False
        """Whether nothing was said in time."""

    @property
    def is_final(self) -> bool:
        """Whether what it raises is the genuine command's failure as well: else nobody was authenticated."""
        return self.answered or self.is_late

    def enter(self, _wire: Wire) -> bytes:
        """Nothing is read ahead."""
        return b""

    def take(self, source: str, data: bytes, wire: Wire) -> None:
        """Look at what the program says; answer its prompt."""
        if self.is_open:
            return
        state = "awaiting_prompt" if self._awaits_prompt else "awaiting_escalation"
        output, self._rest[source] = self._connection._examine_output(
            source, state, self._rest[source] + data, True
        )
        self._kept[source] += output
        if self._awaits_prompt:
            self._look_for_prompt(wire)
        if not self._awaits_prompt:
            self._look_for_success()

    def output(self, source: str) -> bytes:
        """Return what the program said, without what the plugin has recognised."""
        return self._kept[source] + self._rest[source]

    def silent(self) -> None:
        """Raise what core raises when nothing was said for `quiet_seconds`."""
        self.is_late = True
        raise versions.escalation_timeout(
            f"Timeout ({int(self.quiet_seconds)}s) waiting for privilege escalation prompt: "
            f"{to_native(self._kept['stdout'])}"
        )

    def _look_for_prompt(self, wire: Wire) -> None:
        if self._flags["become_prompt"]:
            given = self._plugin.get_option("become_pass", playcontext=self._connection._play_context)
            os.write(wire.stdin_fd, to_bytes(given, errors="surrogate_or_strict") + b"\n")
            self._flags["become_prompt"] = False
            self.answered = True
            self._awaits_prompt = False
        elif self._flags["become_success"]:
            self._awaits_prompt = False

    def _look_for_success(self) -> None:
        if self._flags["become_success"]:
            self.is_open = True
        elif self._flags["become_error"] or (self._flags["become_prompt"]):
            raise AnsibleError(f"Incorrect {self._plugin.name} password")
        elif self._flags["become_nopasswd_error"]:
            raise AnsibleError(f"Missing {self._plugin.name} password")


class LocalEscalation:
    """The way to the success mark on this machine: core's own loop goes it, from end to end.

    A gate of the boot, as `Escalation` is.
    """

    def __init__(self, connection: Any, wrapped: Wrapped) -> None:
        """Expect what the connection's plugin expects now."""
        self._connection = connection
        self._mark = wrapped.success.encode()
        self._process: _Process | None = None
        self.is_open = False
        self.is_late = False
        self.quiet_seconds = 0.0

    @property
    def answered(self) -> bool:
        """Whether a password was sent."""
        return self._process is not None and self._process.answered

    @property
    def is_final(self) -> bool:
        """Whether what core has raised is about more than this one command, whose mark is in it then."""
        said = self.output("stdout") + self.output("stderr")
        return self.is_late or (self.answered and self._mark not in said)

    def enter(self, wire: Wire) -> bytes:
        """Let core go the way; it reads what comes after the mark, too."""
        self._process = _Process(wire)
        try:
            versions.ensure_become_success(self._connection, self._process)
        except AnsibleConnectionFailure:
            self.is_late = True
            raise
        finally:
            # Core leaves them blocking.
            for fd in (wire.stdout_fd, wire.stderr_fd):
                os.set_blocking(fd, False)
        seen = self._process.stdout.seen
        self.is_open = bool(self._connection.become.check_success(seen))
        return seen

    def take(self, source: str, data: bytes, wire: Wire) -> None:
        """Nothing is recognised here."""

    def output(self, source: str) -> bytes:
        """Return what the program said until core was content or not."""
        return b"" if self._process is None else getattr(self._process, source).seen

    def silent(self) -> None:
        """Core was content without a mark."""
        raise AnsibleError("the plugin has no success mark")


class _Process:
    """A wire, as core sees a process of its own."""

    def __init__(self, wire: Wire) -> None:
        self.stdin = self
        self.stdout = _Output(wire.stdout_fd)
        self.stderr = _Output(wire.stderr_fd)
        self.answered = False
        self._stdin_fd = wire.stdin_fd

    def write(self, password: bytes) -> None:
        os.write(self._stdin_fd, password)
        self.answered = True

    def flush(self) -> None:
        """Nothing is held back."""


class _Output:
    """One of a process's streams, which remembers what was read from it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.seen = b""

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        """Return what is there; nothing at its end."""
        data = os.read(self._fd, READ_BYTES)
        self.seen += data
        return data
