# SPDX-License-Identifier: GPL-3.0-or-later
"""Let core's main process wait for results instead of looking for them a thousand times a second.

While tasks run, core's strategy sleeps for `internal_poll_interval` (1 ms), looks for results and at every
worker, and sleeps again. Each look takes 0.1 ms of a processor that a worker or an agent could use, and a
result that comes just after one lies there until the next. Here the sleep ends when a result arrives, and
lasts longer when none does; the looks themselves stay core's.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
import time
import types
from typing import Any

from ansible import constants as C
from ansible.plugins import strategy as stock_strategy

LONGEST = 0.05
"""Seconds between two looks at the workers where no result arrives; more if the user has configured more."""

# Open when something has arrived; whoever waits for that takes it. Not an Event: a Ctrl-C in the main thread
# could leave its inner lock taken for ever, and the results thread waiting for it.
_arrived = threading.Lock()
_arrived.acquire()


class Results(collections.deque[Any]):
    """The deque in which core's results thread leaves what the workers sent."""

    def append(self, result: Any) -> None:
        """Leave a result, and end the sleep of who waits for one."""
        super().append(result)
        with contextlib.suppress(RuntimeError):  # somebody has opened it already
            _arrived.release()


def install() -> None:
    """Let strategies wait so from now on; nothing, where core is not as we know it."""
    base = stock_strategy.StrategyBase
    if getattr(stock_strategy, "time", None) is not time or hasattr(base.__init__, "fatline"):
        return
    waiting = types.SimpleNamespace(**vars(time))
    waiting.sleep = _sleep
    stock_strategy.time = waiting
    base.__init__ = _with_results(base.__init__)


def _with_results(init: Any) -> Any:
    @functools.wraps(init)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(getattr(self, "_results", None)) is collections.deque:
            self._results = Results(self._results)

    make.fatline = True  # type: ignore[attr-defined]
    return make


def _sleep(seconds: float) -> None:
    """Sleep for that time, or until a result arrives where that is what core sleeps for."""
    if seconds != C.DEFAULT_INTERNAL_POLL_INTERVAL:
        time.sleep(seconds)
        return
    # Taken before core looks: what arrives from now on is seen by that look or ends the next sleep.
    _arrived.acquire(timeout=max(seconds, LONGEST))
