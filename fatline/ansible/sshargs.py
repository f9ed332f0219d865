# SPDX-License-Identifier: BSD-3-Clause
"""Reading and extending the ssh command line that ansible-core has built."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# First option wins in ssh, so these go in front: a user's RequestTTY=force, StdinNull or RemoteCommand
# would break a wire (systems fact 12).
WIRE_OPTIONS = (b"-T", b"-o", b"RemoteCommand=none", b"-o", b"StdinNull=no")

# The agent's ssh is the master that fall-backs ride; it must end with its wire, so it never goes to the
# background (systems fact 3, rule 3).
MASTER_OPTIONS = (b"-o", b"ControlMaster=auto", b"-o", b"ControlPersist=no")

# ControlPersist=yes has no end; an idle agent should have one.
PERSIST_MAX = 3600

_CONTROL_PATH = b'ControlPath="'
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME_END = re.compile(r"\s*=\s*|\s+")
_DURATION = re.compile(r"(\d+)([smhdw]?)")
_REJECTED = re.compile(rb"Bad configuration option: (\S+)", re.IGNORECASE)
_PROBE_SECONDS = 10


@dataclass
class SshPlan:
    """One ssh command line, taken apart."""

    argv: list[bytes]
    """The very list that core passes on: its identity tells whether a command is this one."""
    program: int
    """Index of the ssh executable; before it is sshpass, if that is used."""
    options_end: int
    """Index of the first argument that core's caller added: -tt, host, remote command."""
    key: bytes = b""
    """Names the connection; empty where it cannot be named, and so can have no agent."""
    trouble: str = ""
    """Why it cannot be named, in words."""
    own_control_path: bool = False

    @property
    def options(self) -> list[bytes]:
        """The executable and ssh's own options."""
        return self.argv[self.program : self.options_end]

    @property
    def tail(self) -> list[bytes]:
        """What core's caller added."""
        return self.argv[self.options_end :]

    @property
    def wants_tty(self) -> bool:
        """Whether core asked for a terminal."""
        return self.tail[:1] == [b"-tt"]

    @property
    def is_command(self) -> bool:
        """Whether this runs a command on a host, and nothing else."""
        return len(self.tail) == (3 if self.wants_tty else 2) and not self.tail[-2].startswith(b"-")

    @property
    def host(self) -> str:
        """The host as core names it."""
        return self.tail[-2].decode(errors="surrogateescape")

    @property
    def command(self) -> bytes:
        """The remote command line."""
        return self.tail[-1]


def control_path_index(options: Sequence[bytes]) -> int | None:
    """Find the ControlPath that core added because the user named none; None if the user did (fact 17)."""
    if any(option.startswith(b"-S") for option in options):
        return None
    for index in range(len(options) - 1, 0, -1):
        if options[index - 1] == b"-o" and options[index].startswith(_CONTROL_PATH):
            return index
    return None


def control_path_option(path: str) -> bytes:
    """Spell a ControlPath as core does."""
    return _CONTROL_PATH + path.encode() + b'"'


def agent_argv(
    plan: SshPlan, extra: Sequence[bytes], without: frozenset[bytes], *, rides: bool = False
) -> list[bytes]:
    """Return the command line of an agent's ssh; `without` names options that this ssh does not know.

    One that `rides` is a session on the host's master; where there is none, core's own arguments make one.
    """
    master = MASTER_OPTIONS if plan.own_control_path and not rides else ()
    front = [*WIRE_OPTIONS, *extra, *master]
    kept: list[bytes] = []
    for option in front:
        if option.partition(b"=")[0].lower() in without:
            kept.pop()
        else:
            kept.append(option)
    at = plan.program + 1
    return [*plan.argv[:at], *kept, *plan.argv[at:]]


def rejected_option(stderr: bytes) -> bytes:
    """Name the option that this ssh does not know, from its own words; empty if it complained of none."""
    match = _REJECTED.search(stderr)
    return match.group(1).lower() if match else b""


def option_value(options: Sequence[bytes], name: str) -> str | None:
    """Return the value of an option as ssh would take it from the command line: the first one wins."""
    for words in _options(options):
        if words[0].lower() == name.lower():
            return words[1].strip().strip('"') if len(words) > 1 else ""
    return None


def forces_tty(options: Sequence[bytes]) -> bool:
    """Say whether the user's own ssh arguments ask for a terminal (ansible fact 13)."""
    for argument in options:
        letters = argument[1:]
        if argument.startswith(b"-t") and not letters.strip(b"t"):
            return True
    return (option_value(options, "RequestTTY") or "").lower() in ("yes", "force")


def is_verbose(options: Sequence[bytes]) -> bool:
    """Say whether ssh writes a log of its own to stderr."""
    return any(argument.startswith(b"-v") and not argument.strip(b"-v") for argument in options)


def persist_seconds(options: Sequence[bytes]) -> int:
    """Return how long the user lets a connection stay without use; 0 if not at all."""
    value = (option_value(options, "ControlPersist") or "no").lower()
    if value in ("no", "false"):
        return 0
    if value in ("yes", "true", "0"):
        return PERSIST_MAX
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        return 0
    return min(sum(int(number) * _UNITS[unit] for number, unit in parts), PERSIST_MAX)


def closing_words(plan: SshPlan) -> bytes | None:
    """Return what ssh would write when a shared connection's terminal closes; None if that is not certain.

    Ansible fact 1. The host is the one that ssh's own configuration resolves to.
    """
    if not plan.own_control_path or is_verbose(plan.options) or b"-q" in plan.options:
        return None
    settings = _resolved(plan)
    hostname, level = settings.get("hostname", ""), settings.get("loglevel", "").lower()
    if not hostname or level != "info":
        return None
    return f"Shared connection to {hostname} closed.\r\n".encode()


def _resolved(plan: SshPlan) -> dict[str, str]:
    """Ask ssh what its configuration says about this host."""
    command = [plan.argv[plan.program], b"-G", *plan.options[1:], plan.tail[-2]]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition(" ") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


def _options(arguments: Sequence[bytes]) -> Iterator[list[str]]:
    """Yield name and value of every ``-o`` option."""
    iterator = iter(arguments)
    for argument in iterator:
        if argument == b"-o":
            text = next(iterator, b"").decode(errors="replace")
        elif argument.startswith(b"-o"):
            text = argument[2:].decode(errors="replace")
        else:
            continue
        words = _NAME_END.split(text.strip(), maxsplit=1)
        if words[0]:
            yield words
