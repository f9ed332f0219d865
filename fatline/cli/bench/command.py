# SPDX-License-Identifier: BSD-3-Clause
"""The options of ``fatline bench``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fatline.cli import exits
from fatline.cli.bench import inventory, report
from fatline.cli.bench.lab import Lab, RunFailed
from fatline.cli.bench.meter import MeterError
from fatline.cli.bench.runner import Result, Runner
from fatline.cli.bench.scenarios import SCENARIOS, Scenario
from fatline.cli.bench.variants import BASELINES, DOORS, Variant, VariantError, fatline
from fatline.cli.mux import memory_kb
from fatline.cli.progress import progress
from fatline.cli.sandbox import SandboxError
from fatline.cli.tools import at_least, default_python

DEFAULT_SCENARIOS = ("ping", "loop100")
DEFAULT_BASELINES = ("stock", "stock-yaml")
_ALL_BASELINES = {**BASELINES, **inventory.BASELINES}

EPILOG = f"""\
scenarios:
{{scenarios}}

examples:
  fatline bench                                     ping and loop100 against stock
  fatline bench --scenario loop100 --against stock,mitogen
  fatline bench --scenario mixed --hosts 10 --rtt 50 --runs 3
  fatline bench --scenario all --json figures.json --plot figures.svg
  fatline bench --scenario inventory --hosts 10000,50000,100000 --runs 1 --plot inventory.svg

