# SPDX-License-Identifier: GPL-3.0-or-later
"""Keywords of a task that hold nothing to template are validated without a template engine.

From 2.19 on core asks the engine about every keyword of task, block and play context, 111 of them for each
task and for each item of a loop: a quarter of what a worker does. Most hold None, a number, a boolean, an
empty text or an empty list, and come back as they went in. Those are answered here; the rest is core's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ansible.playbook.base import FieldAttributeBase
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.utils.sentinel import Sentinel

# Not their subclasses: those that include tasks and roles have rules of their own.
_KNOWN = (Task, Handler, Block, PlayContext)

# By what a keyword is declared to be, the type of the values that come back as they are. Tagged values are
# of types of their own.
_PLAIN: Mapping[str, type] = {"bool": bool, "int": int, "string": str, "list": list}


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
        if value is None or not self._post_validate_object:
            return Sentinel
        if type(value) is plain and (plain in (bool, int) or not value):
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
        if not (attribute.static or attribute.required or attribute.always_post_validate)
        and not hasattr(kind, f"_post_validate_{name}")
    }
