# SPDX-License-Identifier: BSD-3-Clause
"""The environment variables with which a user turns Fatline, or a part of it, off for one run."""

from __future__ import annotations

import os


def disabled() -> bool:
    """Say whether everything is switched off (``FATLINE_DISABLE=1``)."""
    return _set("FATLINE_DISABLE", default=False)


def yaml_disabled() -> bool:
    """Say whether ansible-core's own YAML loader is to be used (``FATLINE_YAML=0``, or all is off)."""
    return disabled() or not _set("FATLINE_YAML", default=True)


def _set(name: str, default: bool) -> bool:
    return os.environ.get(name, str(int(default))) not in ("", "0")
