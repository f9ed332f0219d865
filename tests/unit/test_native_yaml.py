# SPDX-License-Identifier: BSD-3-Clause
"""The extension's libyaml binding: events, positions, errors and limits."""

from __future__ import annotations

import pytest

from fatline import _native

Event = tuple[str, str | None, str | None, str | None, str, int, int]


def body(text: str) -> list[Event]:
    """The events of one document without what surrounds it."""
    events = _native.parse_yaml_events(text.encode())
    assert [event[0] for event in events[:2]] == ["stream-start", "document-start"]
    assert [event[0] for event in events[-2:]] == ["document-end", "stream-end"]
    return events[2:-2]


def test_every_kind_of_event() -> None:
    assert body("&all\nkey: [1, 'two']\nagain: *all\n") == [
        ("mapping-start", None, "all", None, "block", 1, 1),
        ("scalar", "key", None, None, "plain", 2, 1),
        ("sequence-start", None, None, None, "flow", 2, 6),
        ("scalar", "1", None, None, "plain", 2, 7),
        ("scalar", "two", None, None, "single-quoted", 2, 10),
        ("sequence-end", None, None, None, "", 2, 15),
        ("scalar", "again", None, None, "plain", 3, 1),
        ("alias", None, "all", None, "", 3, 8),
        ("mapping-end", None, None, None, "", 4, 1),
    ]


@pytest.mark.parametrize(
    "text, style, value",
    [
        ("plain", "plain", "plain"),
        ('"a\\tb"', "double-quoted", "a\tb"),
        ("'it''s'", "single-quoted", "it's"),
        ("|\n  a\n  b\n", "literal", "a\nb\n"),
        (">\n  a\n  b\n", "folded", "a b\n"),
        ('"nul \\0 inside"', "double-quoted", "nul \0 inside"),
        ('"\\u00e9 \\U0001f600"', "double-quoted", "\u00e9 \U0001f600"),
    ],
)
def test_scalars(text: str, style: str, value: str) -> None:
    assert body(text) == [("scalar", value, None, None, style, 1, 1)]


def test_tags() -> None:
    (event,) = body("!vault secret")
    assert event[3] == "!vault"
    (event,) = body("!!str 5")
    assert event[3] == "tag:yaml.org,2002:str"


def test_an_empty_stream() -> None:
    assert [event[0] for event in _native.parse_yaml_events(b"")] == ["stream-start", "stream-end"]


def test_other_encodings_libyaml_knows() -> None:
    events = _native.parse_yaml_events("a: \u00e9".encode("utf-16"))
    assert [event[1] for event in events if event[0] == "scalar"] == ["a", "\u00e9"]


@pytest.mark.parametrize(
    "text, line, column, words",
    [
        (b"a: [1,\n}", 2, 1, "did not find expected node content"),
        (b"a: 1\n  b: 2\n", 2, 4, "mapping values are not allowed"),
        (b"x\n\xff", None, None, "UTF-8"),
        (b"a: \x01", None, None, "control characters"),
        (b"'open", 1, 6, "unexpected end of stream"),
    ],
)
def test_errors_have_a_place(text: bytes, line: int | None, column: int | None, words: str) -> None:
    with pytest.raises(_native.YamlError, match=words) as caught:
        _native.parse_yaml_events(text)
    if line is not None:
        assert (caught.value.line, caught.value.column) == (line, column)
    assert caught.value.line >= 1
    assert isinstance(caught.value, ValueError)


def test_limit_of_depth() -> None:
    assert body("[" * 10 + "]" * 10)
    with pytest.raises(_native.YamlError, match="nested too deeply") as caught:
        _native.parse_yaml_events(b"[" * 11 + b"]" * 11, max_depth=10)
    assert caught.value.column == 11


def test_depth_counts_open_collections_only() -> None:
    assert _native.parse_yaml_events(b"- []\n" * 100, max_depth=2)


def test_limit_of_events() -> None:
    events = _native.parse_yaml_events(b"- 1\n" * 100)
    assert _native.parse_yaml_events(b"- 1\n" * 100, max_events=len(events)) == events
    with pytest.raises(_native.YamlError, match="too many nodes"):
        _native.parse_yaml_events(b"- 1\n" * 100, max_events=len(events) - 1)


def test_limit_of_bytes() -> None:
    assert _native.parse_yaml_events(b"abcd", max_bytes=4)
    with pytest.raises(_native.YamlError, match="too long"):
        _native.parse_yaml_events(b"abcde", max_bytes=4)


def test_a_deep_document_does_not_overflow_the_stack() -> None:
    with pytest.raises(_native.YamlError):
        _native.parse_yaml_events(b"[" * 1_000_000)


def test_an_alias_bomb_stays_as_small_as_it_is_written() -> None:
    """Billion laughs, systems fact 39: events share aliases, so 9 ** 12 nodes are 200 events."""
    lines = ["a0: &a0 x"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 13)]
    assert len(body("\n".join(lines))) < 200


def test_any_buffer_and_nothing_else() -> None:
    assert _native.parse_yaml_events(memoryview(bytearray(b"a"))) == _native.parse_yaml_events(b"a")
    with pytest.raises(TypeError):
        _native.parse_yaml_events("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [b"a: {b: [1, 2", b"- a\n- &x b\n- *x\n- !t {k: v}\n", b"%YAML 1.1\n---\n|\n  x\n"]
)
def test_every_truncation_is_an_answer(text: bytes) -> None:
    for size in range(len(text) + 1):
        try:
            assert _native.parse_yaml_events(text[:size])
        except _native.YamlError as error:
            assert error.line >= 1
