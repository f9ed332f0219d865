# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether two loaded documents are the same: values, types, order of keys, tags, positions, shared parts."""

from __future__ import annotations

import math
from typing import Any

# What an object says about itself besides its value, in either family of results.
_NOTES = ("_ansible_tags_mapping", "_data_source", "_line_number", "_column_number", "_ciphertext")


def difference(ours: object, theirs: object) -> str:
    """Say where and how two results differ first; empty if they do not."""
    pending: list[tuple[str, Any, Any]] = [("", ours, theirs)]
    # A part that is the same object in two places must be that in both results.
    partners: dict[int, int] = {}
    while pending:
        path, left, right = pending.pop()
        seen = isinstance(left, (list, dict, set)) and id(left) in partners
        if partners.setdefault(id(left), id(right)) != id(right) and isinstance(left, (list, dict, set)):
            return f"{path or 'the document'}: shares its parts with other places"
        words = _own_difference(left, right)
        if words:
            return f"{path or 'the document'}: {words}"
        if not seen:
            pending.extend(reversed(_parts(path, left, right)))
    return ""


def _own_difference(left: Any, right: Any) -> str:
    """Compare two objects without their parts."""
    if type(left) is not type(right):
        return f"{type(left).__name__}, not {type(right).__name__}"
    for name in _NOTES:
        notes, others = getattr(left, name, None), getattr(right, name, None)
        if notes != others:
            return f"{name} is {notes!r}, not {others!r}"
    if isinstance(left, (list, dict)):
        return "" if len(left) == len(right) else f"{len(left)} items, not {len(right)}"
    if hasattr(left, "_ciphertext"):
        return ""  # compared above; any other comparison would decrypt it
    if isinstance(left, float) and math.isnan(left) and math.isnan(right):
        return ""
    return "" if left == right else f"{left!r}, not {right!r}"


def _parts(path: str, left: Any, right: Any) -> list[tuple[str, Any, Any]]:
    """Pair the parts of two objects of the same type and size."""
    if isinstance(left, dict):
        pairs = list(zip(left.items(), right.items(), strict=True))
        keys = [(f"{path}[{a!r}] (key)", a, b) for (a, _), (b, _) in pairs]
        return keys + [(f"{path}[{a!r}]", x, y) for (a, x), (_, y) in pairs]
    if isinstance(left, (list, tuple)):
        return [(f"{path}[{i}]", x, y) for i, (x, y) in enumerate(zip(left, right, strict=True))]
    return []
