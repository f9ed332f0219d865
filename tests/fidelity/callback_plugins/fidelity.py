# SPDX-License-Identifier: GPL-3.0-or-later
"""Write down everything that a run tells its callbacks, one JSON object a line.

Where Fatline is active, its counts follow at the end.
"""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: fidelity
type: aggregate
short_description: writes down all events of a run
description:
  - Appends one JSON object for each event to the file named by FIDELITY_RECORD.
author: The Fatline project
"""

import json
import os
import sys
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Records events as they come."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fidelity"

    def _write(self, event: str, host: str = "", task: str = "", **more: Any) -> None:
        line = {"event": event, "host": host, "task": task, **more}
        with open(os.environ["FIDELITY_RECORD"], "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(line, default=repr) + "\n")

    def _result(self, event: str, result: Any, **more: Any) -> None:
        self._write(event, result._host.get_name(), result._task.get_name(), result=result._result, **more)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record a task that went well."""
        self._result("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Record a task that failed."""
        self._result("failed", result, ignored=ignore_errors)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Record a task that was skipped."""
        self._result("skipped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record a host that was lost."""
        self._result("unreachable", result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Record a loop item that went well."""
        self._result("item ok", result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Record a loop item that failed."""
        self._result("item failed", result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Record a loop item that was skipped."""
        self._result("item skipped", result)

    def v2_runner_retry(self, result: Any) -> None:
        """Record an attempt of `until`."""
        self._result("retry", result)

    def v2_runner_on_async_ok(self, result: Any) -> None:
        """Record a job that ended well."""
        self._result("async ok", result)

    def v2_runner_on_async_failed(self, result: Any) -> None:
        """Record a job that failed."""
        self._result("async failed", result)

    def v2_on_file_diff(self, result: Any) -> None:
        """Record a difference that is shown."""
        self._result("diff", result)

    def v2_playbook_on_notify(self, handler: Any, host: Any) -> None:
        """Record a handler that is notified."""
        self._write("notify", host.get_name(), handler.get_name())

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Record an include."""
        for host in included_file._hosts:
            self._write("include", host.get_name(), os.path.basename(str(included_file._filename)))

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Record a play without hosts."""
        self._write("no hosts matched")

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Record a play that has lost its hosts."""
        self._write("no hosts remaining")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Record a play."""
        self._write("play", task=play.get_name())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Record a task that begins."""
        self._write("task", task=task.get_name())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Record a handler that begins."""
        self._write("handler", task=task.get_name())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Record the recap and what `set_stats` gathered, then Fatline's counts if it is there."""
        for host in sorted(stats.processed):
            self._write("recap", host, recap=stats.summarize(host))
        self._write("custom stats", custom=stats.custom)
        run = sys.modules.get("fatline.ansible.run")
        if run is not None:
            self._write("fatline", modules=dict(run.current().totals().modules))
