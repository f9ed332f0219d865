# SPDX-License-Identifier: GPL-3.0-or-later
"""What is noted of core's own become plugins, and how privileged agents are named."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from ansible.plugins.loader import become_loader, shell_loader

from fatline.ansible import become


@pytest.fixture
def shell() -> Any:
    """Core's own shell plugin."""
    plugin = shell_loader.get("sh")
    plugin.set_options()
    plugin.executable = "/bin/sh"
    return plugin


@pytest.fixture
def recorder() -> become.Recorder:
    """A recorder on core's own sudo plugin."""
    plugin = become_loader.get("sudo")
    plugin.set_options(direct={"become_user": "app", "become_pass": "secret"})
    made = become.recorder(plugin)
    assert made is not None
    return made


def core_command(text: str) -> bytes:
    """Return what core's action plugins make of a wrapped command."""
    return f"/bin/sh -c {shlex.quote(text + ' && sleep 0')}".encode()


def test_a_plugin_has_one_recorder(recorder: become.Recorder) -> None:
    assert become.recorder(recorder.plugin) is recorder
    assert become.recorder(None) is None


def test_the_plain_command_is_noted(recorder: become.Recorder, shell: Any) -> None:
    """Ansible fact 24."""
    text = recorder.plugin.build_become_command("LANG=C /usr/bin/python3", shell)
    assert recorder.last is not None
    assert recorder.last.plain == "LANG=C /usr/bin/python3"
    assert recorder.made(core_command(text))
    assert not recorder.made(core_command(text + " "))
    assert not recorder.made(core_command("/usr/bin/python3")), "sudoable=False stays unprivileged"


def test_a_command_of_our_own_leaves_no_trace(recorder: become.Recorder, shell: Any) -> None:
    """Ansible fact 24: what core waits for is the mark of its own command."""
    recorder.plugin.build_become_command("true", shell)
    state = [getattr(recorder.plugin, name) for name in ("success", "prompt", "_id")]
    last = recorder.last
    with recorder.wrapping("launcher", shell) as wrapped:
        assert wrapped.success in wrapped.text
        assert wrapped.success != state[0]
    assert [getattr(recorder.plugin, name) for name in ("success", "prompt", "_id")] == state
    assert recorder.last is last


def test_settings_are_the_same_for_the_same_plugin_options(recorder: become.Recorder, shell: Any) -> None:
    before = recorder.settings(shell)
    assert before is not None
    assert recorder.settings(shell) == before
    assert "secret" not in before, "a password is never on a command line"
    recorder.plugin.set_option("become_flags", "-H -S -E")
    assert recorder.settings(shell) != before


def test_a_plugin_whose_commands_differ_by_themselves_has_no_agents(
    recorder: become.Recorder, shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its tasks would start one."""
    counter = iter(range(10))
    original = recorder._build
    monkeypatch.setattr(recorder, "_build", lambda cmd, shell: f"{original(cmd, shell)} {next(counter)}")
    assert recorder.settings(shell) is None


@pytest.mark.parametrize(
    ("plain", "interpreter"),
    [
        ("/usr/libexec/platform-python /home/u/tmp/AnsiballZ_setup.py", "/usr/libexec/platform-python"),
        ("A='b c' /opt/python /tmp/AnsiballZ_command.py", "/opt/python"),
        ("/bin/sh /tmp/AnsiballZ", ""),
        ("python3 /tmp/AnsiballZ_command.py", ""),
        ("echo 'open", ""),
    ],
)
def test_the_interpreter_of_a_module_that_came_as_a_file(plain: str, interpreter: str) -> None:
    """It is the one that the next module will want."""
    assert become.module_interpreter(plain) == interpreter


def test_what_sudo_shows_a_task(recorder: become.Recorder, shell: Any) -> None:
    recorder.plugin.build_become_command("/usr/bin/python3", shell)
    assert recorder.last is not None
    expected = f"/bin/sh -c echo {recorder.plugin.success} ; /usr/bin/python3"
    assert become.sudo_command(recorder.last) == expected.encode()


def test_a_key_depends_on_every_part_and_the_secret() -> None:
    """Rule 9."""
    names = {
        become.agent_key(secret, *parts)
        for secret in (b"one", b"two")
        for parts in (
            (b"link", "sudo", None),
            (b"link", "sudo", ""),
            (b"link", "su", "do"),
            (b"linksu", "do", None),
        )
    }
    assert len(names) == 8
