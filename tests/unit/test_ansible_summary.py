# SPDX-License-Identifier: BSD-3-Clause
"""Counts that forked workers report to the main process."""

from __future__ import annotations

import os

from fatline.ansible import summary
from fatline.ansible.shared import AppendLog
from fatline.ansible.summary import Ledger


def in_forks(count: int, action: object) -> None:
    """Call `action` in that many children at the same time and wait for them."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                action()  # type: ignore[operator]
            finally:
                os._exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)


def test_records_of_many_forks_arrive_whole() -> None:
    log = AppendLog()
    in_forks(8, lambda: [log.append([os.getpid(), "x" * 300, number]) for number in range(50)])
    records = log.records()
    assert len(records) == 400
    assert sorted(number for _, _, number in records) == sorted(list(range(50)) * 8)
    log.close()


def test_the_summary_counts_what_forks_did() -> None:
    ledger = Ledger()
    ledger.record(summary.BOOTED)
    in_forks(
        3, lambda: [ledger.record(summary.WARM, module=True), ledger.record(summary.STOCK, "become", True)]
    )
    ledger.record(summary.COMMAND)
    totals = ledger.totals()
    assert (totals.accelerated, totals.commands, totals.booted) == (4, 7, 1)
    assert totals.modules == {"warm": 3, "stock: become": 3}
    line = "fatline: accelerated 4 of 7 commands, 1 agent booted; stock: become x 3"
    assert summary.text(totals) == line
    ledger.close()


def test_a_run_without_commands_has_a_summary_too() -> None:
    assert summary.text(summary.Totals()) == "fatline: accelerated 0 of 0 commands"


def test_a_record_that_is_too_long_is_left_out_whole() -> None:
    log = AppendLog()
    log.append("x" * 5000)
    log.append("short")
    assert log.records() == ["short"]
    log.close()


def test_records_are_read_once_and_whole() -> None:
    """What others have added since is added; a record that is half there is left for the next time."""
    log = AppendLog()
    log.append(["a", 1])
    assert list(log.records()) == [["a", 1]]
    pid = os.fork()
    if pid == 0:
        log.append("from a fork")
        os._exit(0)
    os.waitpid(pid, 0)
    os.write(log._fd, b'["ha')
    assert list(log.records()) == [["a", 1], "from a fork"]
    os.write(log._fd, b'lf"]\n')
    assert list(log.records()) == [["a", 1], "from a fork", ["half"]]
    assert log.records() is log.records()
