# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the fidelity suite, and the count that it ends with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import world
from fidelity_run import Bench, Controller

_counts = pytest.StashKey[list[dict[str, Any]]]()


@pytest.fixture(scope="session")
def controller() -> Controller:
    """The ansible-core under test."""
    return Controller.chosen()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, controller: Controller) -> Bench:
    """Equal worlds for the variants of each case."""
    trouble = world.trouble()
    if trouble:
        pytest.skip(trouble)
    directory = tmp_path_factory.mktemp("fidelity")
    return Bench(directory, world.make_seed(directory), controller)


@pytest.fixture(scope="session")
def counted(pytestconfig: pytest.Config) -> list[dict[str, Any]]:
    """What Fatline's runs counted; the terminal summary adds it up."""
    return pytestconfig.stash.setdefault(_counts, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how many module runs ran warm, and why the others did not."""
    counts = config.stash.get(_counts, [])
    if not counts:
        return
    terminalreporter.section("fidelity")
    for pipelining in sorted({count["pipelining"] for count in counts}):
        modules: Counter[str] = Counter()
        for count in counts:
            if count["pipelining"] == pipelining:
                modules.update(count["modules"])
        total, warm = modules.total(), modules.pop("warm", 0)
        terminalreporter.write_line(
            f"pipelining {pipelining}: {warm} of {total} module runs were warm; others:"
        )
        for reason, number in modules.most_common():
            terminalreporter.write_line(f"  {number:5d} {reason}")
