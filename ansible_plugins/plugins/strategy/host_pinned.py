# SPDX-License-Identifier: GPL-3.0-or-later
"""The strategy door: ansible-core's ``host_pinned``, with Fatline active for the whole run."""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: host_pinned
short_description: Executes tasks on each host without interruption, with Fatline's connections
description:
  - The strategy is P(ansible.builtin.host_pinned#strategy), unchanged.
  - Loading it makes C(ssh) connections Fatline's.
author: The Fatline project
version_added: 0.1.0
"""

from ansible.plugins.strategy.host_pinned import StrategyModule as HostPinnedStrategy

from fatline.ansible.strategy import FatlineStrategy


class StrategyModule(FatlineStrategy, HostPinnedStrategy):  # type: ignore[misc]
    """ansible-core's strategy; the mixin activates Fatline."""

    stock_name = "host_pinned"
    plugin_file = __file__
