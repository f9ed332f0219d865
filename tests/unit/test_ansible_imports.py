# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads hold what core puts into them, whether or not the imports of their files were remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fatline.ansible.imports import Memory

BUILDER = Path(__file__).parent / "isolated" / "module_files.py"

# Few imports and many, optional ones (urls, facts), relative ones, six.
MODULES = (
    "apt",
    "command",
    "copy",
    "dnf",
    "get_url",
    "ping",
    "service",
    "setup",
    "uri",
    "user",
    "yum_repository",
)


def build(way: str, directory: Path) -> tuple[Any, int]:
    """Return the files of each module's payload, and how many sources were compiled for them."""
    ended = subprocess.run(
        [sys.executable, str(BUILDER), way, *MODULES],
        env={**os.environ, "FATLINE_RUNTIME_DIR": str(directory)},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return json.loads(ended.stdout), int(ended.stderr.split()[-1])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "runtime"
    made.mkdir(mode=0o700)
    return made


def memory_file(directory: Path) -> Path:
    (found,) = directory.glob("imports-*")
    return found


def test_payloads_hold_the_same_files_from_core_and_from_memory(directory: Path) -> None:
    stock, _ = build("plain", directory)
    learning, compiled_first = build("remembering", directory)
    knowing, compiled_again = build("remembering", directory)
    assert learning == stock
    assert knowing == stock
    # A second run compiles the modules themselves alone.
    assert compiled_first > 60
    assert compiled_again == len(MODULES)
    assert memory_file(directory).stat().st_mode & 0o777 == 0o600


def test_payloads_are_built_beside_a_broken_file(directory: Path) -> None:
    stock, _ = build("remembering", directory)
    path = memory_file(directory)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert build("remembering", directory)[0] == stock
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1 is never used",
        msgpack.packb([[b"digest", "name"]]),
        msgpack.packb([[b"digest", "name", True, [["a"]], 7]]),
        msgpack.packb({"a": "map"}),
        msgpack.packb([[["unhashable"], "name", True, [], []]]),
        msgpack.packb([[bytes(32), "a.b", True, [["a"]], []]])[:-1],
    ],
)
def test_a_broken_file_is_as_good_as_none(directory: Path, content: bytes) -> None:
    path = directory / "imports-x"
    path.write_bytes(content)
    memory = Memory(path)
    memory.refresh()
    assert not memory.knows(bytes(32))
    memory.add((bytes(32), "a.b", False), (frozenset(), frozenset()))
    memory.save()
    again = Memory(path)
    again.refresh()
    assert again.knows(bytes(32))


def test_two_processes_add_to_each_other_s_findings(directory: Path) -> None:
    path = directory / "imports-x"
    ours, theirs = Memory(path), Memory(path)
    key, other = (bytes(32), "a.b", False), (b"\1" * 32, "a.c", True)
    found = frozenset({("a", "c")}), frozenset[tuple[str, ...]]()
    ours.add(key, found)
    ours.save()
    theirs.add(other, found)
    theirs.save()
    ours.refresh()
    assert ours.get(key) == ours.get(other) == found


def test_nothing_is_written_where_nothing_is_new(directory: Path) -> None:
    path = directory / "imports-x"
    memory = Memory(path)
    memory.save()
    assert not path.exists()


def test_a_directory_that_cannot_be_written_does_no_harm(directory: Path) -> None:
    memory = Memory(directory / "missing" / "imports-x")
    memory.add((bytes(32), "a.b", False), (frozenset(), frozenset()))
    memory.save()
    assert memory.knows(bytes(32))
