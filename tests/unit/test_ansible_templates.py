# SPDX-License-Identifier: GPL-3.0-or-later
"""A template of a plain reference is compiled once and gives what it gave before; all others are core's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fatline.ansible import templates

bits = pytest.importorskip("ansible._internal._templating._jinja_bits", reason="ansible-core before 2.19")
engine = pytest.importorskip("ansible._internal._templating._engine")
tags = pytest.importorskip("ansible._internal._datatag._tags")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What core compiles, once the memory is installed."""
    seen: list[str] = []
    genuine = bits.AnsibleEnvironment.compile
    genuine = getattr(genuine, "__wrapped__", genuine)

    def noting(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(str(source))
        return genuine(self, source, *args, **kwargs)

    monkeypatch.setattr(bits.AnsibleEnvironment, "compile", noting)
    templates.install()
    yield seen


def trusted(text: str, line: int = 1) -> Any:
    origin = tags.Origin(path="/playbook.yml", line_num=line, col_num=1)
    return tags.TrustedAsTemplate().tag(origin.tag(text))


def render(text: str, **variables: Any) -> Any:
    return engine.TemplateEngine(variables=variables).template(trusted(text))


@pytest.mark.parametrize("text", ["{{ item }}", "{{item}}", "{{ item.name }}", "{{ item.name[0].x }}"])
def test_a_reference_is_compiled_once(compiled: list[str], text: str) -> None:
    values = [{"name": [{"x": number}]} for number in range(3)]
    results = [render(text, item=value) for value in values]
    assert compiled == [text]
    assert len({str(result) for result in results}) == 3
    templates.install()
    assert render(text, item=values[0]) == results[0]


@pytest.mark.parametrize(
    "text",
    [
        "{{ item | upper }}",
        "{{ item is defined }}",
        "{{ 'a' }}",
        "{{ item['name'] }}",
        "{{ item() }}",
        "{{ item + item }}",
        "{{ item }} and more",
        " {{ item }}",
        "{{ item }}{{ item }}",
        "{% set item = 1 %}{{ item }}",
        "{{- item -}}",
        "{{ not }}",
        "{{ true }}",
        "#jinja2: variable_start_string: '[['\n{{ item }}",
    ],
)
def test_everything_else_is_compiled_each_time(compiled: list[str], text: str) -> None:
    for _ in range(2):
        try:
            render(text, item="a")
        except Exception as error:
            assert "item" in str(error) or "Syntax" in str(error) or "'" in str(error)
    assert len(compiled) == 2


def test_a_failure_names_the_place_of_each_template(compiled: list[str]) -> None:
    """The text is the same, where it was written is not."""
    for line in (3, 7):
        with pytest.raises(Exception, match="missing") as caught:
            engine.TemplateEngine(variables={}).template(trusted("{{ missing }}", line))
        assert tags.Origin.get_tag(caught.value.obj).line_num == line
    assert compiled == ["{{ missing }}"]


def test_what_is_not_trusted_is_not_rendered(compiled: list[str]) -> None:
    render("{{ item }}", item=1)
    assert engine.TemplateEngine(variables={"item": 1}).template("{{ item }}") == "{{ item }}"


def test_values_keep_their_own_tags(compiled: list[str]) -> None:
    here, there = trusted("a", 3), trusted("b", 7)
    for value in (here, there):
        assert tags.Origin.get_tag(render("{{ item }}", item=value)).line_num in (3, 7)
    assert tags.Origin.get_tag(render("{{ item }}", item=there)).line_num == 7
    assert len(compiled) == 1
