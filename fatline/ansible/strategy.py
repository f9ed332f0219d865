# SPDX-License-Identifier: GPL-3.0-or-later
"""What Fatline adds to each of ansible-core's strategies."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from fatline.ansible.activate import activate, begin_play


class FatlineStrategy:
    """A mixin in front of a stock ``StrategyModule``."""

    stock_name = ""
    plugin_file: str | None = None

    def __init__(self, tqm: Any) -> None:
        """Activate Fatline; core makes the strategy in the main process, before the first fork."""
        self._fatline_active = activate(self.plugin_file)
        _introduce_callers()
        super().__init__(tqm)  # type: ignore[call-arg]

    def run(self, iterator: Any, play_context: Any) -> Any:
        """Run the play as core does, under the name that core knows (ansible fact 31)."""
        iterator._play.strategy = self.stock_name
        if self._fatline_active:
            begin_play(iterator._play, play_context)
        return super().run(iterator, play_context)  # type: ignore[misc]


# Core's modules between the loader of strategies and inspect.
_ON_THE_WAY = {
    "ansible.utils.display",
    "ansible.module_utils._internal._deprecator",
    "ansible.module_utils._internal._stack",
}


def _introduce_callers() -> None:
    """Tell inspect which modules will be on the stack that it is about to be asked for.

    From 2.19 on core deprecates strategies that are not its own, and finds out who says so from the stack,
    whether or not it is shown. inspect would resolve the paths of all modules to name those few.
    """
    known = getattr(inspect, "modulesbyfile", {})
    for name in sys.modules.keys() & _ON_THE_WAY:
        known.setdefault(sys.modules[name].__file__, name)
    frame = sys._getframe()
    while frame is not None:
        known.setdefault(frame.f_code.co_filename, frame.f_globals.get("__name__"))
        frame = frame.f_back  # type: ignore[assignment]
