#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""A module that tells what it sees; test_modules.py compares a warm run with a plain one."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import atexit
import hashlib
import inspect
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import zipfile

from ansible.module_utils import basic
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text import converters


def describe(module):
    """Where a module says that it comes from."""
    spec = getattr(module, "__spec__", None)
    found = {
        "file": getattr(module, "__file__", None),
        "path": list(getattr(module, "__path__", None) or ["none"]),
        "package": getattr(module, "__package__", "none"),
        "cached": getattr(module, "__cached__", None),
        "loader": "zipimporter" in [cls.__name__ for cls in type(module.__loader__).__mro__],
        "loader_place": [
            getattr(module.__loader__, "archive", None),
            getattr(module.__loader__, "prefix", None),
        ],
    }
    if spec is not None:
        found["spec"] = [
            spec.name,
            spec.origin,
            list(spec.submodule_search_locations or ["none"]),
            spec.has_location,
            spec.cached,
            spec.loader is module.__loader__,
        ]
    return found


def zip_facts(path):
    """The zip on disk: its bytes but for its own name, which is part of sitecustomize.py."""
    with zipfile.ZipFile(path) as file:
        rows = [
            [
                info.filename,
                info.CRC,
                info.compress_size,
                info.file_size,
                info.compress_type,
                info.external_attr,
                info.create_system,
                info.create_version,
                info.extract_version,
                info.flag_bits,
                info.header_offset,
            ]
            for info in file.infolist()
            if info.filename != "sitecustomize.py"
        ]
        site = file.getinfo("sitecustomize.py")
        return {
            "rows": rows,
            "site": file.read("sitecustomize.py").decode(),
            "bad": file.testzip(),
            "site_row": [site.compress_type, site.external_attr, site.flag_bits, site.create_system],
        }


def descriptors():
    """Open descriptors and what kind of thing they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name).split(":")[0]
        except OSError:
            pass
    return found


def process():
    """What the process is like."""
    with open("/proc/self/status") as file:
        masks = [line.strip() for line in file if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    umask = os.umask(0)
    os.umask(umask)
    return {
        "argv": sys.argv,
        "flags": repr(sys.flags),
        "path": sys.path,
        "executable": sys.executable,
        "cwd": os.getcwd(),
        "umask": umask,
        "leader": [os.getsid(0) == os.getpid(), os.getsid(0) == os.getppid()],
        "group": os.getpgrp() == os.getsid(0),
        "may lead": os.setsid(),
        "signals": masks,
        "handlers": [str(signal.getsignal(number)) for number in range(1, 32)],
        "limits": [resource.getrlimit(resource.RLIMIT_NOFILE)[0]],
        "fds": descriptors(),
        "environment": dict(os.environ),
        "zone": time.strftime("%Z"),
        "stdin": sys.stdin.read(),
        "streams": [
            [
                stream.encoding,
                getattr(stream, "errors", None),
                stream.name,
                stream.mode,
                stream.isatty(),
                getattr(stream, "line_buffering", None),
            ]
            for stream in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "main": [sys.modules["__main__"].__name__, hasattr(sys.modules["__main__"], "__file__")],
        "recursion": sys.getrecursionlimit(),
        "meta_path": len(sys.meta_path),
        "hooks": len(sys.path_hooks),
    }


def names_of_ansible():
    """The modules of ansible that are loaded, and their attributes on the packages."""
    loaded = sorted(
        name for name in sys.modules if name.split(".")[0] == "ansible" and sys.modules[name] is not None
    )
    attributes = {}
    for name in loaded:
        if hasattr(sys.modules[name], "__path__"):
            attributes[name] = sorted(
                key for key, value in vars(sys.modules[name]).items() if isinstance(value, type(sys))
            )
    return {"loaded": loaded, "attributes": attributes}


def sources():
    """Source text as the inspect module finds it (respawn needs that)."""
    found = {
        "module": hashlib.sha256(inspect.getsource(basic).encode("utf-8")).hexdigest(),
        "function": inspect.getsource(AnsibleModule.exit_json),
    }
    try:
        found["own"] = inspect.getsource(sources)
    except (OSError, IOError, TypeError) as error:
        found["own"] = str(error)
    try:
        from importlib import resources

        files = resources.files("ansible.module_utils.common")
        found["resources"] = sorted(item.name for item in files.iterdir())
    except (ImportError, AttributeError):
        pass
    return found


def mark(path):
    """Leave a trace when the interpreter ends."""
    with open(path, "a") as file:
        file.write("ended\n")


def main():
    """Tell."""
    error = str(sys.exc_info()[1])
    module = AnsibleModule(
        argument_spec={"trace": {"type": "str"}, "secret": {"type": "str", "no_log": True}}
    )
    if module.params["trace"]:
        atexit.register(mark, module.params["trace"])
    temporary = tempfile.NamedTemporaryFile()
    globals()["kept"] = temporary
    result = {
        "process": process(),
        # Python 2 remembers the last exception that was caught, and fail_json() reports it.
        "error": error,
        "ansible": names_of_ansible(),
        "sources": sources(),
        "modules": dict(
            (name, describe(sys.modules[name]))
            for name in names_of_ansible()["loaded"]
            if getattr(sys.modules[name], "__loader__", None) is not None and ".moves" not in name
        ),
        "main": [_module_fqn, _modlib_path, describe(sys.modules["__main__"])],  # noqa: F821
        "zip": zip_facts(_modlib_path),  # noqa: F821
        "random": random.random(),
        "temporary": temporary.name,
        "tmpdir": module.tmpdir,
        "converters": converters.to_text(b"x"),
    }
    sys.stdout.write(json.dumps(result, sort_keys=True) + "\n")
    print(json.dumps({"ok": module.params["secret"]}))
    sys.exit(7)


if __name__ == "__main__":
    main()
