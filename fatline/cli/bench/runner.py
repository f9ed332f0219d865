# SPDX-License-Identifier: BSD-3-Clause
"""The order of runs.

Each scenario begins with one extra run of each variant, through relays that count bytes and with memory
sampled. It also warms disk caches and shows whether the variant works at all, so that timing runs are
disturbed by none of that. Then come the timing runs, the variants in turn: A B A B, not A A B B, so that
a machine that grows slower or faster treats all alike. A recap that differs from the first ends the
bench: a variant that did other work has no time to compare.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fatline.cli.bench.lab import Controller, Lab, Recap, RunFailed, Wire, differences
from fatline.cli.bench.meter import Reading
from fatline.cli.bench.scenarios import Scenario
from fatline.cli.bench.variants import Variant

MuxMemory = Callable[[Path], int]
"""Says what the mux in a runtime directory occupies, in KiB; 0 if there is none."""


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of some runs."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of `values`."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Result:
    """One scenario under one variant."""

    scenario: str
    variant: str
    hosts: int
    rtt_ms: float
    peak_pss_kb: int
    wire: Wire
    summary: str = ""
    """What Fatline said of the extra run: how much it accelerated, and why not the rest."""
    readings: list[Reading] = field(default_factory=list)

    @property
    def wall_s(self) -> Spread:
        """Wall time."""
        return Spread.of([reading.wall_s for reading in self.readings])

    @property
    def cpu_s(self) -> Spread:
        """User and system time of the controller's processes."""
        return Spread.of([reading.cpu_s for reading in self.readings])


class Runner:
    """Runs scenarios in a lab under several variants."""

    def __init__(
        self,
        lab: Lab,
        variants: Sequence[Variant],
        *,
        runs: int,
        rtt_ms: float,
        mux_memory: MuxMemory,
        progress: Callable[[str], None],
    ) -> None:
        """`progress` is told what begins; `mux_memory` is asked where /proc hides a mux's memory."""
        self._lab = lab
        self._variants = variants
        self._runs = runs
        self._rtt_ms = rtt_ms
        self._mux_memory = mux_memory
        self._progress = progress

    def run(self, scenario: Scenario, mebibytes: int) -> list[Result]:
        """All runs of one scenario. RunFailed if one fails or does other work than the rest."""
        series = Series(self._lab, scenario, mebibytes)
        with self._controllers() as controllers:
            results = [self._extra_run(series, controller) for controller in controllers]
            self._warm_up(series, controllers)
            for number in range(1, self._runs + 1):
                for controller, result in zip(controllers, results, strict=True):
                    self._progress(
                        f"{scenario.name}: run {number} of {self._runs}, {controller.variant.name}"
                    )
                    result.readings.append(series.run(controller, relayed=self._lab.relayed, sample=False))
        return results

    @staticmethod
    def steps(variants: Sequence[Variant], runs: int) -> int:
        """How many times `progress` is called for one scenario."""
        return len(variants) * (runs + 1)

    @contextlib.contextmanager
    def _controllers(self) -> Iterator[list[Controller]]:
        with contextlib.ExitStack() as stack:
            controllers = []
            for variant in self._variants:
                controllers.append(Controller(self._lab, variant))
                stack.callback(controllers[-1].close)
            yield controllers

    def _extra_run(self, series: Series, controller: Controller) -> Result:
        """The run that counts bytes and memory and shows whether the variant works."""
        scenario = series.scenario
        self._progress(f"{scenario.name}: bytes and memory, {controller.variant.name}")
        if scenario.warm:
            series.run(controller, relayed=True, sample=False)
        self._lab.mark()
        reading = series.run(controller, relayed=True, sample=True)
        peak = reading.peak_pss_kb
        if reading.unreadable:
            peak += self._mux_memory(controller.runtime_directory)
        wire = self._lab.wire()
        controller.settle()
        return Result(
            *(scenario.name, controller.variant.name, self._lab.hosts, self._rtt_ms, peak, wire),
            summary=controller.summary(),
        )

    def _warm_up(self, series: Series, controllers: Sequence[Controller]) -> None:
        if series.scenario.warm:
            for controller in controllers:
                series.run(controller, relayed=self._lab.relayed, sample=False)


class Series:
    """The runs of one scenario, all of which must end with the same recap."""

    def __init__(self, lab: Lab, scenario: Scenario, mebibytes: int = 1) -> None:
        """Write the scenario's playbook; `mebibytes` is the size of its big file, if it has one."""
        self.scenario = scenario
        self._directory = lab.directory / "scenarios" / scenario.name
        self._directory.mkdir(parents=True, exist_ok=True)
        scenario.write(self._directory, mebibytes)
        self._first: tuple[str, Recap] | None = None

    def run(self, controller: Controller, *, relayed: bool = False, sample: bool = False) -> Reading:
        """One run under the controller's variant. RunFailed if it failed or did other work than the first."""
        name = controller.variant.name
        reading, recap = controller.run(self.scenario, self._directory, relayed=relayed, sample=sample)
        if self._first is None:
            self._first = (name, recap)
        other, expected = self._first
        lines = differences(expected, recap)
        if lines:
            listed = "\n".join(f"    {line}" for line in lines)
            raise RunFailed(f"{self.scenario.name}: the recaps of {other} and {name} differ:\n{listed}")
        if failed := [host for host, counts in recap.items() if counts["failures"] or counts["unreachable"]]:
            raise RunFailed(f"{self.scenario.name}: {name} failed on {', '.join(failed)}")
        return reading
