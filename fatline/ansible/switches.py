# SPDX-License-Identifier: BSD-3-Clause
"""The environment variables with which a user turns Fatline, or a part of it, off for one run."""

from __future__ import annotations

import os


def disabled() -> bool:
    """Say whether everything is switched off (``FATLINE_DISABLE=1``)."""
    return _set("FATLINE_DISABLE", default=False)


def become_disabled() -> bool:
    """Say whether become is left to ansible-core, one escalation a command (``FATLINE_BECOME=0``)."""
    return not _set("FATLINE_BECOME", default=True)


def yaml_disabled() -> bool:
    """Say whether ansible-core's own YAML loader is to be used (``FATLINE_YAML=0``, or all is off)."""
    return disabled() or not _set("FATLINE_YAML", default=True)


def leaves_nothing() -> bool:
    """Say whether all of Fatline is to end with the run: ``FATLINE_OWN_MUX=1``, or under ansible-runner."""
    # ansible-runner names the run's directory to its callback plugin; a mux that lives on would outlive
    # the directory, the ssh agent that the run was given, and in a container itself.
    return _set("FATLINE_OWN_MUX", default="AWX_ISOLATED_DATA_DIR" in os.environ)


def _set(name: str, default: bool) -> bool:
    return os.environ.get(name, str(int(default))) not in ("", "0")
