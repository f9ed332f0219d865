# SPDX-License-Identifier: BSD-3-Clause
"""The bench end to end: real playbooks, real sshds, every variant that is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_support import FATLINE, figures

from fatline.cli.bench.lab import Controller, Lab, RunFailed
from fatline.cli.bench.runner import Series
from fatline.cli.bench.scenarios import Scenario
from fatline.cli.bench.variants import BASELINES
from fatline.cli.tools import default_python


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[tuple[Lab, Controller]]:
    """A lab of one host and a stock controller."""
    with Lab(tmp_path, 1, 0.0, default_python()) as lab:
        controller = Controller(lab, BASELINES["stock"])
        yield lab, controller
        controller.close()


def playbook(name: str, *tasks: dict[str, object]) -> Scenario:
    def write(directory: Path, _mebibytes: int) -> None:
        play = [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]
        (directory / "playbook.yml").write_text(json.dumps(play))

    return Scenario(name, name, write)


def test_all_variants_do_the_same_and_the_document_holds_every_figure(tmp_path: Path) -> None:
    against = ["stock", "stock-nopipelining"]
    if importlib.util.find_spec("ansible_mitogen"):
        against.append("mitogen")
    scenarios = ("--scenario", "ping", "--scenario", "ping-warm")
    settings = ("--runs", "1", "--hosts", "2", "--rtt", "5")
    results = figures(tmp_path, *scenarios, "--against", ",".join(against), *settings)
    expected = {(scenario, name) for scenario in ("ping", "ping-warm") for name in ("fatline", *against)}
    assert {(entry["scenario"], entry["variant"]) for entry in results} == expected
    for entry in results:
        assert (entry["hosts"], entry["rtt_ms"]) == (2, 5.0)
        assert 0 < entry["wall_s"]["min"] <= entry["wall_s"]["median"] <= entry["wall_s"]["max"]
        assert entry["cpu_s"]["min"] > 0
        assert entry["peak_pss_kb"] > 10_000
        # A warm call repeats the last one so closely that ssh's compression leaves some 60 bytes of it.
        assert entry["wire_up_bytes"] > 0
        assert entry["wire_down_bytes"] > 0


def test_a_recap_that_differs_fails_the_bench(stock: tuple[Lab, Controller], tmp_path: Path) -> None:
    lab, controller = stock
    marker = tmp_path / "marker"
    task = {"command": f"touch {marker}", "args": {"creates": str(marker)}}
    series = Series(lab, playbook("drift", task))
    series.run(controller)
    with pytest.raises(RunFailed, match=r"recaps of stock and stock differ:\n    host1: .*'changed': 1"):
        series.run(controller)


def test_a_failing_playbook_fails_the_bench_and_shows_why(stock: tuple[Lab, Controller]) -> None:
    lab, controller = stock
    series = Series(lab, playbook("broken", {"fail": {"msg": "words of the playbook"}}))
    with pytest.raises(RunFailed, match="words of the playbook"):
        series.run(controller)


def test_targets_start_every_run_from_the_same_state(stock: tuple[Lab, Controller]) -> None:
    lab, controller = stock
    copied = {"copy": {"content": "x", "dest": "{{ work_dir }}/file", "mode": "0600"}}
    series = Series(lab, playbook("state", copied))
    for _ in range(2):
        series.run(controller)  # would differ (changed, then ok) if the file had stayed


def test_an_interrupted_bench_leaves_no_process_and_no_directory(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    bench = subprocess.Popen(
        [FATLINE, "bench", "--without-fatline", "--scenario", "tasks100", "--runs", "1"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert bench.stderr is not None
    assert "[1/2]" in bench.stderr.readline()
    bench.terminate()
    bench.communicate(timeout=60)
    assert bench.returncode == 143
    assert list(tmp_path.iterdir()) == []
    mentioned = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert mentioned.stdout == ""
