# SPDX-License-Identifier: GPL-3.0-or-later
"""Write one AnsiballZ payload to stdout.

Arguments: module (name or path), interpreter, directory of module_utils, options as JSON; the module's own
arguments as JSON on stdin.
"""

from __future__ import annotations

import inspect
import json
import os
import sys

from ansible.executor import module_common
from ansible.parsing.dataloader import DataLoader
from ansible.plugins import loader
from ansible.template import Templar

module, interpreter, extra, options = sys.argv[1:5]
args = sys.stdin.read()
more = json.loads(options)
if "secrets" in more:
    args = args.replace("@secret@", more["secrets"][0])

if hasattr(loader, "init_plugin_loader"):
    loader.init_plugin_loader()
if extra:
    loader.module_utils_loader.add_directory(extra)
path = module if os.path.isabs(module) else loader.module_loader.find_plugin(module)
if "secrets" in more:
    from ansible.module_utils._internal import _secrets

    _secrets._secret_masker.register_secret_text(more["secrets"][0])
arguments = {
    "module_name": os.path.basename(module).removesuffix(".py"),
    "module_path": path,
    "module_args": json.loads(args),
    "templar": Templar(loader=DataLoader()),
    "task_vars": {"ansible_python_interpreter": interpreter, **more.get("task_vars", {})},
    "module_compression": more.get("compression", "ZIP_DEFLATED"),
}
known = inspect.signature(module_common.modify_module).parameters
built = module_common.modify_module(**{name: arguments[name] for name in arguments if name in known})
sys.stdout.buffer.write(built[0] if isinstance(built, tuple) else built.b_module_data)
