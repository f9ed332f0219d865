# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell in which point two things that ansible-core works with are not the same.

Equal means more than ``==``: the same types, the same order of keys, the same objects shared in the same
places, and what core attaches to values: tags (origin, trust, encryption) from 2.19 on, positions before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

try:
    from ansible.module_utils._internal._datatag import AnsibleTagHelper
except ImportError:  # before 2.19
    AnsibleTagHelper = None

_SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """One point in which two values differ."""

    path: str
    """Where it is, as one would write it in a template."""
    text: str
    """What is on either side, in words."""
    position: str = ""
    """Where the value stands in its file, if it knows."""

    def __str__(self) -> str:
        where = f"{self.path} ({self.position})" if self.position else self.path
        return f"{where}: {self.text}"


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[Difference]:
    """Yield each point in which `ours` is not what `theirs` is; a shared container is looked at once."""
    yield from _Comparison().compare(ours, theirs, path or "document")


def position(value: Any) -> str:
    """Say where a value stands: ``file:line:column``, or nothing."""
    if AnsibleTagHelper is not None:
        found = [tag for tag in AnsibleTagHelper.tags(value) if type(tag).__name__ == "Origin"]
        return str(found[0]) if found else ""
    file, line, column = getattr(value, "ansible_pos", None) or (None, 0, 0)
    return f"{file}:{line}:{column}" if file else ""


class _Comparison:
    def __init__(self) -> None:
        # By identity of one side, that of the other. The values are kept too, or an identity could be reused.
        self._seen: dict[int, tuple[int, Any, Any]] = {}
        self._seen_theirs: dict[int, int] = {}

    def compare(self, ours: Any, theirs: Any, path: str) -> Iterator[Difference]:
        where = position(theirs) or position(ours)
        if type(ours) is not type(theirs):
            yield Difference(path, f"type {_type(ours)}, and {_type(theirs)} by core", where)
            return
        if isinstance(theirs, (Mapping, Set)) or _is_list(theirs):
            known = self._seen.get(id(ours))
            if known is not None or id(theirs) in self._seen_theirs:
                if known is None or known[0] != id(theirs):
                    yield Difference(path, "another object is shared here than by core", where)
                return
            self._seen[id(ours)] = (id(theirs), ours, theirs)
            self._seen_theirs[id(theirs)] = id(ours)
        if (attached := attachments(ours)) != (expected := attachments(theirs)):
            yield Difference(path, f"{attached}, and {expected} by core", where)
        yield from self._contents(ours, theirs, path, where)

    def _contents(self, ours: Any, theirs: Any, path: str, where: str) -> Iterator[Difference]:
        if isinstance(theirs, Mapping):
            yield from self._mapping(ours, theirs, path, where)
        elif isinstance(theirs, Set):
            yield from self._sequence(sorted(ours, key=repr), sorted(theirs, key=repr), path, where)
        elif _is_list(theirs):
            yield from self._sequence(ours, theirs, path, where)
        elif not _same_scalar(ours, theirs):
            yield Difference(path, f"{_shown(ours)}, and {_shown(theirs)} by core", where)

    def _mapping(
        self, ours: Mapping[Any, Any], theirs: Mapping[Any, Any], path: str, where: str
    ) -> Iterator[Difference]:
        if len(ours) != len(theirs) or any(
            not _same_scalar(mine, other) for mine, other in zip(ours, theirs, strict=True)
        ):
            mine, other = ([_shown(key) for key in side] for side in (ours, theirs))
            yield Difference(path, f"keys {mine}, and {other} by core", where)
            return
        for (our_key, our_value), (key, value) in zip(ours.items(), theirs.items(), strict=True):
            inner = f"{path}[{_shown(key)}]"
            yield from self.compare(our_key, key, f"key {inner}")
            yield from self.compare(our_value, value, inner)

    def _sequence(
        self, ours: Sequence[Any], theirs: Sequence[Any], path: str, where: str
    ) -> Iterator[Difference]:
        if len(ours) != len(theirs):
            yield Difference(path, f"{len(ours)} items, and {len(theirs)} by core", where)
        for index, (our_item, item) in enumerate(zip(ours, theirs, strict=False)):
            yield from self.compare(our_item, item, f"{path}[{index}]")


def attachments(value: Any) -> list[str]:
    """Return in words what core attaches to a value besides its content."""
    if AnsibleTagHelper is not None:
        return sorted(repr(tag) for tag in AnsibleTagHelper.tags(value))
    found = []
    if hasattr(value, "ansible_pos"):
        found.append(f"position {value.ansible_pos}")
    if hasattr(value, "vault"):
        found.append(
            "no vault" if value.vault is None else f"vault with {len(value.vault.secrets or ())} secrets"
        )
    return found


def _same_scalar(ours: Any, theirs: Any) -> bool:
    for name in ("_ciphertext", "_ansible_ciphertext"):
        # Never by value: that would decrypt it, if there is a secret.
        if hasattr(theirs, name):
            return bool(getattr(ours, name, None) == getattr(theirs, name))
    if isinstance(theirs, float):
        return repr(float(ours)) == repr(float(theirs)) or (math.isnan(ours) and math.isnan(theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _shown(value: Any) -> str:
    if hasattr(value, "_ciphertext"):
        return "<encrypted>"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
