# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the agent's tests: one agent for every interpreter of the machine."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import harness


@pytest.fixture(params=harness.interpreters(), ids=lambda path: "/".join(path.split("/")[-3:]))
def interpreter(request: pytest.FixtureRequest) -> str:
    """Path of an interpreter, one test run for each."""
    return str(request.param)


@pytest.fixture
def agent(interpreter: str) -> Iterator[harness.AgentProcess]:
    """A booted agent on each interpreter."""
    with harness.AgentProcess(interpreter) as process:
        yield process


@pytest.fixture
def own_agent() -> Iterator[harness.AgentProcess]:
    """A booted agent on the interpreter that runs the tests."""
    with harness.AgentProcess() as process:
        yield process
