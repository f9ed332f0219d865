# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, the digest of every file that core puts into the payloads of some modules.

Usage: module_files.py remembering|plain MODULE...
Core's builder is changed for the whole process, so each way of asking is a process of its own. What is
printed on stderr is how many files were compiled.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import io
import json
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ansible
from ansible.executor import module_common
from ansible.plugins import loader

from fatline.ansible import imports

compiled: list[str] = []


def count_compiles() -> None:
    genuine = builtins.compile

    def counting(source: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        compiled.append(filename)
        return genuine(source, filename, *args, **kwargs)

    imports.compile_source = counting
    if not hasattr(module_common, "compile"):
        module_common.compile = counting


def files(name: str) -> dict[str, str]:
    path = Path(ansible.__file__).parent / "modules" / f"{name}.py"
    source: Any = path.read_bytes()
    built = io.BytesIO()
    with zipfile.ZipFile(built, "w") as archive:
        arguments: list[Any] = [name, f"ansible.modules.{name}", source, archive]
        parameters = inspect.signature(module_common.recursive_finder).parameters
        if "extension_manager" in parameters:
            from ansible._internal._ansiballz import _builder

            arguments += [datetime.now(timezone.utc), _builder.ExtensionManager.create(task_vars={})]
        elif "date_time" in parameters:
            arguments.append(datetime.now(timezone.utc).timetuple()[:6])
        module_common.recursive_finder(*arguments)
        return {entry: hashlib.sha256(archive.read(entry)).hexdigest() for entry in archive.namelist()}


def main(way: str, *modules: str) -> None:
    begin = getattr(loader, "init_plugin_loader", None)
    if begin is not None:
        begin([])
    if way == "remembering":
        imports.install()
    count_compiles()
    # As a list: the order is part of what a payload is.
    print(json.dumps([list(files(name).items()) for name in modules]))
    print(len(compiled), file=sys.stderr)


main(*sys.argv[1:])
