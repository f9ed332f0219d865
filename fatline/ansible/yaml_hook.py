# SPDX-License-Identifier: GPL-3.0-or-later
"""Let ansible-core parse its YAML files with Fatline's loader, in this process and its forks.

Everything around the parsing stays core's: reading and decrypting files, caching, copying, trust, and the
words for what is wrong. A document that the quick loader does not handle, or finds a fault with, is given to
core's own.
"""

from __future__ import annotations

import collections
import functools
import inspect
from collections.abc import Callable
from typing import Any

from fatline.ansible import dataloader_versions, yaml_loader
from fatline.ansible.switches import yaml_disabled

left_to_core: collections.Counter[str] = collections.Counter()
"""Why documents were given to core's own loader, and how many."""


def install() -> str:
    """Serve core's DataLoader from now on; say why not, where that cannot be."""
    if installed():
        return ""
    if yaml_disabled():
        return "it is switched off (FATLINE_YAML=0 or FATLINE_DISABLE=1)"
    if trouble := dataloader_versions.misfit() or yaml_loader.available():
        return trouble
    dataloader_versions.replace_from_yaml(serve(dataloader_versions.current_from_yaml()))
    return ""


def installed() -> bool:
    """Say whether this process, or the one it was forked from, has the quick loader in place."""
    return bool(getattr(dataloader_versions.current_from_yaml(), "fatline", False))


def serve(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make a `from_yaml` that loads quickly what it can, and asks the original for the rest."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def from_yaml(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        if not yaml_disabled() and not call.arguments.pop("json_only", False):
            try:
                return yaml_loader.load(**call.arguments)
            except yaml_loader.NotHandled as reason:
                left_to_core[str(reason)] += 1
        return original(*args, **kwargs)

    from_yaml.fatline = True  # type: ignore[attr-defined]
    return from_yaml
