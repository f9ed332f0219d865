# SPDX-License-Identifier: BSD-3-Clause
"""Every controller with every target: one playbook under stock and under Fatline, compared task by task.

Prints one table. Exit status 0 if every cell that could be had gave stock's results and ran modules warm, 1
if not, 2 if the lab cannot be used. A cell that cannot be had says why below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIDELITY = HERE.parent / "fidelity"
sys.path.append(str(FIDELITY))

import cores  # noqa: E402
import roots  # noqa: E402
from fidelity_cases import Case  # noqa: E402
from fidelity_compare import Normaliser  # noqa: E402
from hosts import Host  # noqa: E402
from places import NICENESS, LabError, say  # noqa: E402

from fatline.cli.sandbox import Keys  # noqa: E402

RUN_SECONDS = 1200
SHOWN_DIFFERENCES = 6
SHOWN_LINES = 30


@dataclass(frozen=True)
class Target:
    """A column of the table."""

    name: str
    root: str
    python: str


TARGETS = {
    target.name: target
    for target in (
        Target("bullseye-2.7", "bullseye", "/usr/bin/python2.7"),
        Target("bullseye-3.9", "bullseye", "/usr/bin/python3"),
        Target("bookworm-3.11", "bookworm", "/usr/bin/python3"),
        Target("trixie-3.13", "trixie", "/usr/bin/python3"),
        Target("sid-3.14", "sid", "/usr/bin/python3"),
    )
}

VARIANTS: dict[str, dict[str, str]] = {
    "stock": {"FATLINE_DISABLE": "1", "ANSIBLE_PIPELINING": "True"},
    "fatline": {"ANSIBLE_STRATEGY": "fatline.core.linear", "ANSIBLE_PIPELINING": "True"},
}

# How a line of Fatline's begins, for what it says about a module.
ROUTES = {
    "forked": ("warm: ", "cold: new modules for the agent", "cold: first run of a new agent"),
    "cold": ("cold: input that", "cold: unknown shape", "cold: environment"),
    "stock": ("stock: ",),
}

SSH_SAYS = r"(?m)^(?:debug[1-3]: |OpenSSH_\d|Authenticated to |  #\d+ ).*(?:\r?\n)*"
SSH_WARNS = r"(?m)^\*\* (?:WARNING: connection is not|This session may be|The server may need).*(?:\r?\n)*"

VOLATILE = {
    "ansible_date_time": "time of day",
    "ansible_env": "sudo and ssh set ports and terminals in it",
    "cache_update_time": "time of day",
}
REPLACE = (
    (r"\btmp[0-9A-Za-z_]{6,8}\b", "tmpN", "random letters"),
    (r"^\.[0-9a-z_]{8}$", ".N", "random letters"),
    (r"ansible-moduletmp-JOB-\w+", "ansible-moduletmp-N", "random letters, as Python 2 makes them"),
    (r"(ansible[._N][\w.]*payload_)[0-9A-Za-z_]{6,8}", r"\1N", "random letters, as Python 2 makes them"),
    (r"hello_[^ ]*\.deb", "DEB", "what the archive has now"),
    (SSH_SAYS, "", "2.17 and 2.18 let ssh tell of itself at -v"),
    (SSH_WARNS, "", "whoever opens the connection is told: under stock the first task, an agent otherwise"),
    (r"(Get:|Fetched |Reading database|Need to get ).*", r"\1", "apt tells times and sizes"),
)


@dataclass
class Observed:
    """One variant of one controller's run."""

    rc: int
    output: str
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By host, in their order."""

    def routes(self, address: str) -> Counter[str]:
        """How modules and stock's commands went to a host, as Fatline says it at -vvv."""
        said = re.findall(rf"^<{re.escape(address)}> fatline: (.*)$", self.output, re.MULTILINE)
        return Counter(
            route for words in said for route, starts in ROUTES.items() if words.startswith(starts)
        )


@dataclass
class Cell:
    """What is told about one controller and one target."""

    text: str
    good: bool
    notes: list[str] = field(default_factory=list)


