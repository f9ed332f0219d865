# SPDX-License-Identifier: BSD-3-Clause
"""Reading and extending the ssh command line that ansible-core builds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fatline.ansible import sshargs
from fatline.ansible.sshargs import SshPlan

CORE_PATH = b'ControlPath="/home/u/.ansible/cp/0123456789"'
OPTIONS = [
    *(b"ssh", b"-C", b"-o", b"ControlMaster=auto", b"-o", b"ControlPersist=60s"),
    *(b"-o", b'User="u"', b"-o", b"ConnectTimeout=10", b"-o", CORE_PATH),
]


def plan(*tail: bytes, options: list[bytes] | None = None, prefix: tuple[bytes, ...] = ()) -> SshPlan:
    """Take an argument list apart as the connection does."""
    chosen = OPTIONS if options is None else options
    argv = [*prefix, *chosen, *tail]
    return SshPlan(argv, len(prefix), len(prefix) + len(chosen), own_control_path=True)


def test_a_command_is_told_from_other_uses_of_ssh() -> None:
    assert plan(b"host", b"true").is_command
    assert plan(b"-tt", b"host", b"true").is_command
    assert not plan(b"-O", b"check", b"host").is_command
    assert not plan(b"host").is_command


def test_the_parts_of_a_command() -> None:
    parts = plan(b"-tt", b"host", b"echo hi", prefix=(b"sshpass", b"-d7"))
    assert parts.options == OPTIONS
    assert (parts.host, parts.command, parts.wants_tty) == ("host", b"echo hi", True)


def test_core_s_own_control_path_is_found() -> None:
    index = sshargs.control_path_index(OPTIONS)
    assert index is not None and OPTIONS[index] == CORE_PATH


@pytest.mark.parametrize(
    "options",
    [
        [b"ssh", b"-o", b"ControlPath=/home/u/mine"],
        [b"ssh", b"-S", b"/home/u/mine", b"-o", CORE_PATH],
        [b"ssh", b"-S/home/u/mine", b"-o", CORE_PATH],
        [b"ssh"],
    ],
)
def test_the_user_s_own_control_path_is_left_alone(options: list[bytes]) -> None:
    """Ansible fact 17: masters opened by hand must still be used."""
    assert sshargs.control_path_index(options) is None


def test_wire_options_stand_in_front_of_the_user_s() -> None:
    """Systems fact 12: the first option wins in ssh."""
    argv = sshargs.agent_argv(plan(b"host", b"launch", prefix=(b"sshpass", b"-d7")), (), frozenset())
    assert argv[:5] == [b"sshpass", b"-d7", b"ssh", b"-T", b"-o"]
    assert argv.index(b"ControlPersist=no") < argv.index(b"ControlPersist=60s")
    assert argv[-2:] == [b"host", b"launch"]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh program")
def test_ssh_itself_takes_the_wire_options(tmp_path: Path) -> None:
    """Systems fact 12: RequestTTY=force, StdinNull=yes and RemoteCommand in a user's ssh_config."""
    config = tmp_path / "config"
    config.write_text("Host *\n RequestTTY force\n StdinNull yes\n RemoteCommand /bin/false\n")
    argv = sshargs.agent_argv(plan(options=[b"ssh", b"-F", str(config).encode()]), (), frozenset())
    answer = subprocess.run([argv[0], b"-G", *argv[1:], b"host"], capture_output=True, text=True, check=True)
    settings = dict(line.partition(" ")[::2] for line in answer.stdout.splitlines())
    assert settings["requesttty"] == "false"
    assert settings["stdinnull"] == "no"
    assert "remotecommand" not in settings or settings["remotecommand"] == "none"


def test_an_option_that_this_ssh_does_not_know_is_left_out() -> None:
    option = sshargs.rejected_option(b"command-line: line 0: Bad configuration option: stdinnull\r\n")
    argv = sshargs.agent_argv(plan(b"host", b"launch"), (), frozenset((option,)))
    assert b"StdinNull=no" not in argv
    assert argv[1:4] == [b"-T", b"-o", b"RemoteCommand=none"]
    assert argv[4:6] == [b"-o", b"ControlMaster=auto"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("60s", 60),
        ("60", 60),
        ("10m", 600),
        ("1h30m", 3600),
        ("90", 90),
        ("no", 0),
        ("yes", 3600),
        ("soon", 0),
    ],
)
def test_how_long_an_agent_may_stay(value: str, seconds: int) -> None:
    assert sshargs.persist_seconds([b"ssh", b"-o", b"ControlPersist=" + value.encode()]) == seconds


def test_without_control_persist_nothing_stays() -> None:
    assert sshargs.persist_seconds([b"ssh", b"-C"]) == 0


def test_the_first_of_two_settings_counts() -> None:
    options = [b"ssh", b"-oControlPersist 5s", b"-o", b"ControlPersist=60s"]
    assert sshargs.persist_seconds(options) == 5


@pytest.mark.parametrize(
    "options",
    [[b"-t"], [b"-tt"], [b"-o", b"RequestTTY=force"], [b"-o", b"requesttty yes"], [b"-oRequestTTY=yes"]],
)
def test_a_terminal_in_the_user_s_arguments_is_seen(options: list[bytes]) -> None:
    """Ansible fact 13: RequestTTY force must not meet an agent."""
    assert sshargs.forces_tty([b"ssh", *options])


@pytest.mark.parametrize("options", [[b"-T"], [b"-o", b"RequestTTY=no"], [b"-C"]])
def test_no_terminal_in_the_user_s_arguments(options: list[bytes]) -> None:
    assert not sshargs.forces_tty([b"ssh", *options])


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh program")
def test_closing_words_name_the_host_as_ssh_resolves_it(tmp_path: Path) -> None:
    """Ansible fact 1: "Shared connection to 127.0.0.1 closed." on stderr."""
    config = tmp_path / "config"
    config.write_text("Host web\n HostName 127.0.0.9\n")
    base = [b"ssh", b"-F", str(config).encode()]
    parts = plan(b"-tt", b"web", b"true", options=base)
    assert sshargs.closing_words(parts) == b"Shared connection to 127.0.0.9 closed.\r\n"
    quiet = plan(b"-tt", b"web", b"true", options=[*base, b"-o", b"LogLevel=ERROR"])
    assert sshargs.closing_words(quiet) is None
