# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision table of the ssh connection, row by row."""

from __future__ import annotations

import os
import subprocess
from typing import get_type_hints

import pytest

from fatline.ansible.decide import ARGUMENT_MAX, Route, Situation, decide, is_startup_variable

PAYLOAD = Situation(in_data=True, payload=True, command_shape=True)


def test_a_recognised_payload_runs_warm() -> None:
    assert decide(PAYLOAD).route is Route.WARM


@pytest.mark.parametrize("situation", [PAYLOAD, Situation(), Situation(in_data=True)])
@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("disabled", True, "FATLINE_DISABLE"),
        ("windows", True, "Windows"),
        ("user_tty", True, "terminal"),
        ("extra_ssh_arguments", True, "remote command"),
        ("too_long", True, "limit of an argument"),
        ("given_up", "no Python there", "no Python there"),
    ],
)
def test_what_no_agent_may_see_is_left_to_stock(
    situation: Situation, field: str, value: object, word: str
) -> None:
    """Ansible fact 13: where an agent must not be tried."""
    decision = decide(situation._replace(**{field: value}))
    assert decision.route is Route.STOCK
    assert word in decision.reason


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the limit is Linux's")
def test_the_longest_argument_is_the_longest_that_a_program_takes() -> None:
    assert subprocess.run(["/bin/true", "x" * ARGUMENT_MAX], check=False).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true", "x" * (ARGUMENT_MAX + 1)], check=False)


def test_a_privileged_payload_runs_warm_where_an_agent_may_serve_it() -> None:
    privileged = PAYLOAD._replace(become=True)
    assert decide(privileged).route is Route.WARM
    decision = decide(privileged._replace(become_trouble="su takes no input"))
    assert (decision.route, decision.reason) == (Route.STOCK, "become: su takes no input")


@pytest.mark.parametrize(
    "situation",
    [
        Situation(),
        Situation(wants_tty=True),
        Situation(in_data=True),
        PAYLOAD._replace(command_shape=False),
        PAYLOAD._replace(startup_variables=("LANG",)),
    ],
)
def test_all_else_that_is_privileged_is_the_genuine_command(situation: Situation) -> None:
    """Systems facts 2, 3, 5: it never goes to the login user's agent."""
    decision = decide(situation._replace(become=True))
    assert decision.route is Route.STOCK
    assert decision.reason.startswith("become: ")


def test_startup_variables_run_cold() -> None:
    """Ansible fact 9: PYTHONPATH is read before the first statement, so a fork would miss it."""
    decision = decide(PAYLOAD._replace(startup_variables=("PYTHONPATH", "LANG")))
    assert decision.route is Route.COMMAND
    assert decision.reason.endswith("LANG, PYTHONPATH")


@pytest.mark.parametrize("situation", [Situation(), Situation(wants_tty=True), Situation(in_data=True)])
def test_without_a_payload_an_agent_is_used_but_never_booted(situation: Situation) -> None:
    """Ansible fact 13: `raw` on a bare machine must not look for Python."""
    assert decide(situation).route is Route.COMMAND


def test_an_unknown_shape_of_the_remote_command_is_not_guessed_at() -> None:
    assert decide(PAYLOAD._replace(command_shape=False)).route is Route.COMMAND


def test_every_decision_says_why() -> None:
    flags = [name for name, kind in get_type_hints(Situation).items() if kind is bool]
    for name in flags:
        assert decide(PAYLOAD._replace(**{name: True})).reason


@pytest.mark.parametrize(
    "name",
    [
        "PYTHONPATH",
        "PYTHONHASHSEED",
        "LC_ALL",
        "LANG",
        "LD_PRELOAD",
        "HOME",
        "UNIXCONFDIR",
        "OPTIND",
        "BASH_ENV",
    ],
)
def test_variables_that_are_read_before_a_module_runs(name: str) -> None:
    assert is_startup_variable(name, "/usr/bin/python3")


@pytest.mark.parametrize("name", ["http_proxy", "PATH", "FOO", "DEBIAN_FRONTEND"])
def test_other_variables_may_run_warm(name: str) -> None:
    assert not is_startup_variable(name, "/usr/bin/python3")


def test_an_interpreter_without_a_path_is_found_by_a_variable() -> None:
    assert is_startup_variable("PATH", "python3")
