# SPDX-License-Identifier: BSD-3-Clause
"""What a bench says in the end: a table, a JSON document, a plot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fatline.cli.bench.runner import Result, Spread

HEADINGS = ("variant", "wall s", "min", "max", "ratio", "cpu s", "ratio", "peak MiB", "KiB up", "KiB down")
WIDTHS = (20, 8, 8, 8, 7, 8, 7, 9, 9, 9)

HOW_MEASURED = """\
wall: median, minimum and maximum of the timing runs. cpu: median user+sys of all processes on the controller
(ansible, workers, ssh, mux), those that outlive a cold run included. peak: highest sum of their proportional
set sizes, sampled in an extra run; bytes: counted by a relay in the same extra run. ratio: the variant's
figure over fatline's; above 1, fatline used less."""


class ReportError(Exception):
    """A report cannot be written. The message says what to do about it."""


def document(results: Sequence[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """The JSON document: `machine` and one object for each scenario and variant."""
    return {"machine": machine, "results": [_as_json(result) for result in results]}


def table(results: Sequence[Result]) -> Iterator[str]:
    """The lines of the table, one block for each scenario."""
    for scenario in dict.fromkeys(result.scenario for result in results):
        block = [result for result in results if result.scenario == scenario]
        base = next((result for result in block if result.variant == "fatline"), None)
        yield f"{scenario}: {block[0].hosts} host(s), {block[0].rtt_ms:g} ms"
        yield _row(HEADINGS)
        yield from (_row(_cells(result, base)) for result in block)
        yield from (f"  {result.summary}" for result in block if result.summary)
        yield ""


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write the document to `path`, or to stdout for ``-``."""
    text = json.dumps(content, indent=2)
    if path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n", encoding="utf-8")


def check_plot(path: str) -> None:
    """Say early whether `plot` will be able to write `path`."""
    if not path.lower().endswith((".png", ".svg")):
        raise ReportError(f"--plot writes PNG or SVG; {path} ends with neither .png nor .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise ReportError("--plot needs matplotlib; install it with: pip install 'fatline[bench]'")


def plot(path: str, results: Sequence[Result]) -> None:
    """Draw wall times as bars, or against the number of hosts where results are of several."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Of a committed figure, only what was measured should change.
    matplotlib.rcParams.update({"svg.hashsalt": "fatline", "svg.fonttype": "none"})
    draw = _draw_growth if len({result.hosts for result in results}) > 1 else _draw_bars
    figure = draw(pyplot, results)
    figure.savefig(path, metadata={"Date": None} if path.lower().endswith(".svg") else None)
    pyplot.close(figure)


def _draw_growth(pyplot: Any, results: Sequence[Result]) -> Any:
    """Time and memory against the number of hosts, a line for each variant."""
    scenario = results[0].scenario
    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for variant in dict.fromkeys(result.variant for result in results):
        shown = [result for result in results if (result.scenario, result.variant) == (scenario, variant)]
        hosts = [result.hosts for result in shown]
        time_axes.plot(hosts, [result.cpu_s.median for result in shown], marker="o", label=variant)
        memory_axes.plot(hosts, [result.peak_pss_kb / 1024 for result in shown], marker="o", label=variant)
    time_axes.set_ylabel("processor time, s (median)")
    memory_axes.set_ylabel("peak memory, MiB")
    for axes in (time_axes, memory_axes):
        axes.set_xlabel("hosts")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.suptitle(scenario)
    return figure


def _draw_bars(pyplot: Any, results: Sequence[Result]) -> Any:
    """Bars, one group for each scenario, with minimum and maximum."""
    scenarios = list(dict.fromkeys(result.scenario for result in results))
    variants = list(dict.fromkeys(result.variant for result in results))
    width = 0.8 / len(variants)
    figure, axes = pyplot.subplots(figsize=(2 + 1.3 * len(scenarios), 4.5), layout="constrained")
    for index, variant in enumerate(variants):
        spreads = {result.scenario: result.wall_s for result in results if result.variant == variant}
        positions = [number + index * width for number, name in enumerate(scenarios) if name in spreads]
        shown = [spreads[name] for name in scenarios if name in spreads]
        _bars(axes, positions, shown, width, variant)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(scenarios))], scenarios)
    axes.set_ylabel("wall time, s (median, minimum to maximum)")
    axes.set_title(f"{results[0].hosts} host(s), {results[0].rtt_ms:g} ms round trip")
    axes.legend()
    return figure


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "ansible_core": _version("ansible-core"),
        "fatline": _version("fatline"),
        "mitogen": _version("mitogen"),
        "ssh": _ssh_version(),
    }


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "scenario": result.scenario,
        "variant": result.variant,
        "hosts": result.hosts,
        "rtt_ms": result.rtt_ms,
        "wall_s": asdict(result.wall_s),
        "cpu_s": asdict(result.cpu_s),
        "peak_pss_kb": result.peak_pss_kb,
        "wire_up_bytes": result.wire.up,
        "wire_down_bytes": result.wire.down,
    }


def _cells(result: Result, base: Result | None) -> tuple[str, ...]:
    wall, cpu = result.wall_s, result.cpu_s
    return (
        result.variant,
        f"{wall.median:.3f}",
        f"{wall.min:.3f}",
        f"{wall.max:.3f}",
        _ratio(wall, base.wall_s if base else None),
        f"{cpu.median:.3f}",
        _ratio(cpu, base.cpu_s if base else None),
        f"{result.peak_pss_kb / 1024:.1f}",
        f"{result.wire.up / 1024:.1f}",
        f"{result.wire.down / 1024:.1f}",
    )


def _ratio(spread: Spread, base: Spread | None) -> str:
    return f"{spread.median / base.median:.2f}" if base and base.median else "-"


def _row(cells: Sequence[str]) -> str:
    first, *rest = (
        f"{cell:<{width}}" if not index else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    return ("  " + first + "".join(rest)).rstrip()


def _bars(axes: Any, positions: list[float], spreads: list[Spread], width: float, label: str) -> None:
    low = [spread.median - spread.min for spread in spreads]
    high = [spread.max - spread.median for spread in spreads]
    axes.bar(
        positions, [spread.median for spread in spreads], width, yerr=[low, high], label=label, capsize=2
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _ssh_version() -> str:
    return subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip()
