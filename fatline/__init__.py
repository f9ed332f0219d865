# SPDX-License-Identifier: BSD-3-Clause
"""Fatline makes Ansible several times faster without changing what a playbook does.

The library's own door is :class:`Router`; it is imported on first use, because ansible-playbook imports
this package in every process and needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fatline._native import VERSION as __version__

__all__ = ["Context", "Router", "__version__"]

if TYPE_CHECKING:
    from fatline.context import Context
    from fatline.router import Router
else:

    def __getattr__(name: str) -> Any:
        """Import the library's public classes when they are first asked for."""
        if name == "Router":
            from fatline.router import Router

            return Router
        if name == "Context":
            from fatline.context import Context

            return Context
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
