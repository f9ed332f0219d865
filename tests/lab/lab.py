# SPDX-License-Identifier: BSD-3-Clause
"""Build the roots and controllers of the lab, or start one host and tell how to reach it."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cores
import roots
from hosts import Host
from places import LabError, cache

from fatline.cli.sandbox import Keys


def build() -> int:
    """Build everything that is not there yet; the exit status."""
    print(f"in {cache()}")
    status = 0
    for name, root in roots.ROOTS.items():
        status |= _told(f"root {name}", lambda root=root: str(roots.build(root)))  # type: ignore[misc]
    for name, core in cores.CORES.items():
        status |= _told(f"controller {name}", lambda core=core: cores.build(core).versions())  # type: ignore[misc]
    return status


def _told(what: str, made: Callable[[], str]) -> int:
    try:
        print(f"{what}: {made()}", flush=True)
    except LabError as error:
        print(f"{what}: cannot be had: {error}", flush=True)
        return 1
    return 0


def host(name: str) -> int:
    """Keep one host running until stdin ends."""
    directory = Path(tempfile.mkdtemp(prefix="fatline-lab-"))
    try:
        with Host(roots.ROOTS[name], directory / "host", Keys.generate(directory / "keys")) as started:
            words = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in started.variables().items())
            print(f"{name} {words}")
            print(f"ssh -F {started.ssh_config()} -p {started.port} -l {roots.LOGIN} {started.address}")
            print(f"also: {roots.LOGIN_ASKED}, whose sudo asks for {roots.PASSWORD!r}; root")
            print("It ends with this program's input (Ctrl-D).", flush=True)
            sys.stdin.read()
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def main() -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make what is not there yet")
    commands.add_parser("host", help="start a host").add_argument("root", choices=roots.ROOTS)
    options = parser.parse_args()
    if os.getuid() != 0:
        print("the lab needs root: it enters root folders by chroot", file=sys.stderr)
        return 2
    return build() if options.command == "build" else host(options.root)


if __name__ == "__main__":
    sys.exit(main())
