# SPDX-License-Identifier: BSD-3-Clause
"""Start-up files of the login shell are read again by the shell that an agent starts for a command."""

from __future__ import annotations

import os
import pathlib
import shutil
import struct
from typing import Any

import pytest
from harness import REFUSED, AgentProcess

from fatline.ansible.login import PROBE, is_settled

STALE = 1

SHELLS = {"bash": ".bashrc", "zsh": ".zshenv", "tcsh": ".tcshrc", "fish": ".config/fish/config.fish"}


def login(shell: str, home: pathlib.Path) -> AgentProcess:
    """Boot an agent below a login shell, as sshd would."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"needs {shell}")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "SHELL": path, "SSH_CLIENT": "192.0.2.1 1 22"}
    return AgentProcess(shell=path, env=env, cwd=str(home))


def is_served(agent: AgentProcess, **more: Any) -> bool:
    """Ask as a connection asks."""
    return is_settled(agent.finish(agent.start({"mode": "command", "argv": PROBE, **more})).stdout)


@pytest.mark.parametrize("terminal", [{}, {"pty": True, "term": "xterm"}], ids=["pipes", "terminal"])
@pytest.mark.parametrize("shell", ["bash", "dash", "fish", "mksh", "zsh"])
def test_a_shell_without_start_up_files_adds_nothing(
    shell: str, terminal: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    with login(shell, tmp_path) as agent:
        assert is_served(agent, **terminal)


def test_a_shell_that_counts_its_level_is_noticed(tmp_path: pathlib.Path) -> None:
    with login("tcsh", tmp_path) as agent:
        assert not is_served(agent)


@pytest.mark.parametrize(
    ("text", "served"),
    [
        ("export WORD=same PATH=/opt/own:/usr/bin:/bin; echo noise; umask 027", True),
        ('export PATH="$PATH:/opt/own"', False),
        ("export DEPTH=${DEPTH}x", False),
        ("cd sub", False),
        ("umask $(printf %o $(( $(umask) + 1 )))", False),
        ("ulimit -n $(( $(ulimit -n) - 1 ))", False),
    ],
)
def test_what_a_second_reading_changes_is_noticed(text: str, served: bool, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sub" / "sub").mkdir(parents=True)
    (tmp_path / ".bashrc").write_text(f"{text}\n")
    with login("bash", tmp_path) as agent:
        assert is_served(agent) is served


def test_a_shell_that_does_not_answer_is_not_served(tmp_path: pathlib.Path) -> None:
    with login("bash", tmp_path) as agent:
        (tmp_path / ".bashrc").write_text("exit 0\n")
        assert not is_served(agent)


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_a_command_is_not_run_below_files_that_have_changed(shell: str, tmp_path: pathlib.Path) -> None:
    # Ansible fact 27. What the old file has put into the agent's environment is still there.
    with login(shell, tmp_path) as agent:
        assert agent.command(b"echo before").stdout == b"before\n"
        path = tmp_path / SHELLS[shell]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# changed\n")
        frame = agent.receive(agent.start({"mode": "command", "command": b"echo after"}))
        assert (frame.kind, struct.unpack(">H", frame.payload[1:3])) == (REFUSED, (STALE,))
        assert agent.finish(agent.start({"mode": "command", "argv": [b"echo", b"as it is"]})).rc == 0
