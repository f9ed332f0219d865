# SPDX-License-Identifier: GPL-3.0-or-later
"""The zip that core has made of a module is read from its cache once in a process, and written as it is.

From 2.19 on core unpickles it for every task and every item of a loop, and has repr() look at each of its
200,000 characters, to write them between quotes. In base64 there is nothing to escape.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import OrderedDict
from typing import Any

from ansible.executor import module_common

KEPT = 8
"""Zips kept per process, about 200 KiB each."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


class Base64(str):
    """Text of these characters alone, so that what repr() gives is known."""

    def __new__(cls, data: bytes) -> Base64:
        """Take over a zip as core holds it; ValueError if there are other characters in it."""
        if data.translate(None, _BASE64):
            raise ValueError("not base64")
        return super().__new__(cls, data, "ascii")

    @functools.cached_property
    def quoted(self) -> str:
        """As Python source has it."""
        return f"'{self}'"

    def __repr__(self) -> str:
        return self.quoted


def install() -> None:
    """Read so from now on; nothing, where core has no such cache."""
    kind = getattr(module_common, "_CachedModule", None)
    if kind is None or hasattr(kind.load, "fatline"):
        return
    kind.load = staticmethod(_remembering(kind.load))


def _remembering(original: Any) -> Any:
    kept: OrderedDict[tuple[str, int, int, int], Any] = OrderedDict()

    @functools.wraps(original)
    def load(path: str) -> Any:
        status = os.stat(path)
        # Core writes it under another name and moves it into place.
        key = path, status.st_ino, status.st_size, status.st_mtime_ns
        found = kept.get(key)
        if found is None:
            found = kept[key] = _rewritten(original(path))
            while len(kept) > KEPT:
                kept.popitem(last=False)
        # Core hands the mapping on to who may change it.
        return dataclasses.replace(found, source_mapping=dict(found.source_mapping))

    load.fatline = True  # type: ignore[attr-defined]
    return load


def _rewritten(cached: Any) -> Any:
    try:
        # Core makes text of it, which this is already.
        return dataclasses.replace(cached, zip_data=Base64(cached.zip_data))
    except (AttributeError, TypeError, ValueError):
        return cached
