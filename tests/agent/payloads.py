# SPDX-License-Identifier: BSD-3-Clause
"""Genuine AnsiballZ payloads for tests, made by the ansible-core that is installed beside them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
import sys
import zlib
from typing import Any

import harness

from fatline.ansible import payload

# Run by a process of its own: importing ansible-core changes the process that does it.
MAKER = pathlib.Path(__file__).with_name("make_payload.py")


def core_version() -> tuple[int, int] | None:
    """Version of the installed ansible-core, None without one."""
    try:
        major, minor = importlib.metadata.version("ansible-core").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def targets() -> list[str]:
    """Interpreters of this machine that the installed ansible-core supports as targets."""
    version = core_version()
    if version is None:
        return []
    if version >= (2, 22):
        lowest = (3, 9)
    elif version >= (2, 18):
        lowest = (3, 8)
    else:
        lowest = (2, 7)
    found = []
    for path in harness.interpreters():
        text = subprocess.run(
            [path, "-c", "import sys; print(list(sys.version_info[:2]))"],
            capture_output=True,
            text=True,
            check=True,
        )
        if tuple(json.loads(text.stdout)) >= lowest:
            found.append(path)
    return found


def warmable(name: str, _crc: int) -> bool:
    """Say whether a file of the zip is ansible-core's own; test modules bring theirs under other names."""
    return name.startswith("ansible/module_utils/") and "fl_test" not in name


def make(module: str, args: dict[str, Any], interpreter: str, extra: str = "", **options: Any) -> bytes:
    """Return the payload of a module, by name or by path; extra is a directory of module_utils."""
    return _make(module, json.dumps(args), interpreter, extra, json.dumps(options))


@functools.lru_cache(maxsize=64)
def _make(module: str, args: str, interpreter: str, extra: str, options: str) -> bytes:
    done = subprocess.run(
        [sys.executable, str(MAKER), module, interpreter, extra, options],
        input=args.encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def parsed(module: str, args: dict[str, Any], interpreter: str, extra: str = "", **options: Any) -> Any:
    """Return a payload, taken apart."""
    found = payload.parse(make(module, args, interpreter, extra, **options), warmable)
    assert found is not None, "the installed ansible-core's wrapper is not known"
    return found


def inflated(data: bytes) -> bytes:
    """Undo a zip entry's compression."""
    return zlib.decompress(data, -15)


def crc32(data: bytes) -> int:
    """Checksum as zip has it."""
    return zlib.crc32(data)