Targets are private sshds on loopback that start no shell start-up files. Variants run in turn (A B A B)
and must all end with the same recap, or the bench fails. stock and mitogen have pipelining on; fatline has
its one line in ansible.cfg and nothing else. inventory compares with stock (the default list of inventory
plugins) and stock-yaml (ansible-core's yaml plugin alone); all must print the same.

{exits.EXPLAINED}"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench`` to the command line."""
    titles = {scenario.name: scenario.title for scenario in SCENARIOS.values()} | {
        inventory.NAME: inventory.TITLE
    }
    listed = "\n".join(f"  {name:<12}{title}" for name, title in titles.items())
    parser = commands.add_parser(
        "bench",
        help="measure playbooks under Fatline, stock ansible-core and Mitogen",
        description="Measure playbooks under Fatline and others: time, CPU, memory, bytes on the wire.",
        epilog=EPILOG.format(scenarios=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser)
    _add_how(parser)
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; '-' for stdout")
    parser.add_argument("--plot", metavar="FILE", help="draw wall times; FILE ends with .png or .svg")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure what the options ask for, and report it."""
    try:
        if options.plot:
            report.check_plot(options.plot)
        results = list(_report_each(options, measure(options)))
    except (VariantError, SandboxError, MeterError, report.ReportError) as error:
        return exits.complain(str(error), exits.CANNOT_RUN)
    except RunFailed as error:
        return exits.complain(str(error), exits.FAILED)
    if options.json:
        report.write_json(options.json, report.document(results, report.machine()))
    if options.plot:
        report.plot(options.plot, results)
    return exits.OK


def measure(options: argparse.Namespace) -> Iterator[list[Result]]:
    """Run every scenario that the options name; yield the figures of each when it is done."""
    names = _chosen_names(options)
    if scenarios := [SCENARIOS[name] for name in names if name != inventory.NAME]:
        yield from _measure_playbooks(options, scenarios)
    if inventory.NAME in names:
        yield from _measure_inventory(options)


def _measure_playbooks(options: argparse.Namespace, scenarios: Sequence[Scenario]) -> Iterator[list[Result]]:
    variants = _chosen(options, fatline(options.door), BASELINES)
    hosts, *more = options.hosts or [1]
    if more:
        raise VariantError("only the scenario inventory takes several numbers of hosts")
    steps = len(scenarios) * Runner.steps(variants, options.runs)
    with (
        tempfile.TemporaryDirectory(prefix="fatline-") as directory,
        Lab(Path(directory), hosts, options.rtt, options.python) as lab,
        progress(steps) as step,
    ):
        runner = Runner(
            lab, variants, runs=options.runs, rtt_ms=options.rtt, mux_memory=memory_kb, progress=step
        )
        for scenario in scenarios:
            yield runner.run(scenario, options.size)


def _measure_inventory(options: argparse.Namespace) -> Iterator[list[Result]]:
    variants = _chosen(options, inventory.FATLINE, inventory.BASELINES)
    sizes = options.hosts or [inventory.DEFAULT_HOSTS]
    with (
        tempfile.TemporaryDirectory(prefix="fatline-") as directory,
        progress(inventory.steps(variants, sizes, options.runs)) as step,
    ):
        yield from inventory.measure(
            Path(directory), variants, sizes, runs=options.runs, patience=options.patience, progress=step
        )


def _report_each(options: argparse.Namespace, measured: Iterator[list[Result]]) -> Iterator[Result]:
    """Print each scenario's table as soon as there is one: later scenarios take long, or fail."""
    # With --json -, stdout is the document's alone.
    table = sys.stderr if options.json == "-" else sys.stdout
    for results in measured:
        print(*report.table(results), sep="\n", file=table, flush=True)
        yield from results
    print(report.HOW_MEASURED, file=table)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[*SCENARIOS, inventory.NAME, "all"],
        metavar="NAME",
        help=f"what to run; may be repeated; 'all' for all (default: {', '.join(DEFAULT_SCENARIOS)})",
    )
    parser.add_argument(
        "--against",
        type=_baselines,
        metavar="NAMES",
        help=f"what to compare with: {', '.join(_ALL_BASELINES)}, separated by commas (default: stock; "
        "for inventory stock-yaml too)",
    )
    parser.add_argument(
        "--door", choices=DOORS, default="strategy", help="how Fatline is turned on (default: strategy)"
    )
    parser.add_argument("--without-fatline", action="store_true", help="measure only what --against names")


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hosts",
        type=_host_counts,
        metavar="N",
        help="targets (default: 1); for inventory, the hosts in it (default: "
        f"{inventory.DEFAULT_HOSTS}), also several numbers, separated by commas",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="S",
        help="inventory: leave out at the next size what took more processor seconds (default: 60)",
    )
    parser.add_argument(
        "--rtt", type=_milliseconds, default=0.0, metavar="MS", help="round-trip time, added by a relay"
    )
    parser.add_argument(
        "--runs", type=at_least(1), default=5, metavar="N", help="timing runs of each variant (default: 5)"
    )
    parser.add_argument(
        "--size", type=at_least(1), default=256, metavar="MIB", help="the file of bigfile (default: 256)"
    )
    parser.add_argument(
        "--python",
        default=default_python(),
        metavar="PATH",
        help="interpreter on the targets (default: %(default)s)",
    )


def _chosen_names(options: argparse.Namespace) -> Sequence[str]:
    names = options.scenario or DEFAULT_SCENARIOS
    return [*SCENARIOS, inventory.NAME] if "all" in names else list(dict.fromkeys(names))


def _chosen(options: argparse.Namespace, own: Variant, known: Mapping[str, Variant]) -> Sequence[Variant]:
    """The variants of one kind of scenario; a baseline that only another kind knows is not among them."""
    wanted = options.against or DEFAULT_BASELINES
    baselines = [known[name] for name in wanted if name in known]
    return baselines if options.without_fatline else [own, *baselines]


def _baselines(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in _ALL_BASELINES]:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)} "
            f"(there are {', '.join(_ALL_BASELINES)}; fatline itself always runs)"
        )
    return names


def _host_counts(text: str) -> list[int]:
    return [at_least(1)(number) for number in text.split(",")]


def _milliseconds(text: str) -> float:
    if not 0 <= (value := float(text)) <= 10_000:
        raise argparse.ArgumentTypeError("must be between 0 and 10000")
    return value
