# SPDX-License-Identifier: BSD-3-Clause
"""How many commands were accelerated, and why the others were not."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass, field

from fatline.ansible.shared import AppendLog

WARM = "warm"
COMMAND = "command"
STOCK = "stock"
BOOTED = "booted"

_REASON_MAX = 160


@dataclass
class Totals:
    """The counts of one run."""

    warm: int = 0
    through_agent: int = 0
    booted: int = 0
    stock: Counter[str] = field(default_factory=Counter)
    modules: Counter[str] = field(default_factory=Counter)
    """How module runs went: ``warm``, or otherwise and why."""

    @property
    def accelerated(self) -> int:
        """Commands and file transfers that an agent served."""
        return self.warm + self.through_agent

    @property
    def commands(self) -> int:
        """All commands and file transfers that went to targets."""
        return self.accelerated + self.stock.total()

    def add(self, outcome: str, reason: str) -> None:
        """Count one."""
        if outcome == WARM:
            self.warm += 1
        elif outcome == COMMAND:
            self.through_agent += 1
        elif outcome == BOOTED:
            self.booted += 1
        else:
            self.stock[reason] += 1


class Ledger:
    """The run's counts, added to by workers and read by the main process."""

    def __init__(self) -> None:
        """Open the record; call it before the first fork."""
        self._log = AppendLog()

    def record(self, outcome: str, reason: str = "", module: bool = False) -> None:
        """Count one command, which may run a module; `outcome` is one of this module's four words."""
        self._log.append([outcome, reason[:_REASON_MAX], module])

    def totals(self) -> Totals:
        """Add up what has been recorded so far."""
        totals = Totals()
        for outcome, reason, module in self._log.records():
            totals.add(outcome, reason)
            if module:
                totals.modules[outcome if outcome == WARM else f"{outcome}: {reason}"] += 1
        return totals

    def close(self) -> None:
        """Forget the counts."""
        self._log.close()


def text(totals: Totals) -> str:
    """Say the counts in one line."""
    line = f"fatline: accelerated {totals.accelerated} of {totals.commands} commands"
    if totals.booted:
        line += f", {totals.booted} {'agent' if totals.booted == 1 else 'agents'} booted"
    if totals.stock:
        reasons = ", ".join(f"{reason} x {count}" for reason, count in totals.stock.most_common())
        line += f"; stock: {reasons}"
    return line


def append(totals: Totals) -> None:
    """Add the line to $FATLINE_SUMMARY_FILE, for those who must not find it in what ansible prints."""
    path = os.environ.get("FATLINE_SUMMARY_FILE", "")
    if path:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(text(totals) + "\n")


def wanted(option: bool = False) -> bool:
    """Say whether the user asked for the summary."""
    return option or os.environ.get("FATLINE_SUMMARY", "0") not in ("", "0")
