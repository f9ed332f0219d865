# SPDX-License-Identifier: BSD-3-Clause
"""What counts as the same connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from fatline.ansible import keys

ARGUMENTS = [b"ssh", b"-C", b"-o", b'User="u"', b"-o", b"Port=22"]


def key(arguments: list[bytes] | None = None, host: str = "h", **changes: str) -> bytes:
    """Name a connection whose environment is HOME and `changes`."""
    return keys.connection_key(arguments or ARGUMENTS, host, environ={"HOME": "/nowhere", **changes})


def test_the_same_arguments_are_the_same_connection() -> None:
    assert key() == key(list(ARGUMENTS))


@pytest.mark.parametrize(
    "extra",
    [
        [b"-o", b"ConnectTimeout=3"],
        [b"-vvv"],
        [b"-o", b'ControlPath="/home/u/.ansible/cp/1"'],
        [b"-o", b"ControlPath=/run/fatline/cp-1"],
    ],
)
def test_what_changes_between_runs_does_not_count(extra: list[bytes]) -> None:
    """Ansible fact 18: reboot changes ConnectTimeout in the middle of a run."""
    assert key([*ARGUMENTS, *extra]) == key()


def test_a_temporary_key_file_of_the_run_does_not_count() -> None:
    """Ansible fact 18: `private_key` puts a path of this run into the arguments."""

    def with_identity(path: str) -> bytes:
        arguments = [*ARGUMENTS, b"-o", f'IdentityFile="{path}"'.encode()]
        return keys.connection_key(arguments, "h", environ={}, scratch="/home/u/.ansible/tmp/run-1")

    one = with_identity("/home/u/.ansible/tmp/run-1/a.pub")
    assert one == keys.connection_key(ARGUMENTS, "h", environ={}, scratch="/x")
    assert with_identity("/home/u/.ssh/id_other") != one


@pytest.mark.parametrize("extra", [[b"-o", b"ProxyJump=gate"], [b"-o", b'User="v"'], [b"-4"]])
def test_whatever_decides_who_is_reached_counts(extra: list[bytes]) -> None:
    assert key([*ARGUMENTS, *extra]) != key()


def test_the_host_counts() -> None:
    assert key(host="other") != key()


@pytest.mark.parametrize("name", ["LANG", "LC_ALL", "KRB5CCNAME"])
def test_the_environment_that_ssh_uses_or_sends_counts(name: str) -> None:
    """Systems fact 13: a shared agent would see the first run's SendEnv."""
    assert key(**{name: "x"}) != key()


def test_variables_named_by_send_env_count() -> None:
    arguments = [*ARGUMENTS, b"-o", b"SendEnv=PROJECT_*"]
    assert key(arguments, PROJECT_A="1") != key(arguments, PROJECT_A="2")
    assert key(ARGUMENTS, PROJECT_A="1") == key(ARGUMENTS, PROJECT_A="2")


def test_a_changed_ssh_config_is_another_connection(tmp_path: Path) -> None:
    config = tmp_path / "config"
    arguments = [*ARGUMENTS, b"-F", str(config).encode()]
    config.write_text("Host h\n HostName 10.0.0.1\n")
    before = key(arguments)
    config.write_text("Host h\n HostName 10.0.0.200\n")
    assert key(arguments) != before


def test_another_ssh_agent_is_another_connection(tmp_path: Path) -> None:
    socket = tmp_path / "agent"
    socket.touch()
    assert key(SSH_AUTH_SOCK=str(socket)) != key()


def test_passwords_differ_only_under_the_user_s_own_secret() -> None:
    def with_password(password: str, secret: bytes) -> bytes:
        return keys.connection_key(ARGUMENTS, "h", environ={}, password=password, secret=secret)

    assert with_password("a", b"s") == with_password("a", b"s")
    assert with_password("a", b"s") != with_password("b", b"s")
    assert with_password("a", b"s") != with_password("a", b"t")


def test_interpreters_are_told_apart_by_their_spelling() -> None:
    """Systems fact 15: a virtual environment's python is a symbolic link with another prefix."""
    assert keys.agent_key(key(), "/usr/bin/python3") != keys.agent_key(key(), "/usr/bin/python3.11")


def test_the_secret_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(tmp_path / "run"))
    keys.secret.cache_clear()
    first = keys.secret()
    keys.secret.cache_clear()
    assert keys.secret() == first
    assert len(first) == 32
    assert (tmp_path / "run" / "key").stat().st_mode & 0o777 == 0o600
    keys.secret.cache_clear()
