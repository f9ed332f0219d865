# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings at their defaults are answered as core answers, whatever sets them afterwards."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleError
from ansible.module_utils.common.collections import ImmutableDict
from ansible.plugins.loader import become_loader, connection_loader, shell_loader

from fatline.ansible import defaults

PLUGINS = [
    (connection_loader, "connection", "ssh"),
    (connection_loader, "connection", "local"),
    (connection_loader, "connection", "psrp"),
    (shell_loader, "shell", "sh"),
    (become_loader, "become", "sudo"),
    (become_loader, "become", "su"),
]
VALUES = ["7", "", "text", None]


def genuine() -> Any:
    """Core's own method."""
    return type(C.config).get_config_value_and_origin.__get__(C.config)


@pytest.fixture
def remembering() -> Iterator[Any]:
    for loader, _, name in PLUGINS:
        loader.get(name, class_only=True)
    yield defaults._remembering(C.config, genuine())


def outcome(ask: Any, *args: Any, **kwargs: Any) -> Any:
    """What a question leads to: answer, its type, or the error."""
    try:
        value, origin = ask(*args, **kwargs)
    except AnsibleError as error:
        return type(error), str(error)
    return value, type(value), origin


def settings() -> Iterator[tuple[str | None, str | None, str, Mapping[str, Any]]]:
    for name, definition in C.config.get_configuration_definitions().items():
        # Everyone who asks for this one gets another directory.
        if name != "DEFAULT_LOCAL_TMP":
            yield None, None, name, definition
    for _, kind, plugin in PLUGINS:
        for name, definition in C.config.get_configuration_definitions(kind, plugin).items():
            yield kind, plugin, name, definition


def questions(name: str, definition: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Ways to ask for a setting: with none of its sources set, and with each of them."""
    yield {}
    for value in VALUES:
        for entry in definition.get("vars") or ():
            yield {"variables": {entry["name"]: value, "other": 1}}
        for entry in definition.get("keyword") or ():
            yield {"keys": {entry["name"]: value}}
        for alias in (name, *(definition.get("aliases") or ())):
            yield {"keys": {alias: value}}
            yield {"direct": {alias: value}}
    yield {"variables": {}, "keys": {}, "direct": {}}
    yield {"variables": {"unrelated": 1}, "keys": {"unrelated": 1}, "direct": {"unrelated": 1}}


def test_every_setting_is_answered_as_core_does(remembering: Any) -> None:
    core = genuine()
    count = 0
    for kind, plugin, name, definition in list(settings()):
        where = {"plugin_type": kind, "plugin_name": plugin}
        for asked in questions(name, definition):
            # The default first, so that it is what is remembered when something is set.
            outcome(remembering, name, **where)
            expected = outcome(core, name, **where, **asked)
            assert outcome(remembering, name, **where, **asked) == expected, (name, asked)
            count += 1
    assert count > 1000


def test_the_environment_is_looked_at_every_time(remembering: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    core = genuine()
    for kind, plugin, name, definition in list(settings()):
        where = {"plugin_type": kind, "plugin_name": plugin}
        for entry in definition.get("env") or ():
            outcome(remembering, name, **where)
            for value in ("7", ""):
                with monkeypatch.context() as patch:
                    patch.setenv(entry["name"], value)
                    expected = outcome(core, name, **where)
                    assert outcome(remembering, name, **where) == expected, entry
            assert outcome(remembering, name, **where) == outcome(core, name, **where)


def test_the_command_line_is_looked_at_every_time(remembering: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"plugin_type": "connection", "plugin_name": "ssh"}
    assert remembering("ssh_extra_args", **where)[1] == "default"
    monkeypatch.setattr(context, "CLIARGS", ImmutableDict(ssh_extra_args="-v"))
    assert remembering("ssh_extra_args", **where) == genuine()("ssh_extra_args", **where)
    assert remembering("ssh_extra_args", **where)[0] == "-v"


def test_what_is_remembered_is_not_asked_for_again(remembering: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(config: str, *args: Any) -> Any:
        asked.append(config)
        return genuine()(config, *args)

    again = defaults._remembering(C.config, ask)
    for _ in range(3):
        assert again("timeout", plugin_type="connection", plugin_name="ssh")[1] == "default"
    assert asked == ["timeout"]
    # Another definition under that name, as of a plugin that was loaded from elsewhere.
    definitions = C.config.get_configuration_definitions("connection", "ssh")
    monkeypatch.setitem(definitions, "timeout", {**definitions["timeout"], "default": 11})
    assert again("timeout", plugin_type="connection", plugin_name="ssh")[0] == 11
    assert asked == ["timeout", "timeout"]


def test_what_could_be_changed_or_depends_on_variables_is_not_remembered(remembering: Any) -> None:
    where = {"plugin_type": "shell", "plugin_name": "sh"}
    taken = remembering("admin_users", **where)[0]
    assert isinstance(taken, list)
    for _, kind, plugin in PLUGINS:
        for name, definition in C.config.get_configuration_definitions(kind, plugin).items():
            default = definition.get("default")
            if isinstance(default, str) and "{{" in default:
                for variables in ({}, {"ansible_user": "x"}, None):
                    asked = {"plugin_type": kind, "plugin_name": plugin, "variables": variables}
                    assert outcome(remembering, name, **asked) == outcome(genuine(), name, **asked)


@pytest.mark.parametrize(
    "sources",
    [{"vars": [{"key": "x"}]}, {"keyword": [{"x": 1}]}, {"cli": [{"option": "x"}]}, {"vars": {"name": "x"}}],
)
def test_sources_of_a_form_of_their_own_are_left_to_core(
    remembering: Any, sources: Mapping[str, Any]
) -> None:
    """Core reads of a source only what it needs; a plugin that works must go on working."""
    C.config.initialize_plugin_configuration_definitions("lookup", "odd", {"o": {"default": "d", **sources}})
    for _ in range(2):
        assert remembering("o", plugin_type="lookup", plugin_name="odd") == ("d", "default")


def test_a_directory_made_for_who_asks_is_not_remembered(
    remembering: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    definitions = C.config.get_configuration_definitions("shell", "sh")
    monkeypatch.setitem(definitions, "made", {"type": "tmppath", "default": str(tmp_path)})
    asked = {"plugin_type": "shell", "plugin_name": "sh"}
    assert len({remembering("made", **asked)[0] for _ in range(3)}) == 3


def test_it_is_installed_once_and_used_by_core(monkeypatch: pytest.MonkeyPatch) -> None:
    # An attribute of this one object, which is taken away again.
    monkeypatch.setattr(C.config, "get_config_value_and_origin", genuine())
    defaults.install()
    installed = C.config.get_config_value_and_origin
    assert installed.fatline
    defaults.install()
    assert C.config.get_config_value_and_origin is installed
    connection_loader.get("ssh", class_only=True)
    options = C.config.get_plugin_options("connection", "ssh", variables={"ansible_ssh_timeout": "33"})
    assert options["timeout"] == 33
    assert C.config.get_plugin_options("connection", "ssh")["timeout"] != 33
    assert C.config.get_config_value_and_origin(config="timeout", plugin_type="connection", plugin_name="ssh")
