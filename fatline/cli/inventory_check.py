# SPDX-License-Identifier: BSD-3-Clause
"""``fatline inventory-check``: does Fatline load these files as ansible-core does?"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fatline.cli import exits
from fatline.cli.tools import at_least

DESCRIPTION = """\
Loads each inventory twice in this process, with ansible-core's own loader and plugins and with Fatline's,
and compares everything: values, types, tags or positions, shared objects, hosts, groups, variables
(group_vars and host_vars beside the inventory included), warnings and errors. It changes nothing and runs
nothing but inventory scripts and plugins that FILE itself leads to.

FILE is an inventory file or directory. Any other YAML file (a playbook, variables) may be given too: it is
compared as a document, and as an inventory it fails both ways alike.
"""

EPILOG = """\
examples:
  fatline inventory-check hosts.yml
  fatline inventory-check inventories/*/            every environment
  fatline inventory-check --vault-password-file .pass group_vars/all.yml

A difference is one line: where it is, in which file, line and column, and what there is on either side.
Please report it. Until it is mended, FATLINE_YAML=0 has ansible-core parse every file itself, and without the
line in ansible.cfg the inventory is loaded by ansible-core's plugins alone.

exit codes:
  0  no difference (files that have a fault have the same one both ways)
  1  a difference
  2  wrong command line, or a file that cannot be read
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``inventory-check`` to the command line."""
    parser = commands.add_parser(
        "inventory-check",
        help="load inventories with Fatline and with ansible-core, and tell any difference",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="inventory file or directory")
    parser.add_argument(
        "--vault-password-file",
        metavar="FILE",
        help="for what is encrypted (default: as ansible.cfg says)",
    )
    parser.add_argument(
        "--show", type=at_least(1), default=20, metavar="N", help="differences to print for each FILE (20)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check every file; FAILED if there is a difference."""
    for name in [*options.files, *([options.vault_password_file] if options.vault_password_file else [])]:
        if not os.access(name, os.R_OK):
            return exits.complain(f"{name}: cannot be read", exits.USAGE)
    # ansible-core takes its configuration from the environment when it is imported, and that takes a while.
    from fatline.ansible import inventory_check

    checker = inventory_check.Checker(options.vault_password_file)
    if checker.unavailable:
        print(f"note: documents are parsed by ansible-core either way: {checker.unavailable}")
    equal = True
    for name in options.files:
        report = checker.check(str(Path(name).absolute()))
        print(f"{name}: {report.summary()}")
        for difference in report.differences[: options.show]:
            print(f"  {difference}")
        if len(report.differences) > options.show:
            print(f"  and {len(report.differences) - options.show} more (--show)")
        equal = equal and not report.differences
    return exits.OK if equal else exits.FAILED
