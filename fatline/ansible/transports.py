# SPDX-License-Identifier: GPL-3.0-or-later
"""Which connection plugins Fatline stands in for, and how each starts its commands.

Core's own are classes of their own. Those of collections are in one table, by the module that the plugin is
loaded as: a plugin that is not installed, or another one of the same name, is never touched. The functions
below say what a plugin starts, with the plugin's own methods.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

from fatline.ansible import local, ssh, versions
from fatline.ansible.connection import Fallback
from fatline.ansible.programs import CommandLine, Program, ProgramConnection, asked_of
from fatline.ansible.surroundings import start_time

_OF_CORE = (
    (versions.StockConnection, ssh.Connection),
    (versions.StockLocal, local.Connection),
)


def _by_play_context(connection: Any, command: str) -> list[str]:
    return [connection._play_context.executable, "-c", command]


def _by_option(connection: Any, command: str) -> list[str]:
    return [connection.get_option("executable"), "-c", command]


def _taken_apart(_connection: Any, command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise Fallback(f"the command cannot be taken apart: {error}") from None


def _by_a_shell_here(connection: Any, command: str) -> list[str]:
    words = _taken_apart(connection, command)
    if shlex.join(words) != command:
        # That shell, on this machine, would do more with it than hand it on: so `raw` has it.
        raise Fallback("a command of which a shell on this machine runs a part")
    return words


def _docker(connection: Any, command: str) -> CommandLine:
    # The plugin does this ahead of every command, too: options may have changed.
    connection._set_conn_data()
    return CommandLine(connection._build_exec_cmd(_by_play_context(connection, command)))


def _podman(connection: Any, command: str) -> CommandLine:
    # The plugin leaves standard input unconnected.
    user = ["--user", connection.user] if connection.user else []
    return asked_of(connection._podman, ["exec", "-i", *user], shlex.split(command))


def _buildah(connection: Any, command: str) -> CommandLine:
    return asked_of(connection._buildah, "run", shlex.split(command))


def _kubectl(connection: Any, command: str) -> CommandLine:
    argv, _censored = connection._build_exec_cmd(_by_play_context(connection, command))
    # These came with kubernetes.core 3 and later.
    local_env = getattr(connection, "_local_env", lambda: None)
    afterwards = getattr(connection, "delete_temporary_file", lambda: None)
    lasting = getattr(connection, "_file_to_delete", None) is None
    return CommandLine(argv, local_env(), afterwards, lasting)


def _lxc(connection: Any, command: str) -> CommandLine:
    # The plugin calls the library; this program of the same project calls it in the same way.
    name = connection.get_option("remote_addr")
    return CommandLine(["lxc-attach", "--clear-env", "-n", name, "--", *_by_option(connection, command)])


def _lxd(connection: Any, command: str) -> CommandLine:
    return CommandLine(connection._build_command(command))


def _chroot(connection: Any, command: str) -> CommandLine:
    return asked_of(connection._buffered_exec_command, command)


def _chroot_identity(connection: Any) -> str:
    status = os.stat(connection.chroot)
    return f"{status.st_dev} {status.st_ino}"


def _jail(connection: Any, command: str) -> CommandLine:
    return asked_of(connection._buffered_exec_command, command)


def _in_jail(connection: Any, command: str) -> list[str]:
    user = connection._play_context.remote_user
    return _by_play_context(connection, command if user is None else f"HOME=~{user} {command}")


def _nsenter(connection: Any, command: str) -> CommandLine:
    return asked_of(super(ProgramConnection, connection).exec_command, command)


def _nsenter_identity(connection: Any) -> str:
    return str(start_time(int(connection.get_option("nsenter_pid"))))


_OF_COLLECTIONS = {
    "community.docker.docker": Program(_docker, _by_play_context),
    "community.docker.nsenter": Program(_nsenter, _by_a_shell_here, _nsenter_identity, is_here=True),
    "community.general.chroot": Program(_chroot, _by_option, _chroot_identity, is_here=True),
    "community.general.incus": Program(_lxd, _by_option),
    "community.general.jail": Program(_jail, _in_jail),
    "community.general.lxc": Program(_lxc, _by_option, tells_wait_status=True),
    "community.general.lxd": Program(_lxd, _by_option),
    "community.okd.oc": Program(_kubectl, _by_play_context),
    "containers.podman.buildah": Program(_buildah, _taken_apart),
    "containers.podman.podman": Program(_podman, _taken_apart, takes_input=False),
    "kubernetes.core.kubectl": Program(_kubectl, _by_play_context),
}

_made: dict[type, type] = {}


def names() -> list[str]:
    """Return the full names of the plugins that Fatline stands in for."""
    return ["ansible.builtin.local", "ansible.builtin.ssh", *sorted(_OF_COLLECTIONS)]


def accelerated(stock: type) -> type | None:
    """Return the class that stands in for a plugin's own; None for one that is left alone."""
    for known, ours in _OF_CORE:
        if versions.is_core_class(stock, known):
            return ours
    program = _OF_COLLECTIONS.get(_full_name(stock))
    if program is None:
        return None
    if stock not in _made:
        _made[stock] = type("Connection", (ProgramConnection, stock), {"fl_program": program})
    return _made[stock]


def _full_name(stock: type) -> str:
    """Return the plugin's name, from that of the module it is loaded as; empty if it is of no collection."""
    words = stock.__module__.split(".")
    is_plugin = (
        len(words) == 6 and words[0] == "ansible_collections" and words[3:5] == ["plugins", "connection"]
    )
    return f"{words[1]}.{words[2]}.{words[5]}" if is_plugin else ""
