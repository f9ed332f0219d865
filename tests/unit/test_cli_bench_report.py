# SPDX-License-Identifier: BSD-3-Clause
"""Figures, the table and the JSON document of the bench; options that are refused before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fatline.cli.bench import report
from fatline.cli.bench.lab import Wire, differences
from fatline.cli.bench.meter import Reading
from fatline.cli.bench.runner import Result, Spread
from fatline.cli.bench.scenarios import SCENARIOS
from fatline.cli.bench.variants import BASELINES, DOORS, fatline
from fatline.cli.main import build_parser, main


def result(variant: str, *walls: float) -> Result:
    readings = [Reading(0, wall, wall / 2) for wall in walls]
    return Result("loop100", variant, 1, 0.0, 2048, Wire(1024, 512), readings=readings)


def test_spread_is_median_minimum_maximum() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)


def test_table_gives_ratios_over_fatline() -> None:
    lines = list(report.table([result("fatline", 2.0), result("stock", 14.0, 15.0, 13.0)]))
    stock = next(line for line in lines if line.strip().startswith("stock")).split()
    assert stock == ["stock", "14.000", "13.000", "15.000", "7.00", "7.000", "7.00", "2.0", "1.0", "0.5"]


def test_table_without_fatline_has_no_ratio() -> None:
    lines = list(report.table([result("stock", 1.0)]))
    assert lines[2].split()[4] == "-"


def test_document_has_the_promised_shape(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    report.write_json(str(path), report.document([result("fatline", 1.0)], report.machine()))
    document = json.loads(path.read_text())
    assert set(document) == {"machine", "results"}
    (entry,) = document["results"]
    assert entry == {
        "scenario": "loop100",
        "variant": "fatline",
        "hosts": 1,
        "rtt_ms": 0.0,
        "wall_s": {"median": 1.0, "min": 1.0, "max": 1.0},
        "cpu_s": {"median": 0.5, "min": 0.5, "max": 0.5},
        "peak_pss_kb": 2048,
        "wire_up_bytes": 1024,
        "wire_down_bytes": 512,
    }


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_draws_every_variant(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"figures.{suffix}"
    report.check_plot(str(path))
    report.plot(str(path), [result("fatline", 1.0, 2.0), result("stock", 5.0)])
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_results_of_several_sizes_are_drawn_against_the_number_of_hosts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "figures.svg"
    sizes = [replace(result(name, 1.0), hosts=hosts) for name in ("fatline", "stock") for hosts in (10, 20)]
    report.plot(str(path), sizes)
    drawn = path.read_text()
    assert all(
        f">{text}</text>" in drawn for text in ("hosts", "processor time, s (median)", "fatline", "stock")
    )
    report.plot(str(tmp_path / "again.svg"), sizes)
    assert (tmp_path / "again.svg").read_text() == drawn, "a committed figure would change by itself"


def test_differences_name_the_host_and_both_counts() -> None:
    assert differences({"a": {"ok": 1}}, {"a": {"ok": 1}}) == []
    (line,) = differences({"a": {"ok": 1}}, {"a": {"ok": 1}, "b": {"ok": 2}})
    assert line == "b: None against {'ok': 2}"


def test_a_variant_differs_from_the_shared_configuration_by_its_own_lines_only() -> None:
    shared = {"defaults": {"forks": "5", "callbacks_enabled": "fatline_recap"}}
    plain = BASELINES["stock"].config(shared).splitlines()
    own = {line for line in fatline("strategy").config(shared).splitlines() if line not in plain}
    assert own == {"strategy = fatline.core.linear"}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_keeps_the_recap_callback(door: str) -> None:
    shared = {"defaults": {"callbacks_enabled": "fatline_recap"}}
    assert "fatline_recap" in fatline(door).config(shared)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_writes_a_playbook_that_ansible_accepts(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    scenario.write(tmp_path, 1)
    if scenario.module:
        assert not list(tmp_path.iterdir())
        return
    command = scenario.argv(tmp_path)
    done = subprocess.run(
        [*command, "--syntax-check", "-i", "localhost,"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--against", "stock,salt"], "unknown: salt"),
        (["bench", "--against", "fatline"], "fatline itself always runs"),
        (["bench", "--runs", "0"], "must be at least 1"),
        (["bench", "--rtt", "-1"], "between 0 and 10000"),
        (["bench", "--scenario", "nothing"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_plot_of_an_unknown_kind_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--plot", "figures.pdf"]) == 3
    assert "PNG or SVG" in capsys.readouterr().err


def test_the_command_is_installed_and_its_help_lists_exit_codes() -> None:
    command = Path(sys.executable).with_name("fatline")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "exit codes:" in done.stdout
