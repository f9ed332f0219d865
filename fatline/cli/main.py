# SPDX-License-Identifier: BSD-3-Clause
"""The ``fatline`` command."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import fatline
from fatline.cli import demo, doctor, exits, inventory_check, mux
from fatline.cli.bench import command as bench
from fatline.errors import MuxError

DESCRIPTION = """\
Fatline makes Ansible several times faster without changing what a playbook does.

Turn it on with one line in ansible.cfg:

    [defaults]
    strategy = fatline.core.linear

and off for one run with FATLINE_DISABLE=1. These commands show that it works, and how well.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`; returns the exit code."""
    signal.signal(signal.SIGTERM, _end_in_order)
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except MuxError as error:
        return exits.complain(str(error), exits.CANNOT_RUN)
    except KeyboardInterrupt:
        return exits.complain("interrupted", exits.INTERRUPTED)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each sub-command adds its own part."""
    parser = argparse.ArgumentParser(
        prog="fatline",
        description=DESCRIPTION,
        epilog=exits.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fatline {fatline.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (demo, doctor, inventory_check, bench, mux):
        part.add_parser(commands)
    return parser


def _end_in_order(_number: int, _frame: FrameType | None) -> None:
    """Let `finally` and `with` end what was started: sshds, relays, scratch directories."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
