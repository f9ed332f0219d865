# SPDX-License-Identifier: GPL-3.0-or-later
"""What Fatline adds to each of ansible-core's strategies."""

from __future__ import annotations

from typing import Any

from fatline.ansible.activate import activate, begin_play


class FatlineStrategy:
    """A mixin in front of a stock ``StrategyModule``."""

    stock_name = ""
    plugin_file: str | None = None

    def __init__(self, tqm: Any) -> None:
        """Activate Fatline; core makes the strategy in the main process, before the first fork."""
        self._fatline_active = activate(self.plugin_file)
        super().__init__(tqm)  # type: ignore[call-arg]

    def run(self, iterator: Any, play_context: Any) -> Any:
        """Run the play as core does, under the name that core knows (ansible fact 31)."""
        iterator._play.strategy = self.stock_name
        if self._fatline_active:
            begin_play(iterator._play, play_context)
        return super().run(iterator, play_context)  # type: ignore[misc]
