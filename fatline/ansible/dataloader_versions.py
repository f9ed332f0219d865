# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the version module that concerns DataLoader, apart because the inventory's door must be quick.

Private names used, and why there is no public way:

``DataLoader.load_from_file``
    called with ``unsafe=True``, which is its own way to say "no copy"; up to 2.16 it caches whatever the
    caller says, so its ``_FILE_CACHE`` is relieved of the object that is not copied.
``Display._warns``, ``_deprecations``, ``_errors``
    what has been said already and would not be said again; emptied by ``fatline inventory-check``, which
    compares what two loads in one process say.

Nothing is gated on a version number: what a release lacks is noticed by its absence.
"""

from __future__ import annotations

from typing import Any

from ansible.utils.display import Display


def load_uncopied(loader: Any, file_name: str, arguments: dict[str, Any]) -> Any:
    """Load a file as ``loader.load_from_file(file_name, **arguments)`` does, without the deep copy.

    The copy protects the loader's cache. So nothing is taken from the cache here and nothing left in it:
    the caller is the only owner of what is returned.
    """
    data = loader.load_from_file(file_name, unsafe=True, **arguments)
    cache = getattr(loader, "_FILE_CACHE", None)
    if cache and cache.get(path := loader.path_dwim(file_name)) is data:
        del cache[path]
    return data


def forget_what_was_said() -> None:
    """Let core's display say again what it says only once."""
    for name in ("_warns", "_deprecations", "_errors"):
        said = getattr(Display(), name, None)
        if said:
            said.clear()
