# SPDX-License-Identifier: GPL-3.0-or-later
"""Validating keywords gives what core's own function gives: value, type, tags, error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.playbook.base import FieldAttributeBase
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from ansible.playbook.handler_task_include import HandlerTaskInclude
from ansible.playbook.loop_control import LoopControl
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.playbook.role_include import IncludeRole
from ansible.playbook.task import Task
from ansible.playbook.task_include import TaskInclude
from ansible.plugins import loader
from ansible.utils.collection_loader import AnsibleCollectionConfig
from ansible.utils.sentinel import Sentinel

from fatline.ansible import keywords

if not hasattr(FieldAttributeBase, "post_validate_attribute"):
    pytest.skip("ansible-core before 2.19", allow_module_level=True)

engine = pytest.importorskip("ansible._internal._templating._engine")
tags = pytest.importorskip("ansible._internal._datatag._tags")

KINDS = [Task, Handler, Block, PlayContext, LoopControl, Play, TaskInclude, HandlerTaskInclude, IncludeRole]
ORIGIN = tags.Origin(path="/playbook.yml", line_num=1, col_num=1)
TRUST = tags.TrustedAsTemplate()

PLAIN: list[Any] = [None, True, False, 0, 1, -5, 1.5, "", "text", "yes", "12", b"", b"x", (), Sentinel]
CONTAINERS: list[Any] = [[], ["a"], [[]], {}, {"a": 1}, [TRUST.tag("{{ there }}")]]
TEMPLATES = [TRUST.tag("{{ there }}"), TRUST.tag("{{ omit }}"), TRUST.tag("{{ missing }}"), TRUST.tag("")]
UNTRUSTED = [
    "{{ there }}",
    "{% if there %}a{% endif %}",
    "{# there #}",
    "#jinja2: variable_start_string:'['\n[there]",
]
TAGGED = [ORIGIN.tag(value) for value in ("text", "{{ there }}", "#", 7, "", [], {}, ["a"])]
TRUSTED = [
    TRUST.tag(ORIGIN.tag(text))
    for text in ("text", "a } b", "{# there #}b", "#jinja2:a:b", "# c", *UNTRUSTED)
]
VALUES = [*PLAIN, *CONTAINERS, *TEMPLATES, *UNTRUSTED, *TAGGED, *TRUSTED]


@pytest.fixture(autouse=True)
def collections() -> None:
    """Core's own collection, in which it looks for the module that a task names."""
    if AnsibleCollectionConfig.collection_finder is None:
        loader.init_plugin_loader()


class Kind(int):
    """A number that says more than a number."""


@pytest.fixture
def shortened() -> Iterator[Any]:
    """What is installed, around core's own function."""
    genuine = FieldAttributeBase.post_validate_attribute
    genuine = getattr(genuine, "__wrapped__", genuine)
    yield keywords._shortened(genuine)


def outcome(function: Any, kind: type, name: str, value: Any) -> Any:
    """Everything that can be told of one validation."""
    owner = kind()
    setattr(owner, f"_{name}", value)
    templar = engine.TemplateEngine(variables={"there": "value"})
    try:
        got = function(owner, name, templar=templar)
    except Exception as error:
        return type(error), str(error)
    return (
        type(got),
        re.sub(" at 0x[0-9a-f]+", "", repr(got)),
        tags.Origin.get_tag(got),
        TRUST.is_tagged_on(got),
        got is value,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_every_keyword(kind: type, shortened: Any) -> None:
    genuine = shortened.__wrapped__
    checked = 0
    for name in kind.fattributes:  # type: ignore[attr-defined]
        for value in [*VALUES, Kind(3)]:
            expected = outcome(genuine, kind, name, value)
            assert outcome(shortened, kind, name, value) == expected, (name, value)
            checked += 1
    assert checked > 150


def test_most_keywords_of_a_task_are_answered_without_core() -> None:
    """A shortcut that nothing takes would show the same results."""
    asked = []

    def core(owner: Any, name: str, *, templar: Any) -> None:
        asked.append(name)

    again = keywords._shortened(core)
    task = Task()
    for name in Task.fattributes:
        again(task, name, templar=engine.TemplateEngine(variables={}))
    assert len(asked) < len(Task.fattributes) / 2


def test_a_list_is_the_caller_s_own(shortened: Any) -> None:
    """Two tasks that both have no tags must not come to share those that one of them gets."""
    task = Task()
    task._notify = kept = []
    templar = engine.TemplateEngine(variables={})
    for function in (shortened.__wrapped__, shortened):
        got = function(task, "notify", templar=templar)
        assert got == []
        assert got is not kept
