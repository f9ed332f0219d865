# SPDX-License-Identifier: BSD-3-Clause
"""The extension gives back what it takes, and can be loaded twice in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ISOLATED = Path(__file__).parent / "isolated"


def run_isolated(*arguments: str) -> None:
    """Run Python on these; 77 means that it cannot be tried with this interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, env=environment, cwd=ISOLATED, capture_output=True, text=True, timeout=120
    )
    if result.returncode == 77:
        pytest.skip("this Python lacks its test modules")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("exercise", ["client", "yaml", "spawn"])
def test_nothing_leaks(exercise: str) -> None:
    run_isolated(str(ISOLATED / "leaks.py"), exercise)


def test_every_allocation_of_the_yaml_loader_may_fail() -> None:
    run_isolated(str(ISOLATED / "no_memory.py"))


def test_two_module_objects_share_nothing() -> None:
    """Multi-phase init, per-module state: a second module object has types of its own, and both work."""
    run_isolated(
        "-c",
        "import importlib.util, gc\n"
        "from fatline import _native as first\n"
        "def load(module):\n"
        "    loader = module.YamlLoader((str, None, None, list, dict), attributes=('a', 'b', 'c'))\n"
        "    loader.load(']', '', print)\n"
        "spec = importlib.util.spec_from_file_location('fatline._native', first.__file__)\n"
        "second = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(second)\n"
        "assert second is not first and second.Client is not first.Client\n"
        "assert second.Error is not first.Error\n"
        "try:\n"
        "    load(second)\n"
        "except second.YamlError: pass\n"
        "del second, spec; gc.collect()\n"
        "try:\n"
        "    load(first)\n"
        "except first.YamlError: pass\n",
    )
