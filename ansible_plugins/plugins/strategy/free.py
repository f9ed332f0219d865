# SPDX-License-Identifier: GPL-3.0-or-later
"""The strategy door: ansible-core's ``free``, with Fatline active for the whole run."""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: free
short_description: Executes tasks without waiting for all hosts, with Fatline's connections
description:
  - The strategy is P(ansible.builtin.free#strategy), unchanged.
  - Loading it makes C(ssh) connections Fatline's.
author: The Fatline project
version_added: 0.1.0
"""

from ansible.plugins.strategy.free import StrategyModule as FreeStrategy

from fatline.ansible.strategy import FatlineStrategy


class StrategyModule(FatlineStrategy, FreeStrategy):  # type: ignore[misc]
    """ansible-core's strategy; the mixin activates Fatline."""

    stock_name = "free"
    plugin_file = __file__
