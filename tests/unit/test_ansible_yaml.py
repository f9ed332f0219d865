# SPDX-License-Identifier: GPL-3.0-or-later
"""Fatline's loader and that of the ansible-core installed: the same objects, warnings and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.utils.yaml import from_yaml
from ansible.utils.display import Display

from fatline.ansible import yaml_compare, yaml_loader

try:
    from ansible._internal._datatag._tags import Origin, TrustedAsTemplate
except ImportError:  # before 2.19
    Origin = None

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "documents.json").read_text())

# Each is loaded by the extension, not by core.
HANDLED = VECTORS["handled"] | {
    "large integers": f"[9223372036854775808, -{10**30}, 0x{16**20:x}, {10**20}:30]",
    "long float": f"[0.{'123456789' * 12}]",
    "long key": f"? {'k' * 2000}\n: v\n",
    "many keys": "\n".join(f"key{i}: value{i}" for i in range(3000)),
    "deep": "[" * 600 + "]" * 600,
}

# Each is left to core, which builds it or complains.
LEFT = VECTORS["left"] | {
    "too deep": "[" * 2000 + "]" * 2000,
    "lone surrogate": "a: \udce4\n",
}

# What version does what.
SOMETIMES = VECTORS["sometimes"]


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
