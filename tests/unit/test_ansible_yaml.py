# SPDX-License-Identifier: GPL-3.0-or-later
"""Fatline's loader and that of the ansible-core installed: the same objects, warnings and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible.parsing.utils.yaml import from_yaml
from ansible.utils.display import Display

from fatline.ansible import yaml_compare, yaml_loader

try:
    from ansible._internal._datatag._tags import Origin, TrustedAsTemplate
except ImportError:  # before 2.19
    Origin = None

VAULT = """!vault |
    $ANSIBLE_VAULT;1.1;AES256
    38393234653935616539643138386137353333626634323834366239313765633562323833373963
    6535393264366134613665366630643139643066626233620a343635306666643636316539353132
"""

# Each is loaded by the extension, not by core.
HANDLED = {
    "scalars": "[x, 'x', \"x\", 1, -1, 1.5, true, No, ~, null, '', 'true', \"1\", '~']",
    "integers": "[0, -0, 0x1F, -0x_f, 0b101, 017, 0_7, 1_000, +12, 1:30, -190:20:30, 9223372036854775807]",
    "large integers": f"[9223372036854775808, -{10**30}, 0x{16**20:x}, {10**20}:30]",
    "not integers": "[08, 0o17, 0x, 0b2, 1:60, 0:30, 1__, _1, 1e5, '12', 12 ]",
    "floats": "[1., .5, 1.5e+3, -1_0.2_5, 1.e-2, 0.1, 1e+3, 1.0e3, 3.14159265358979323846264338327950288]",
    "odd floats": "[.inf, -.INF, +.Inf, .nan, .NaN, 190:20:30.15, -1:30., .5_, ._5, -.5]",
    "long float": f"[0.{'123456789' * 12}]",
    "booleans": "[yes, Yes, YES, yES, y, n, on, Off, TRUE, tRUE, False, nO]",
    "nulls": "[~, null, Null, NULL, nULL, {a: , ? b}]",
    "timestamps": "[2001-12-14, 2001-12-14T21:59:43.10-05:00, 2001-12-14 21:59:43, 2001-1-1 1:02:03 +1]",
    "timestamp keys": "2001-12-14: a\n2001-12-14 21:59:43Z: b\n",
    "explicit tags": "[!!str 12, !!int 12, !!float 1.5, !!bool yes, !!null x, !!seq [a], !!map {a: b}]",
    "python tags": "[!!python/unicode x, !!python/dict {a: b}]",
    "non-specific tags": "[! 12, ! '12', ! \"12\\n\", ! x, ! [a], ! {a: b}, ! '']",
    "binary": "[!!binary eA==, !!binary '']",
    "literal": "a: |\n  one\n  two\n\nb: |-\n  one\nc: |+\n  one\n\nd: |2\n    x\n",
    "folded": "a: >\n  folded\n  text\n\n  more\n   in\nb: >-\n  x\n",
    "numbers in blocks": "a: |\n  12\nb: >-\n  12\n",
    "double quoted": r'"a\tb\x41\u00e4\U0001F600\N\_\L\P\e\0 \
        continued"',
    "plain over lines": "a: one\n  two\n\n  three\nb: 'x\n\n  y'\n",
    "unicode": "ä: ö\n日本: [語, '\U0001f600']\nkey: x\ufeffy\n",
    "nested": "a:\n  - b:\n      c: [d, {e: f}]\n    g: h\n  -\n    - i\n  - - j\n    - k\n",
    "compact": "- a: 1\n  b: 2\n-   c: 3\n-\n  d: 4\n",
    "complex keys": "? a\n: b\n? |\n  block\n: c\n2: x\n1.5: y\ntrue: z\n~: n\n? 'q'\n",
    "flow": "{a: [b, c: d, ? e : f], 'g': h, \"i\":j, k}",
    "empty collections": "a: []\nb: {}\nc: [[], {}]\n",
    "aliases": "a: &x [1]\nb: *x\nc: &y {k: *x}\nd: [*y, *y]\ne: &z text\nf: *z\n*z : key\n",
    "recursive": "&a [x, *a, &b {me: *b, up: *a}]",
    "merge": "a: &a {x: 1, y: 2}\nb: {<<: *a, z: 3}\nc:\n  z: 3\n  <<: *a\n",
    "merge a list": "a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: [*a, *b, {z: 3}]}\n",
    "merge twice": "{<<: {a: 1}, b: 2, <<: {c: 3}}",
    "merge a merge": "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n",
    "merge shares": "a: &a {x: [1], y: {z: 1}}\nb: {<<: *a}\nc: {<<: *a}\n",
    "merge quoted": "{'<<': 1, \"<<\": 2}",
    "merge tagged": "{<<: !anything {a: b}}",
    "value key": "{=: 1}",
    "unsafe": "- !unsafe '{{ x }}'\n- !unsafe 12\n- !unsafe '12'\n- !unsafe\n- !unsafe |\n  {{ y }}\n",
    "unsafe key": "!unsafe '{{ x }}': y\n",
    "vault": f"a: {VAULT}b: {VAULT}",
    "templates": "- name: '{{ x }}'\n  when: x is defined\n  loop: \"{{ y }}\"\n",
    "comments": "# head\na: 1 # tail\n# between\nb: # nothing\n# end\n",
    "markers": "---\na: 1\n...\n",
    "marker and text": "--- text\n",
    "marker and block": "--- |\n  text\n",
    "directives": "%YAML 1.1\n%TAG !e! tag:yaml.org,2002:\n---\na: !e!str 12\n",
    "version": "%YAML 1.2\n---\na: yes\n",
    "empty": "",
    "spaces": "  \n\n",
    "comment": "# nothing here\n",
    "empty document": "---\n",
    "two markers": "---\n...\n",
    "mark": "\ufeffa: 1\n",
    "mark before marker": "\ufeff---\na: 1\n",
    "windows": "a: 1\r\nb:\r\n  - c\r\n",
    "old mac": "a: 1\rb: 2\r",
    "next line": "a: 1\x85b: 2\x85",
    "tabs": "a:\t1\nb: [\t2 ]\n",
    "no line end": "a: b",
    "colons": "a: b:c\nd: e::f\nurl: http://x/y\n",
    "hashes": "a: b#c\nd: '#e'\n",
    "long key": f"? {'k' * 2000}\n: v\n",
    "many keys": "\n".join(f"key{i}: value{i}" for i in range(3000)),
    "deep": "[" * 600 + "]" * 600,
    "json": '{"a": [1, 1.5, "x", true, null, {"b": {}}]}',
    "json text": '"text"',
    "json number": "12",
    "nearly json": '{"a": [1, x]}',
    "json unsafe": '{"a": {"__ansible_unsafe": "{{ x }}"}}',
    "inventory": "all:\n  children:\n    web:\n      hosts:\n        host[01:10]:\n          port: 22\n"
    "        other:\n      vars: {a: b}\n",
    "play": "- hosts: all\n  tasks:\n    - name: x\n      command: echo {{ a }}\n      when: a == 'b'\n"
    "      vars:\n        c: d\n    - debug: msg='x y'\n",
    "windows path": "path: c:\\windows\nq: 'it''s'\n",
    "duplicate keys": "a: 1\nb: 2\na: 3\nb: {c: 1, c: 2}\na: 4\n",
    "duplicate by merge": "a: &a {x: 1}\nb: {<<: *a, x: 2}\n",
    "duplicate by alias": "[&a x, {*a : 1, x: 2}]",
}

# Each is left to core, which builds it or complains.
LEFT = {
    "set": "!!set {a, b}",
    "ordered map": "!!omap [a: 1, b: 2]",
    "pairs": "!!pairs [a: 1, a: 2]",
    "unknown tag": "a: !thing b\n",
    "unknown tag on a list": "!thing [a]",
    "unsafe list": "!unsafe [a, {b: c}]",
    "vault list": "!vault [a]",
    "wrong kind": "!!str [a]",
    "wrong kind of scalar": "!!seq a",
    "bad integer": "!!int x",
    "bad boolean": "!!bool x",
    "integer without digits": "0x_",
    "bad timestamp": "2001-13-14",
    "bad binary": "!!binary ä",
    "value": "[=]",
    "merge as a value": "[<<]",
    "merge a scalar": "{<<: 1}",
    "merge a list of scalars": "{<<: [1]}",
    "merge itself": "&a {<<: *a, b: 1}",
    "list as key": "{[a]: b}",
    "mapping as key": "{{a: b}: c}",
    "template without quotes": "a: {{ b }}\n",
    "undefined alias": "a: *b\n",
    "duplicate anchor": "[&a 1, &a 2]",
    "two documents": "--- a\n--- b\n",
    "unclosed list": "a: [b\nc: d\n",
    "unclosed quote": "a: 'b\n",
    "quotes inside": 'a: "b" c\n',
    "colon in a value": "a: b: c\n",
    "tab for a space": "a:\n\t- b\n",
    "bad indentation": "a:\n  - b\n c: d\n",
    "bad escape": '"\\q"',
    "half a pair": 'a: "\\ud800"',
    "control character": "a: \x01\n",
    "null byte": "a: \0\n",
    "bad directive": "%YAML 2.0\n---\na\n",
    "unknown handle": "!e!x a",
    "reserved": "a: @b\n",
    "too deep": "[" * 2000 + "]" * 2000,
    "lone surrogate": "a: \udce4\n",
    "duplicate numbers": "{1: a, 1: b}",
}

# From 2.19 on core has words about this tag.
SOMETIMES = {"vault by its old name": VAULT.replace("!vault", "!vault-encrypted")}


class Spoken:
    """What core said, instead of showing it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self) -> list[str]:
        taken, self.lines = self.lines, []
        return taken


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoken]:
    """Let warnings and deprecations come to us, each as often as it is asked for."""
    spoken = Spoken()

    def note(self: Display, msg: str, *args: Any, **kwargs: Any) -> None:
        # Where the object came from is a part of what is shown.
        origin = Origin.get_tag(kwargs.get("obj")) if Origin is not None else None
        details = {name: value for name, value in kwargs.items() if name != "obj"}
        spoken.lines.append(f"{msg} {args} {details} {origin}")

    for method in ("warning", "deprecated", "debug"):
        monkeypatch.setattr(Display, method, note)
    yield spoken


