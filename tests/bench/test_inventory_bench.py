# SPDX-License-Identifier: BSD-3-Clause
"""The bench's scenario that has no targets: the inventories it writes, and a run of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from bench_support import bench, figures

from fatline.cli.bench import inventory
from fatline.cli.bench.lab import RunFailed
from fatline.cli.bench.variants import Variant


def test_the_inventory_has_as_many_hosts_as_asked_for(tmp_path: Path) -> None:
    content = yaml.safe_load(inventory.write_inventory(tmp_path / "hosts.yml", 250).read_text())
    groups = content["all"]["children"]
    assert [len(group["hosts"]) for group in groups.values()] == [100, 100, 50]
    assert groups["rack0001"]["hosts"]["host000123.example.org"]["ansible_host"] == "10.0.0.123"


def test_ten_thousand_hosts_are_about_as_long_as_those_of_the_issue(tmp_path: Path) -> None:
    size = inventory.write_inventory(tmp_path / "hosts.yml", inventory.DEFAULT_HOSTS).stat().st_size
    assert 1_500_000 < size < 2_000_000


def test_every_size_and_variant_is_measured(tmp_path: Path) -> None:
    results = figures(tmp_path, "--scenario", "inventory", "--hosts", "20,40", "--runs", "1")
    assert {(entry["scenario"], entry["variant"], entry["hosts"]) for entry in results} == {
        (command, variant, hosts)
        for command in inventory.COMMANDS
        for variant in ("fatline", *inventory.BASELINES)
        for hosts in (20, 40)
    }
    assert all(entry["peak_pss_kb"] > 10_000 and entry["cpu_s"]["min"] > 0 for entry in results)


def run(
    directory: Path, *variants: Variant, patience: float = 60.0, sizes: tuple[int, ...] = (20,)
) -> list[str]:
    measured = inventory.measure(
        directory, variants, sizes, runs=1, patience=patience, progress=lambda _text: None
    )
    return [result.variant for results in measured for result in results]


def test_a_variant_that_prints_something_else_fails_the_bench(tmp_path: Path) -> None:
    other = Variant("other", lambda: {"inventory": {"enable_plugins": "ini", "any_unparsed_is_failed": "no"}})
    with pytest.raises(RunFailed, match="stock and other print different things"):
        run(tmp_path, inventory.BASELINES["stock"], other)


def test_what_is_too_slow_is_left_out_at_greater_sizes(tmp_path: Path) -> None:
    assert run(tmp_path, inventory.BASELINES["stock"], patience=0.0, sizes=(20, 40)) == ["stock", "stock"]


def test_only_this_scenario_takes_several_numbers_of_hosts() -> None:
    done = bench("--scenario", "ping", "--hosts", "1,2")
    assert done.returncode == 3
    assert "only the scenario inventory" in done.stderr
