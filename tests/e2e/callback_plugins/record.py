# SPDX-License-Identifier: GPL-3.0-or-later
"""Write every result of a run to a file, one JSON object a line, for the tests to read."""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: record
type: aggregate
short_description: writes results for tests
description:
  - Appends one JSON object for each result to the file named by RECORD_FILE.
author: The Fatline project
"""

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Records results as they come."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"

    def _record(self, status: str, result: Any) -> None:
        line = {
            "status": status,
            "host": result._host.get_name(),
            "task": result._task.get_name(),
            "result": result._result,
        }
        with open(os.environ["RECORD_FILE"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record a task that went well."""
        self._record("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Record a task that failed, ignored or not."""
        self._record("failed", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Record a task that was skipped."""
        self._record("skipped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record a host that was lost."""
        self._record("unreachable", result)
