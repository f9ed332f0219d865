# SPDX-License-Identifier: GPL-3.0-or-later
"""Core's question for the stack, at the start of a strategy, is answered as ever, and sooner."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from ansible.utils.display import Display

from fatline.ansible import strategy


def stack() -> list[tuple[Any, ...]]:
    return [(frame.filename, frame.function, frame.code_context) for frame in inspect.stack()]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """inspect as it is in a process that has not asked it anything yet."""
    monkeypatch.setattr(inspect, "modulesbyfile", {})
    monkeypatch.setattr(inspect, "_filesbymodname", {})


def searched() -> dict[str, str]:
    """What inspect keeps of a search through all modules."""
    return inspect._filesbymodname  # type: ignore[attr-defined, no-any-return]


def forget() -> None:
    searched().clear()
    inspect.modulesbyfile.clear()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("forgetful")
def test_the_stack_is_the_same_and_no_module_is_searched_for() -> None:
    found, searches = {}, {}
    for introduced in (True, False):
        forget()
        if introduced:
            strategy._introduce_callers()
        found[introduced] = stack()
        searches[introduced] = len(searched())
    assert found[True] == found[False]
    assert searches[True] == 0 < searches[False]


@pytest.mark.usefixtures("forgetful")
@pytest.mark.skipif(not hasattr(Display, "_deprecated_with_plugin_info"), reason="before ansible-core 2.19")
def test_a_deprecation_names_who_it_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        Display, "_deprecated_with_plugin_info", lambda self, **kwargs: told.append(kwargs["deprecator"])
    )
    Display().deprecated("first", version="9.9")
    forget()
    strategy._introduce_callers()
    Display().deprecated("second", version="9.9")
    assert len(told) == 2
    assert told[0] == told[1]
    assert searched() == {}
