# SPDX-License-Identifier: BSD-3-Clause
"""Python's garbage collector and large inventories.

What an inventory consists of is made in one go and lives as long as the run. Looking for garbage among it is
in vain, but costs more with each host: while it is made, and again for every generation that it grows into.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator

_kept_for: weakref.ref[object] | None = None


class Pause:
    """A stretch of time without collections."""

    keep = False
    """Whether what is alive at its end stays out of the collector's sight from then on."""


@contextlib.contextmanager
def paused() -> Iterator[Pause]:
    """Let nothing be collected meanwhile; if it is switched off already, that is all there is to do."""
    pause = Pause()
    if not gc.isenabled():
        yield pause
        return
    gc.disable()
    try:
        yield pause
    finally:
        if pause.keep:
            gc.freeze()
        gc.enable()


def keep_for(owner: object) -> None:
    """Note for whom things are kept; those of another owner, as before a refresh, are garbage again."""
    global _kept_for
    if _kept_for is not None and _kept_for() is not owner:
        gc.unfreeze()
        gc.collect()
    _kept_for = weakref.ref(owner)
