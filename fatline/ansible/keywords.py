# SPDX-License-Identifier: GPL-3.0-or-later
"""Keywords of a task that hold nothing to template are validated without a template engine.

From 2.19 on core asks the engine about every keyword of task, block and play context, 118 of them for each
task and for each item of a loop: a quarter of what a worker does. Most hold None, a number, a boolean, a text
without a template or an empty list, and come back as they went in. Those are answered here, others by core.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ansible.playbook.base import FieldAttributeBase
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from ansible.playbook.loop_control import LoopControl
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.utils.sentinel import Sentinel

from fatline.ansible import versions

# Not their subclasses: those that include tasks and roles have rules of their own.
_KNOWN = (Task, Handler, Block, PlayContext, LoopControl)

# By what a keyword is declared to be, the type of the values that come back as they are. Tagged values are
# of types of their own, of which only texts are answered here.
_PLAIN: Mapping[str, type] = {"bool": bool, "int": int, "string": str, "list": list}
_TEXTS = versions.text_types()


def install() -> None:
    """Answer from now on; nothing, where core has no such function."""
    original = getattr(FieldAttributeBase, "post_validate_attribute", None)
    if original is None or hasattr(original, "fatline"):
        return
    FieldAttributeBase.post_validate_attribute = _shortened(original)


def _shortened(original: Any) -> Any:
    @functools.wraps(original)
    def post_validate_attribute(self: Any, name: str, *, templar: Any) -> Any:
        kind: type = type(self)
        plain = _plain_types(kind).get(name)
        if plain is None:
            return original(self, name, templar=templar)
        value = getattr(self, name)
        if value is None or not (self._post_validate_object or name in _always(kind)):
            return Sentinel
        if plain is str:
            if type(value) in _TEXTS and not _may_be_template(value):
                return value
        elif type(value) is plain and (plain is not list or not value):
            # Core's caller may change the list that it gets.
            return [] if plain is list else value
        return original(self, name, templar=templar)

    post_validate_attribute.fatline = True  # type: ignore[attr-defined]
    return post_validate_attribute


class _Other:
    """Stands for the types of which only None is answered here."""


@functools.cache
def _plain_types(kind: type) -> Mapping[str, type]:
    """Return the type that each keyword may have to be answered here; without those that never are."""
    if kind not in _KNOWN:
        return {}
    return {
        name: _PLAIN.get(attribute.isa, _Other)
        for name, attribute in kind.fattributes.items()  # type: ignore[attr-defined]
        if not (attribute.static or attribute.required) and not hasattr(kind, f"_post_validate_{name}")
    }


@functools.cache
def _always(kind: type) -> frozenset[str]:
    """Return the keywords that are validated even where those of the object as a whole are not."""
    attributes = kind.fattributes.items()  # type: ignore[attr-defined]
    return frozenset(name for name, attribute in attributes if attribute.always_post_validate)


def _may_be_template(text: str) -> bool:
    """Say whether a text may have a template in it: its delimiters, or a first line that chooses others."""
    return "{" in text or text.startswith("#")
