# SPDX-License-Identifier: BSD-3-Clause
"""The mux's process: a script for ``python -I -S``, started by ``fatline.mux`` and imported by nobody.

It loads one extension by its path and calls one function of it. It imports nothing that Python has not loaded
by itself, neither site nor importlib nor this package, so it starts in a few milliseconds and stays small.
"""

import _imp
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

path, socket_path, listen_fd, idle_seconds = sys.argv[1:]

# Systems fact 34: our starter leads the session and ends at once. This child of it belongs to init, not to a
# worker that may be killed with its group, and can never get a controlling terminal.
if posix.fork():
    posix._exit(0)
posix.chdir("/")

loader = ExtensionFileLoader("fatline._native", path)
native = _imp.create_dynamic(ModuleSpec("fatline._native", loader, origin=path))
_imp.exec_dynamic(native)

# stderr is the pipe on which fatline.mux reads why we failed. Its end tells that we did not.
posix.dup2(0, 2)
native.serve(int(listen_fd), socket_path, int(idle_seconds))
