# SPDX-License-Identifier: BSD-3-Clause
"""``fatline demo``: one real playbook over real OpenSSH, under stock ansible-core and under Fatline."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fatline.cli import exits
from fatline.cli.bench.lab import Controller, Lab, RunFailed
from fatline.cli.bench.meter import MeterError, Reading
from fatline.cli.bench.runner import Series
from fatline.cli.bench.scenarios import PLAYBOOKS, SCENARIOS
from fatline.cli.bench.variants import BASELINES, Variant, fatline
from fatline.cli.sandbox import SandboxError
from fatline.cli.tools import at_least, default_python

DESCRIPTION = """\
Runs a playbook of 27 tasks over OpenSSH against a private sshd on loopback, once under stock ansible-core
(pipelining on) and once under Fatline, checks that both did the same, and prints both times. It needs no
root, asks for no password, and removes what it made.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="run a playbook under stock ansible-core and under Fatline, and compare",
        description=DESCRIPTION,
        epilog=exits.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hosts", type=at_least(1), default=1, metavar="N", help="targets (default: 1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fatline-") as directory,
            Lab(Path(directory), options.hosts, 0.0, default_python()) as lab,
        ):
            _compare(lab)
    except (SandboxError, MeterError) as error:
        return exits.complain(str(error), exits.CANNOT_RUN)
    except RunFailed as error:
        return exits.complain(str(error), exits.FAILED)
    return exits.OK


def _compare(lab: Lab) -> None:
    print(f"Playbook: {PLAYBOOKS / 'mixed.yml'}")
    print(f"Targets:  {lab.hosts} private sshd on loopback, as the user who runs this")
    with _controller(lab, BASELINES["stock"]) as stock, _controller(lab, fatline("strategy")) as fast:
        # A first run of anything pays for cold disk caches; that is nobody's merit.
        Series(lab, SCENARIOS["ping"]).run(stock)
        series = Series(lab, SCENARIOS["mixed"])
        before = _timed(series, stock, "stock ansible-core, pipelining on")
        after = _timed(series, fast, "Fatline: strategy = fatline.core.linear")
        summary = fast.summary()
    print("Both runs ended with the same ok, changed, skipped and failed counts.")
    print(summary)
    print(f"\nFatline took {before.wall_s / after.wall_s:.1f} times less time.\n")
    print("Next: 'fatline doctor' looks at your own configuration; 'fatline bench' measures more.")


def _timed(series: Series, controller: Controller, title: str) -> Reading:
    print(f"  {title:<44}", end="", flush=True)
    reading = series.run(controller)
    print(f"{reading.wall_s:7.2f} s", flush=True)
    return reading


@contextlib.contextmanager
def _controller(lab: Lab, variant: Variant) -> Iterator[Controller]:
    controller = Controller(lab, variant, {"FATLINE_SUMMARY": "1"})
    try:
        yield controller
    finally:
        controller.close()
