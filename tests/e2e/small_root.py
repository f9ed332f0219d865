# SPDX-License-Identifier: BSD-3-Clause
"""The smallest root directory in which modules run, made of files of this machine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from ansible_support import PYTHON

PROGRAMS = (
    *("sh", "cat", "chmod", "cp", "dd", "env", "echo", "grep"),
    *("id", "ls", "mkdir", "printf", "rm", "sleep", "sort", "touch"),
)


def make_root(root: Path) -> Path:
    """Make the smallest root directory in which modules run: a shell, a few programs, Python."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            leads_to = os.readlink(f"/{name}").lstrip("/")
            (root / leads_to).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(leads_to)
    for name in ("tmp", "dev", "root", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("/etc/passwd", "/etc/group"):
        shutil.copy(name, root / name[1:])
    try:
        os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (root / "dev/null").chmod(0o666)
    except PermissionError:
        pytest.skip("no device can be made here")
    ask = [PYTHON, "-c", "import os, sysconfig; print(os.path.dirname(os.__file__))"]
    library = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    left_out = shutil.ignore_patterns(
        "__pycache__", "test", "dist-packages", "site-packages", "idlelib", "config-*"
    )
    shutil.copytree(library, root / str(library)[1:], ignore=left_out, symlinks=True)
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin"))]
    for file in (Path(PYTHON), *programs):
        place(file, root)
    needed = {
        name
        for file in (Path(PYTHON), *programs, *library.glob("lib-dynload/*.so"))
        for name in libraries(file)
    }
    for name in sorted(needed):
        place(Path(name), root)
    return root


def place(file: Path, root: Path) -> None:
    """Copy a file to where it is, below another root."""
    target = root / str(file)[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file.resolve(), target)


def libraries(file: Path) -> list[str]:
    """Return the shared libraries that a program or module needs."""
    told = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", told)
