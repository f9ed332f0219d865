# SPDX-License-Identifier: BSD-3-Clause
"""The YAML loader of the extension with types of our own; test_ansible_yaml.py has it with ansible-core's."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from fatline import _native


class Text(str):
    """Text with a dictionary for the position."""


class Items(list):  # type: ignore[type-arg]
    """A list with a dictionary for the position."""


class Mapping(dict):  # type: ignore[type-arg]
    """A dictionary with a dictionary for the position."""


class Tags(dict):  # type: ignore[type-arg]
    """Tags by their type."""


class Origin:
    """A position as a tag."""

    __slots__ = ("column", "line", "path")
    path: str
    line: int
    column: int


class TaggedText(str):
    """Text with a slot."""

    __slots__ = ("tags",)


class TaggedItems(list):  # type: ignore[type-arg]
    """A list with a slot."""

    __slots__ = ("tags",)


class TaggedMapping(dict):  # type: ignore[type-arg]
    """A dictionary with a slot."""

    __slots__ = ("tags",)


class Number(int):
    """A number; it cannot have slots."""


class Trust:
    """A tag that only strings get."""


POSITIONS: Any = (Text, None, None, Items, Mapping)
TAGGED: Any = (TaggedText, Number, None, TaggedItems, TaggedMapping)
TAGS: Any = ("tags", Tags, Origin, ("path",), "line", "column")


def positions() -> _native.YamlLoader:
    return _native.YamlLoader(POSITIONS, attributes=("source", "line", "column"))


def load(data: str | bytes, **options: Any) -> Any:
    def other(tag: str, text: str, line: int, column: int) -> tuple[str, str, int, int]:
        return tag, text, line, column

    return positions().load(data, "the source", other, **options)[0]


def place(thing: Any) -> tuple[str, int, int]:
    return thing.source, thing.line, thing.column


def test_values() -> None:
    loaded = load("a: [1, '1', 1.5, true, ~, x]\nb: {c: 0x10}\n")
    assert loaded == {"a": [1, "1", 1.5, True, None, "x"], "b": {"c": 16}}
    assert [type(item) for item in loaded["a"]] == [int, Text, float, bool, type(None), Text]


def test_positions_are_attributes() -> None:
    loaded = load("a:\n- ä: [b]\n")
    assert place(loaded) == ("the source", 1, 1)
    assert place(loaded["a"]) == ("the source", 2, 1)
    assert place(next(iter(loaded["a"][0]))) == ("the source", 2, 3)
    assert place(loaded["a"][0]["ä"]) == ("the source", 2, 6)


def test_rare_scalars_are_the_callers() -> None:
    assert load("- 2001-12-14\n- !vault x\n- !!binary eA==\n- .inf\n") == [
        ("tag:yaml.org,2002:timestamp", "2001-12-14", 0, 2),
        ("!vault", "x", 1, 2),
        ("tag:yaml.org,2002:binary", "eA==", 2, 2),
        ("tag:yaml.org,2002:float", ".inf", 3, 2),
    ]


def test_tags() -> None:
    origin = Origin()
    origin.path, origin.line, origin.column = "/x", 7, 9
    trust = Trust()
    loader = _native.YamlLoader(TAGGED, tags=TAGS)
    loaded, _ = loader.load("k: [v, 5]", origin, print, first_line=10, extra_tags=(trust,))
    [key] = loaded
    assert list(key.tags) == [Origin, Trust]
    assert key.tags[Trust] is trust
    assert list(loaded.tags) == [Origin]
    text, number = loaded["k"]
    place = text.tags[Origin]
    assert (type(place), place.path, place.line, place.column) == (Origin, "/x", 10, 5)
    assert type(number) is Number and number.tags[Origin].column == 8
    assert type(number.tags) is Tags and Trust not in number.tags
    assert (origin.line, origin.column) == (7, 9)


def test_aliases_are_the_same_object() -> None:
    loaded = load("- &a [x]\n- *a\n- &b {self: *b}\n")
    assert loaded[0] is loaded[1]
    assert loaded[2]["self"] is loaded[2]


def test_merged_pairs_come_first() -> None:
    loaded = load("- &a {x: &x [1]}\n- {y: 2, <<: *a}\n")
    assert list(loaded[1]) == ["x", "y"]
    assert loaded[1]["x"] is loaded[0]["x"]


def test_duplicates_are_told_in_the_order_of_construction() -> None:
    text = "a: {b: {c: 1, c: 2}, d: 1, d: 2}\ne: 1\ne: 2\n"
    loaded, duplicates = positions().load(text, "", print)
    assert loaded == {"a": {"b": {"c": 2}, "d": 2}, "e": 2}
    assert [(key, place(key)[1:]) for key, _ in duplicates] == [("e", (3, 1)), ("d", (1, 28)), ("c", (1, 15))]
    assert duplicates[2][1] is loaded["a"]["b"]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa: \xc3\xa4", "a: ä".encode("utf-16"), "\ufeffa: ä"])
def test_encodings(data: str | bytes) -> None:
    assert load(data) == {"a": "ä"}


def test_nothing_is_none() -> None:
    assert load("") is None
    assert load("# only a comment") is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [\n}", 2, "did not find"),
        ("- 1\n- !thing x", 2, "tag of its own"),
        ("- !!set {a}", 1, "tag of its own"),
        ("- =\n", 1, "tag of its own"),
        ("--- a\n--- b\n", 2, "more than one document"),
    ],
)
def test_what_is_not_built(text: str, line: int, words: str) -> None:
    with pytest.raises(_native.YamlError, match=words) as caught:
        load(text)
    assert caught.value.line == line and caught.value.column >= 1


@pytest.mark.parametrize(
    ("limit", "words"), [("max_bytes", "too long"), ("max_nodes", "too many nodes"), ("max_depth", "deeply")]
)
def test_limits(limit: str, words: str) -> None:
    assert load("[[[x]]]", **{limit: 7})
    with pytest.raises(_native.YamlError, match=words):
        load("[[[x]]]", **{limit: 2})


def test_depth_costs_no_stack() -> None:
    depth = 900
    loaded = load("[" * depth + "]" * depth)
    for _ in range(depth - 1):
        [loaded] = loaded
    assert loaded == []


@pytest.mark.parametrize("enabled", [True, False])
def test_collector_is_left_as_it_was(enabled: bool) -> None:
    seen = []

    def other(*_: Any) -> None:
        seen.append(gc.isenabled())
        raise KeyError

    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        load("[a, b]")
        with pytest.raises(KeyError):
            positions().load("!vault x", "", other)
        assert seen == [False]
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_unhashable_keys_raise() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        load("{[a]: b}")


class OwnConstructor(str):
    """Would have to be called."""

    def __new__(cls, text: str) -> OwnConstructor:
        return super().__new__(cls, text)


class OwnItems(dict):  # type: ignore[type-arg]
    """Sets items in a way of its own."""

    def __setitem__(self, key: object, value: object) -> None:
        raise NotImplementedError


class OwnHash(str):
    """Compares in a way of its own."""

    def __hash__(self) -> int:
        return 1


class MoreThanSlots(Origin):
    """Has a dictionary as well."""


@pytest.mark.parametrize(
    ("types", "tags"),
    [
        ((OwnConstructor, None, None, Items, Mapping), None),
        ((OwnHash, None, None, Items, Mapping), None),
        ((Text, None, None, Items, OwnItems), None),
        ((Items, None, None, Items, Mapping), None),
        ((None, None, None, Items, Mapping), None),
        ((Text, None, None, Items), None),
        (TAGGED, ("tags", Tags, MoreThanSlots, ("path",), "line", "column")),
        (TAGGED, ("tags", Tags, Origin, (), "line", "column")),
        (TAGGED, ("tags", Tags, Origin, ("path",), "line", "row")),
        (TAGGED, ("tags", OwnConstructor, Origin, ("path",), "line", "column")),
    ],
)
def test_types_that_do_not_fit(types: Any, tags: Any) -> None:
    attributes = None if tags else ("source", "line", "column")
    with pytest.raises(TypeError):
        _native.YamlLoader(types, attributes=attributes, tags=tags)


def test_one_way_to_mark() -> None:
    with pytest.raises(TypeError, match="either"):
        _native.YamlLoader(POSITIONS)
    with pytest.raises(TypeError, match="either"):
        _native.YamlLoader(TAGGED, attributes=("a", "b", "c"), tags=TAGS)


def test_source_must_be_an_origin() -> None:
    with pytest.raises(TypeError, match="origin"):
        _native.YamlLoader(TAGGED, tags=TAGS).load("a", "/x", print)
