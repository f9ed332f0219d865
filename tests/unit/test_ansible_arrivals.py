# SPDX-License-Identifier: GPL-3.0-or-later
"""A strategy's sleep ends when a result arrives, and no result is left lying."""

from __future__ import annotations

import collections
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible import constants as C
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins import strategy as stock_strategy
from ansible.vars.manager import VariableManager

from fatline.ansible import arrivals

FOR_EVER = 60.0


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real strategy, made after the installation, that would sleep for a minute."""
    base = stock_strategy.StrategyBase
    monkeypatch.setattr(stock_strategy, "time", time)
    monkeypatch.setattr(base, "__init__", getattr(base.__init__, "__wrapped__", base.__init__))
    monkeypatch.setattr(arrivals, "LONGEST", FOR_EVER)
    arrivals._arrived.acquire(blocking=False)  # what an earlier test's last result left open
    arrivals.install()
    # From 2.19 on core's manager keeps them from the programs that its process starts.
    inherited = [fd for fd in range(3) if os.get_inheritable(fd)]
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=["localhost,"])
    manager = TaskQueueManager(inventory, VariableManager(loader, inventory), loader, {}, forks=1)
    manager._initialize_processes(1)
    made = base(manager)
    yield made
    made.cleanup()
    manager.cleanup()
    for fd in inherited:
        os.set_inheritable(fd, True)


def core_sleeps() -> float:
    """What `_wait_on_pending_results` does between two looks; the seconds that it took."""
    began = time.monotonic()
    stock_strategy.time.sleep(C.DEFAULT_INTERNAL_POLL_INTERVAL)
    return time.monotonic() - began


def test_a_result_ends_the_sleep(strategy: Any) -> None:
    threading.Timer(0.1, strategy._results.append, ["result"]).start()
    assert 0.05 < core_sleeps() < FOR_EVER / 2
    assert strategy._results.popleft() == "result"


def test_a_result_that_came_before_the_sleep_ends_it_too(strategy: Any) -> None:
    strategy._results.append("result")
    assert core_sleeps() < FOR_EVER / 2
    assert list(strategy._results) == ["result"]


def test_each_of_many_results_is_seen(strategy: Any) -> None:
    """Ten thousand, from another thread, without one sleep to its end: none arrives unseen."""
    sender = threading.Thread(target=lambda: [strategy._results.append(number) for number in range(10_000)])
    sender.start()
    seen: list[int] = []
    while len(seen) < 10_000:
        while strategy._results:
            seen.append(strategy._results.popleft())
        if len(seen) < 10_000:
            assert core_sleeps() < FOR_EVER / 2
    sender.join(FOR_EVER)
    assert seen == list(range(10_000))


def test_without_a_result_the_sleep_ends_in_time(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LONGEST", 0.02)
    assert 0.01 < core_sleeps() < FOR_EVER / 2
    monkeypatch.setattr(C, "DEFAULT_INTERNAL_POLL_INTERVAL", 0.2)
    assert 0.15 < core_sleeps() < FOR_EVER / 2


def test_other_sleeps_are_what_they_were(strategy: Any) -> None:
    strategy._results.append("result")
    began = time.monotonic()
    stock_strategy.time.sleep(0.0001)
    assert time.monotonic() - began >= 0.0001
    assert stock_strategy.time.time is time.time
    assert core_sleeps() < FOR_EVER / 2, "the result still counts"


def test_what_core_does_not_have_is_left_alone(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stock_strategy, "time")
    arrivals.install()
    assert not hasattr(stock_strategy, "time")
    assert type(strategy._results) is arrivals.Results
    assert issubclass(arrivals.Results, collections.deque)
