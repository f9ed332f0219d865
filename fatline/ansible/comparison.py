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


def differences(ours: Any, theirs: Any, path: str = "document", show: bool = True) -> Iterator[Difference]:
    """Yield each point in which `ours` is not what `theirs` is; a shared container is looked at once.

    Values that are encrypted are never decrypted for it. Without `show`, no value is told at all.
    """
    yield from _Comparison(show).compare(_Pair(ours, theirs, path))


def position(value: Any) -> str:
    """Say where a value stands: ``file:line:column``, or nothing."""
    if AnsibleTagHelper is not None:
        found = [tag for tag in AnsibleTagHelper.tags(value) if type(tag).__name__ == "Origin"]
        return str(found[0]) if found else ""
    file, line, column = getattr(value, "ansible_pos", None) or (None, 0, 0)
    return f"{file}:{line}:{column}" if file else ""


@dataclass(frozen=True)
class _Pair:
    """Two parts that remain to be compared."""

    ours: Any
    theirs: Any
    path: str


class _Comparison:
    """Goes through two values side by side; not by recursion, since documents may be deep."""

    def __init__(self, show: bool) -> None:
        self._show = show
        # By identity of one side, that of the other. The values are kept too, or an identity could be reused.
        self._seen: dict[int, tuple[int, Any, Any]] = {}
        self._seen_theirs: set[int] = set()

    def compare(self, whole: _Pair) -> Iterator[Difference]:
        pending = [self._pair(whole)]
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
            elif isinstance(found, _Pair):
                pending.append(self._pair(found))
            else:
                yield found

    def _pair(self, pair: _Pair) -> Iterator[Difference | _Pair]:
        ours, theirs, path = pair.ours, pair.theirs, pair.path
        where = position(theirs) or position(ours)
        if type(ours) is not type(theirs):
            yield Difference(path, f"type {_type(ours)}, and {_type(theirs)} by core", where)
            return
        if _is_container(theirs):
            known = self._seen.get(id(ours))
            if known is not None or id(theirs) in self._seen_theirs:
                if known is None or known[0] != id(theirs):
                    yield Difference(path, "another object is shared here than by core", where)
                return
            self._seen[id(ours)] = (id(theirs), ours, theirs)
            self._seen_theirs.add(id(theirs))
        if (attached := attachments(ours)) != (expected := attachments(theirs)):
            yield Difference(path, f"{attached}, and {expected} by core", where)
        yield from self._contents(ours, theirs, path, where)

    def _contents(self, ours: Any, theirs: Any, path: str, where: str) -> Iterator[Difference | _Pair]:
        if isinstance(theirs, Mapping):
            yield from self._mapping(ours, theirs, path, where)
        elif isinstance(theirs, Set):
            yield from self._sequence(sorted(ours, key=repr), sorted(theirs, key=repr), path, where)
        elif _is_container(theirs):
            yield from self._sequence(ours, theirs, path, where)
        elif not _same_scalar(ours, theirs):
            yield Difference(path, f"{self._shown(ours)}, and {self._shown(theirs)} by core", where)

    def _mapping(
        self, ours: Mapping[Any, Any], theirs: Mapping[Any, Any], path: str, where: str
    ) -> Iterator[Difference | _Pair]:
        if len(ours) != len(theirs) or not all(map(_same_scalar, ours, theirs)):
            mine, other = ([self._shown(key) for key in side] for side in (ours, theirs))
            yield Difference(path, f"keys {mine}, and {other} by core", where)
            return
        for (our_key, our_value), (key, value) in zip(ours.items(), theirs.items(), strict=True):
            inner = f"{path}[{self._shown(key)}]"
            yield _Pair(our_key, key, f"key {inner}")
            yield _Pair(our_value, value, inner)

    def _sequence(
        self, ours: Sequence[Any], theirs: Sequence[Any], path: str, where: str
    ) -> Iterator[Difference | _Pair]:
        if len(ours) != len(theirs):
            yield Difference(path, f"{len(ours)} items, and {len(theirs)} by core", where)
        for index, (our_item, item) in enumerate(zip(ours, theirs, strict=False)):
            yield _Pair(our_item, item, f"{path}[{index}]")

    def _shown(self, value: Any) -> str:
        if not self._show or hasattr(value, "_ciphertext"):
            return "<hidden>"
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, Set, list, tuple))


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
