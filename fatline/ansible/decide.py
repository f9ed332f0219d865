# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way one command goes: warm, through the agent, or through the stock plugin.

A pure function of what the connection plugin can see, so that the whole table is read and tested in one
place. Every decision carries its reason in words; `-vvv` and the summary show it.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import NamedTuple

# Linux takes no argument beyond 32 pages, its final NUL included (MAX_ARG_STRLEN in execve(2)).
ARGUMENT_MAX = 32 * os.sysconf("SC_PAGESIZE") - 1


class Route(Enum):
    """Who runs a command."""

    WARM = "warm"
    """A child forked from the agent runs the AnsiballZ payload; an agent is booted if there is none."""

    COMMAND = "command"
    """The agent runs the command line, if one is attached already; otherwise the stock plugin does."""

    STOCK = "stock"
    """The stock plugin's own method."""


class Situation(NamedTuple):
    """What is known about one command before anything is sent."""

    disabled: bool = False
    windows: bool = False
    user_tty: bool = False
    become: bool = False
    """The command is wrapped by a become plugin."""
    become_trouble: str = ""
    """Why no privileged agent can serve it, in words."""
    extra_ssh_arguments: bool = False
    in_data: bool = False
    payload: bool = False
    command_shape: bool = False
    startup_variables: tuple[str, ...] = ()
    wants_tty: bool = False
    too_long: bool = False
    """No program takes this command as an argument: stock fails on the controller, and says so."""
    given_up: str = ""
    """Why this host was given back to the stock plugin earlier in this process, in words."""


class Decision(NamedTuple):
    """A route and the reason for it."""

    route: Route
    reason: str


def decide(situation: Situation) -> Decision:
    """Choose the route; the first row that matches wins."""
    refusal = _never(situation)
    if refusal:
        return Decision(Route.STOCK, refusal)
    if situation.in_data:
        return _with_input(situation)
    return _without_input(situation)


def _never(situation: Situation) -> str:
    """Name the reason why no agent may see this command, or return an empty string."""
    rows = (
        (situation.disabled, "FATLINE_DISABLE is set"),
        (situation.windows, "Windows shell"),
        (situation.user_tty, "a terminal is forced by the ssh arguments"),
        # Systems facts 2, 3, 5: neither the password nor the privileged process may be within reach of
        # the login user's agent.
        (situation.become and not situation.in_data, "become: a command without input"),
        (situation.become and bool(situation.become_trouble), f"become: {situation.become_trouble}"),
        (situation.extra_ssh_arguments, "not a plain remote command"),
        (situation.too_long, "a command beyond the limit of an argument"),
        (bool(situation.given_up), situation.given_up),
    )
    return next((reason for matches, reason in rows if matches), "")


def _with_input(situation: Situation) -> Decision:
    trouble = _not_warm(situation)
    if not trouble:
        return Decision(Route.WARM, "module payload")
    if situation.become:
        return Decision(Route.STOCK, f"become: {trouble}")
    return Decision(Route.COMMAND, trouble)


def _not_warm(situation: Situation) -> str:
    """Name the reason why input cannot be run warm, or return an empty string."""
    if not situation.payload:
        return "input that is not a module payload"
    if not situation.command_shape:
        return "unknown shape of the remote command"
    if situation.startup_variables:
        # Ansible fact 9: an interpreter reads these before its first statement; a fork would miss them.
        return f"environment changes how Python starts: {', '.join(sorted(situation.startup_variables))}"
    return ""


def _without_input(situation: Situation) -> Decision:
    # Ansible fact 13: a command without a payload never boots an agent, it only uses one.
    return Decision(Route.COMMAND, "command with a terminal" if situation.wants_tty else "plain command")


_STARTUP_NAMES = frozenset(
    (
        # What Python reads at its start, and ansible-core's `distro` when it is imported.
        "LANG", "LANGUAGE", "HOME", "UNIXCONFDIR", "UNIXUSRLIBDIR",
        # What one shell or another does not take, or gives another value.
        "_", "DIRSTACK", "EGID", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME", "GID", "GROUPS",
        "HISTCMD", "LINENO", "OPTARG", "OPTIND", "PPID", "RANDOM", "SECONDS", "SHELLOPTS", "SRANDOM", "UID",
    )
)  # fmt: skip


def is_startup_variable(name: str, interpreter: str) -> bool:
    """Say whether this environment variable is for more than the module.

    An interpreter, once warm, has read it already, or was found by it; or it is one of the shell's own.
    """
    if name == "PATH":
        return "/" not in interpreter
    return name.startswith(("PYTHON", "LC_", "LD_", "BASH")) or name in _STARTUP_NAMES
