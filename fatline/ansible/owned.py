# SPDX-License-Identifier: GPL-3.0-or-later
"""A mux of this run's own, for runs that must leave nothing behind: under ansible-runner, in a container.

It lives in the directory that ansible-core makes for the run and removes at its end. A run that ends stops
it; after kill -9 it ends by itself, since its agents do not persist.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from fatline import mux
from fatline.ansible import versions
from fatline.ansible.switches import leaves_nothing
from fatline.cli.mux import stop_all

# ssh binds a temporary name, 17 characters longer than the control path, and a socket's path has 108.
_DIRECTORY_MAX = 68


def settle(*, in_main: bool) -> None:
    """Choose the mux's directory, if this is such a run; `in_main` where this process can also remove it.

    Without a part in the main process (the connection door) the workers have to agree by themselves, on a
    name that all of them know.
    """
    if not leaves_nothing() or mux.has_own_directory() or "FATLINE_RUNTIME_DIR" in os.environ:
        return
    directory = Path(versions.scratch_directory()) / "fatline"
    if len(str(directory)) > _DIRECTORY_MAX:
        if not in_main:
            return
        directory = Path(tempfile.mkdtemp(prefix="fatline-run-", dir="/tmp"))
    mux.use_directory(directory)


def end() -> None:
    """End the mux and all it holds, and remove its directory."""
    if not mux.has_own_directory():
        return
    directory = mux.runtime_directory()
    with contextlib.suppress(OSError):
        stop_all(directory)
    shutil.rmtree(directory, ignore_errors=True)
