# SPDX-License-Identifier: BSD-3-Clause
"""``fatline doctor``: is Fatline active here, through which door, and what would fall back to stock?

The configuration is asked of ansible-config, so ansible-core's own rules of precedence decide; what is made
of it is in `diagnosis`, and ``--host`` in `hostcheck`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import fatline
from fatline import _native
from fatline.cli import exits, hostcheck
from fatline.cli.diagnosis import FAULT, Facts, Option, diagnose
from fatline.cli.mux import figures, running
from fatline.cli.tools import ansible_command
from fatline.mux import runtime_directory

ASK_SECONDS = 60.0

DESCRIPTION = """\
Looks at the configuration that ansible-playbook would use in this directory and says whether Fatline is
active, through which door, which versions are in play, and which settings would send work through stock ssh.
"""


class CannotAsk(Exception):
    """ansible-core did not answer."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="say whether Fatline is active here, and what would fall back",
        description=DESCRIPTION,
        epilog=exits.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", metavar="HOST", help="also reach this inventory host, and time it")
    parser.add_argument(
        "-i", "--inventory", metavar="PATH", help="inventory for --host (default: ansible-core's own)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the diagnosis; FAILED if it holds a fault."""
    try:
        facts = inspect()
    except CannotAsk as error:
        return exits.complain(str(error), exits.CANNOT_RUN)
    print(*_versions(), *_muxes(), "", sep="\n")
    findings = list(diagnose(facts))
    for finding in findings:
        print(f"{finding.level:<6}{finding.text}")
    healthy = all(finding.level != FAULT for finding in findings)
    if options.host:
        print(f"\nhost {options.host}")
        healthy = hostcheck.check(options.host, options.inventory) and healthy
    return exits.OK if healthy else exits.FAILED


def inspect() -> Facts:
    """Collect the facts of this user and directory. CannotAsk if ansible-core does not answer."""
    base = _options(_ansible_config())
    return Facts(
        core=metadata.version("ansible-core"),
        package=fatline.__version__,
        extension=_native.VERSION,
        base=base,
        ssh=_options(_ansible_config("-t", "connection", "ssh")[0]["ssh"]),
        environment={name: value for name, value in os.environ.items() if name.startswith("FATLINE_")},
        collections=list(_collections(base.get("COLLECTIONS_PATHS", Option()).value or [])),
        other_ansible=_other_ansible(),
        yaml_misfit=_yaml_misfit(),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE),
    )


def _ansible_config(*arguments: str) -> list[Any]:
    command = [*ansible_command("ansible-config"), "dump", "--format", "json", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
        answer: list[Any] = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        raise CannotAsk(f"ansible-config failed: {error.stderr.strip()}") from None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise CannotAsk(f"ansible-config did not answer: {error}") from None
    return answer


def _options(entries: list[Any]) -> dict[str, Option]:
    """Settings by name; entries of another shape (sections of galaxy servers) are none."""
    return {
        entry["name"]: Option(entry["value"], entry["origin"])
        for entry in entries
        if isinstance(entry, dict) and {"name", "value", "origin"} <= entry.keys()
    }


def _collections(configured: list[str]) -> Iterator[tuple[Path, str]]:
    """The places in which ansible-core would find the collection, in its order, with the version there."""
    roots = [Path(path).expanduser() for path in (*configured, *sys.path) if path]
    for root in dict.fromkeys(roots):
        path = root / "ansible_collections" / "fatline" / "core"
        if path.is_dir():
            yield path, _collection_version(path)


def _collection_version(path: Path) -> str:
    try:
        if (manifest := path / "MANIFEST.json").exists():
            return str(json.loads(manifest.read_text())["collection_info"]["version"])
        text = (path / "galaxy.yml").read_text()
    except (OSError, ValueError, KeyError):
        return "unknown"
    found = re.search(r"^version:\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    return found[1] if found else "unknown"


def _other_ansible() -> str:
    """The ansible-playbook that PATH leads to, if it would run under another Python than this one."""
    path = shutil.which("ansible-playbook")
    if path is None:
        return ""
    with Path(path).open("rb") as script:
        words = script.readline().removeprefix(b"#!").decode(errors="replace").split()
    own = {sys.executable, str(Path(sys.executable).resolve())}
    # A shebang through env or sh says nothing without running it.
    absolute = bool(words) and Path(words[0]).name.startswith("python")
    return path if absolute and words[0] not in own else ""


def _yaml_misfit() -> str:
    """Why the YAML loader would leave everything to ansible-core; asked of a process that has loaded that."""
    command = [sys.executable, "-c", "from fatline.ansible import yaml_hook; print(yaml_hook.install())"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FATLINE_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be loaded: {error}"
    return done.stdout.strip()


def _versions() -> Iterator[str]:
    yield f"fatline {fatline.__version__} (build {_native.BUILD})"
    yield f"ansible-core {metadata.version('ansible-core')}"
    yield f"python {platform.python_version()} ({sys.executable})"
    yield f"ssh {_ssh_version()}"


def _ssh_version() -> str:
    if shutil.which("ssh") is None:
        return "missing: install the OpenSSH client"
    return subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip()


def _muxes() -> Iterator[str]:
    directory = runtime_directory()
    found = [figures(mux.client.status()) for mux in running(directory)]
    for values in found:
        yield (
            f"mux running: pid {values.get('pid')}, up {values.get('uptime_s')} s, "
            f"{values.get('agents')} agents, {values.get('clients')} clients, {values.get('pss_kb')} KiB"
        )
    if not found:
        yield f"mux not running (it starts with the first run that needs it; directory {directory})"
