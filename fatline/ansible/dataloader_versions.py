# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the version module that concerns DataLoader, apart because the inventory's door must be quick.

Private names used, and why there is no public way:

``ansible.parsing.dataloader.from_yaml``
    replaced: the one function through which all files go that core loads, and what ``-e`` and the like hold.
    What core does around it (decrypting, caching, copying, redaction) is not touched.
``DataLoader.load_from_file``
    called with ``unsafe=True``, which is its own way to say "no copy"; up to 2.16 it caches whatever the
    caller says, so its ``_FILE_CACHE`` is relieved of the object that is not copied.
``Display._warns``, ``_deprecations``, ``_errors``
    what has been said already and would not be said again; emptied by ``fatline inventory-check``, which
    compares what two loads in one process say.

Nothing is gated on a version number: what a release lacks is noticed by its absence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ansible.parsing import dataloader
from ansible.utils.display import Display

_FROM_YAML = {"data", "file_name", "show_content", "vault_secrets", "json_only"}


def misfit() -> str:
    """Say in what core's `from_yaml` is another function than is known; empty if in nothing."""
    original = getattr(dataloader, "from_yaml", None)
    if original is None:
        return "this ansible-core's DataLoader does not call from_yaml"
    parameters = set(inspect.signature(original).parameters)
    if unknown := (parameters - _FROM_YAML) | ({"data", "file_name"} - parameters):
        return f"this ansible-core's from_yaml has other parameters: {', '.join(sorted(unknown))}"
    return ""


def current_from_yaml() -> Any:
    """Return the function with which DataLoader turns text into objects."""
    return getattr(dataloader, "from_yaml", None)


def replace_from_yaml(replacement: Callable[..., Any]) -> None:
    """Let DataLoader turn text into objects with another function."""
    dataloader.from_yaml = replacement


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


def load_trusted(loader: Any, file_name: str) -> Any:
    """Load a file past the cache and uncopied; what looks like a template in it is one, as in a playbook."""
    parameters = inspect.signature(loader.load_from_file).parameters
    arguments: dict[str, Any] = {"cache": False if parameters["cache"].default is True else "none"}
    if "trusted_as_template" in parameters:
        arguments["trusted_as_template"] = True
    return load_uncopied(loader, file_name, arguments)


def forget_what_was_said() -> None:
    """Let core's display say again what it says only once."""
    for name in ("_warns", "_deprecations", "_errors"):
        said = getattr(Display(), name, None)
        if said:
            said.clear()