class Matrix:
    """The rows and columns that were asked for, and a directory to work in."""

    def __init__(self, directory: Path, targets: Sequence[Target]) -> None:
        """`directory` must have a short name: there are sockets in it."""
        self._directory = directory
        self._targets = targets
        self._keys = Keys.generate(directory / "keys")
        self._ports = {target.name: 0 for target in targets}
        self._write_play()

    def row(self, core: cores.Core) -> tuple[str, dict[str, Cell]]:
        """Run a controller against all targets; returns its versions and its cells."""
        try:
            controller = cores.build(core)
            versions = controller.versions()
        except LabError as error:
            cell = Cell("no controller", True, [f"controller {core.name}: {error}"])
            return core.name, dict.fromkeys((target.name for target in self._targets), cell)
        observed, refused = {}, {}
        for variant in VARIANTS:
            say(f"lab: {versions}: {variant}")
            with self._hosts() as found:
                refused = {name: host for name, host in found.items() if isinstance(host, LabError)}
                hosts = {name: host for name, host in found.items() if isinstance(host, Host)}
                observed[variant] = self._run(controller, variant, hosts) if hosts else Observed(0, "")
        return versions, {
            target.name: Cell("no target", True, [f"target {target.name}: {refused[target.name]}"])
            if target.name in refused
            else _compared(target, self._address(target), observed["stock"], observed["fatline"])
            for target in self._targets
        }

    @contextlib.contextmanager
    def _hosts(self) -> Iterator[dict[str, Host | LabError]]:
        """Fresh hosts, always at the same addresses and ports."""
        with contextlib.ExitStack() as stack:
            found: dict[str, Host | LabError] = {}
            for target in self._targets:
                place = self._directory / target.name
                host = Host(
                    roots.ROOTS[target.root],
                    place,
                    self._keys,
                    name=target.root,
                    address=self._address(target),
                    port=self._ports[target.name],
                )
                try:
                    found[target.name] = stack.enter_context(host)
                    self._ports[target.name] = host.port
                except LabError as error:
                    found[target.name] = error
            yield found

    def _address(self, target: Target) -> str:
        return f"127.77.0.{list(TARGETS).index(target.name) + 1}"

    def _run(self, controller: cores.Controller, variant: str, hosts: dict[str, Host]) -> Observed:
        self._write_inventory(hosts)
        record = self._directory / "record.jsonl"
        record.unlink(missing_ok=True)
        environment = {
            "HOME": str(self._directory),
            "LANG": "C.UTF-8",
            "ANSIBLE_CONFIG": str(self._directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(self._directory / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._directory / "cp"),
            "ANSIBLE_CALLBACK_PLUGINS": str(self._directory / "callback_plugins"),
            "ANSIBLE_FORKS": str(len(hosts)),
            "ANSIBLE_NOCOLOR": "1",
            "FIDELITY_RECORD": str(record),
            "FATLINE_RUNTIME_DIR": str(self._directory / "run"),
            **controller.environment(),
            **VARIANTS[variant],
        }
        for name in ("fetched", "run", "cp"):
            shutil.rmtree(self._directory / name, ignore_errors=True)
            (self._directory / name).mkdir(mode=0o700)
        arguments = ["ansible-playbook", "-vvv", "-i", "inventory", "matrix.yml"]
        done = subprocess.run(
            ["nice", "-n", str(NICENESS), *controller.command(arguments, [self._directory])],
            cwd=self._directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=RUN_SECONDS,
            check=False,
        )
        if controller.root is None:
            stop = controller.command(["fatline", "mux", "stop"])
            subprocess.run(stop, env=environment, capture_output=True, check=False, timeout=60)
        (self._directory / f"{controller.core.name}-{variant}.log").write_text(done.stdout)
        observed = Observed(done.returncode, done.stdout)
        for line in record.read_text().splitlines() if record.exists() else ():
            event = json.loads(line)
            if event["host"]:
                observed.events.setdefault(event["host"], []).append(event)
        return observed

    def _write_inventory(self, hosts: dict[str, Host]) -> None:
        lines = []
        for name, host in hosts.items():
            variables = {**host.variables(), "ansible_python_interpreter": TARGETS[name].python}
            words = " ".join(f"{key}={json.dumps(str(value))}" for key, value in variables.items())
            lines.append(f"{name} {words}")
        lines += ["[all:vars]", f"sudo_password={roots.PASSWORD}", f"fetched={self._directory}/fetched"]
        (self._directory / "inventory").write_text("\n".join(lines) + "\n")

    def _write_play(self) -> None:
        """Everything the play needs lies in the directory: a controller in a root sees nothing else."""
        shutil.copy(HERE / "matrix.yml", self._directory)
        shutil.copytree(FIDELITY / "callback_plugins", self._directory / "callback_plugins")
        (self._directory / "ansible.cfg").write_text("[defaults]\nstdout_callback = default\n")
        (self._directory / "large").write_bytes(bytes(range(256)) * 3000)
        (self._directory / "page.j2").write_text("name {{ inventory_hostname }}\n")
        (self._directory / "script.sh").write_text('#!/bin/sh\necho "script $1"\n')
        with tarfile.open(self._directory / "packed.tar.gz", "w:gz") as archive:
            for name in ("parts/1", "parts/2"):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(name), 1_600_000_000
                archive.addfile(entry, io.BytesIO(name.encode()))


def _compared(target: Target, address: str, stock: Observed, fatline: Observed) -> Cell:
    expected, got = stock.events.get(target.name, []), fatline.events.get(target.name, [])
    where = f"{target.name}:"
    if not expected:
        tail = "\n".join(stock.output.strip().splitlines()[-SHOWN_LINES:])
        return Cell("stock fails", True, [f"{where} stock has no result:\n{tail}"])
    notes = [f"{where} {line}" for line in _differences(expected, got)]
    routes = fatline.routes(address)
    if expected[0]["event"] != "ok":
        said = expected[0].get("result", {}).get("msg", "").strip().splitlines() or ["no words"]
        return Cell(
            "not for this Python" if not notes else "DIFFERS", not notes, [*notes, f"{where} {said[0]}"]
        )
    tasks = sum("result" in event for event in expected)
    counts = f"{routes['forked']} modules warm, {routes['cold']} cold, {routes['stock']} by stock ssh"
    if notes:
        return Cell(f"DIFFERS ({counts})", False, notes)
    if not routes["forked"]:
        return Cell(f"NOT WARM ({counts})", False, [f"{where} no module took the warm path"])
    return Cell(f"{tasks} same, {counts}", True)


def _differences(expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> list[str]:
    """What differs between two runs on one host, in words for a reader."""
    normaliser = Normaliser(Case(HERE / "matrix.yml", volatile=VOLATILE, replace=REPLACE), "on")
    one, two = ([_Event(event, normaliser) for event in events] for events in (expected, got))
    if [event.title for event in one] != [event.title for event in two]:
        titles = difflib.unified_diff([e.title for e in one], [e.title for e in two], "stock", "fatline", n=1)
        return ["other events: " + " | ".join(line.strip() for line in titles)]
    return [
        f"{first.title}:\n"
        + "\n".join(list(difflib.unified_diff(first.lines, second.lines, lineterm="", n=1))[2:])
        for first, second in zip(one, two, strict=True)
        if first.lines != second.lines
    ]


class _Event:
    """An event with what is volatile taken out."""

    def __init__(self, event: dict[str, Any], normaliser: Normaliser) -> None:
        self.title = f"{event['event']} {event['task']}"
        value = normaliser.value(_with_traceback(event))
        self.lines = json.dumps(value, indent=1, sort_keys=True).splitlines()


def _with_traceback(event: dict[str, Any]) -> dict[str, Any]:
    """Core finds no traceback behind what ssh says of itself (2.17 and 2.18); tell of it all the same."""
    result = event.get("result") or {}
    words = re.sub(SSH_SAYS, "", result.get("module_stderr", ""))
    if not words.startswith("Traceback"):
        return event
    return {**event, "result": {**result, "exception": words}}


def table(rows: dict[str, dict[str, Cell]], columns: Sequence[str]) -> str:
    """The table in Markdown, with the notes below it."""
    lines = ["| controller | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    notes: list[str] = []
    for name, cells in rows.items():
        lines.append(f"| {name} | " + " | ".join(cells[column].text for column in columns) + " |")
        for column in columns:
            shown = cells[column].notes[:SHOWN_DIFFERENCES]
            notes += [text for note in shown if (text := f"- {name}: {note}") not in notes]
    return "\n".join([*lines, "", *notes])


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one (repeatable)")
    parser.add_argument(
        "--controller", action="append", choices=cores.CORES, help="only this one (repeatable)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory with the runs' output")
    options = parser.parse_args()
    if os.getuid() != 0:
        print("the lab needs root: it enters root folders by chroot", file=sys.stderr)
        return 2
    targets = [TARGETS[name] for name in options.target or TARGETS]
    directory = Path(tempfile.mkdtemp(prefix="fatline-matrix-"))
    rows: dict[str, dict[str, Cell]] = {}
    try:
        matrix = Matrix(directory, targets)
        for name in options.controller or cores.CORES:
            title, cells = matrix.row(cores.CORES[name])
            rows[f"{name}: {title}" if title != name else name] = cells
            say("\n".join(f"  {column}: {cell.text}" for column, cell in cells.items()))
    finally:
        if options.keep:
            say(f"lab: kept {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print(table(rows, [target.name for target in targets]))
    return 0 if all(cell.good for cells in rows.values() for cell in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