def source(text: str, trusted: bool) -> Any:
    """The text as core's DataLoader hands it on."""
    if Origin is None:
        return text
    tags = [Origin(path="/some/file.yml")]
    return TrustedAsTemplate().tag(tags[0].tag(text)) if trusted else tags[0].tag(text)


def outcome(load: Any, data: Any) -> tuple[Any, str]:
    """What a loader returns, and what it raises in words."""
    try:
        return load(data, "/some/file.yml", True, None), ""
    except Exception as error:
        cause = error.__cause__ or getattr(error, "orig_exc", None)
        position = getattr(getattr(error, "obj", None), "ansible_pos", None) or getattr(error, "obj", None)
        return None, f"{type(error).__name__}: {error} ({type(cause).__name__}) {position}"


def check_same(text: str, spoken: Spoken, trusted: bool) -> None:
    data = source(text, trusted)
    spoken.take()
    theirs, their_error = outcome(from_yaml, data)
    their_words = spoken.take()
    ours, our_error = outcome(yaml_loader.serving(from_yaml), data)
    assert our_error == their_error
    assert spoken.take() == their_words
    assert yaml_compare.difference(ours, theirs) == ""


def test_the_installed_core_fits() -> None:
    assert yaml_loader.available() == ""


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", HANDLED)
def test_handled(name: str, trusted: bool, spoken: Spoken) -> None:
    yaml_loader.load(source(HANDLED[name], trusted), "/some/file.yml")
    check_same(HANDLED[name], spoken, trusted)


@pytest.mark.parametrize("name", LEFT)
def test_left_to_core(name: str, spoken: Spoken) -> None:
    with pytest.raises(yaml_loader.NotHandled):
        yaml_loader.load(source(LEFT[name], True), "/some/file.yml")
    assert not spoken.take()
    check_same(LEFT[name], spoken, True)


@pytest.mark.parametrize("name", SOMETIMES)
def test_handled_or_not(name: str, spoken: Spoken) -> None:
    check_same(SOMETIMES[name], spoken, True)
