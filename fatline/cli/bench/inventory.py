# SPDX-License-Identifier: BSD-3-Clause
"""The scenario ``inventory``: how long ansible-core takes to know its hosts, and with how much memory.

There is no target. A YAML inventory of groups, hosts and variables is written for each number of hosts, and
two commands that only load it are run under each variant. All must print the same, warnings included.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fatline.cli.bench.lab import RUN_SECONDS, RunFailed, Wire
from fatline.cli.bench.meter import Meter, Reading
from fatline.cli.bench.runner import Result
from fatline.cli.bench.variants import Variant
from fatline.cli.tools import ansible_command

NAME = "inventory"
TITLE = "loading a YAML inventory of 10,000 hosts (or --hosts N,N,...); no targets"
DEFAULT_HOSTS = 10_000
HOSTS_OF_A_GROUP = 100
SHOWN_LOG_LINES = 20

ENABLED = "host_list, script, fatline.core.yaml, auto, yaml, ini, toml"

FATLINE = Variant("fatline", lambda: {"inventory": {"enable_plugins": ENABLED}})
BASELINES: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("stock", lambda: {"inventory": {}}),
        Variant("stock-yaml", lambda: {"inventory": {"enable_plugins": "yaml"}}),
    )
}

COMMANDS = {
    "inventory-graph": ("ansible-inventory", "--graph"),
    "inventory-list": ("ansible", "all", "--list-hosts"),
}


def steps(variants: Sequence[Variant], sizes: Sequence[int], runs: int) -> int:
    """How many times `progress` is called at most."""
    return len(COMMANDS) * len(sizes) * len(variants) * (runs + 1)


def measure(
    directory: Path,
    variants: Sequence[Variant],
    sizes: Sequence[int],
    *,
    runs: int,
    patience: float,
    progress: Callable[[str], None],
) -> Iterator[list[Result]]:
    """Yield the results of each command at each size; RunFailed if a variant prints something else.

    A variant of which a run took more than `patience` seconds of processor time is left out at greater sizes.
    """
    with contextlib.ExitStack() as stack:
        controllers = [Controller(directory, variant) for variant in variants]
        for controller in controllers:
            stack.callback(controller.close)
        for size in sorted(sizes):
            able = [controller for controller in controllers if controller.slowest <= patience]
            if not able:
                return
            inventory = write_inventory(directory / f"inventory{size}.yml", size)
            for name, command in COMMANDS.items():
                yield _run(name, command, inventory, size, able, runs, progress)


def _run(
    name: str,
    command: Sequence[str],
    inventory: Path,
    size: int,
    controllers: Sequence[Controller],
    runs: int,
    progress: Callable[[str], None],
) -> list[Result]:
    """One command at one size: an extra run of each for memory, then the timing runs in turn."""
    results = []
    printed: dict[str, str] = {}
    for controller in controllers:
        progress(f"{name}, {size} hosts: memory, {controller.name}")
        reading = controller.run(command, inventory, sample=True)
        printed[controller.name] = controller.printed()
        if printed[controller.name] != printed[controllers[0].name]:
            raise RunFailed(f"{name}: {controllers[0].name} and {controller.name} print different things")
        results.append(Result(name, controller.name, size, 0.0, reading.peak_pss_kb, Wire(0, 0)))
    for number in range(1, runs + 1):
        for controller, result in zip(controllers, results, strict=True):
            progress(f"{name}, {size} hosts: run {number} of {runs}, {controller.name}")
            result.readings.append(controller.run(command, inventory, sample=False))
            if controller.printed() != printed[controller.name]:
                raise RunFailed(f"{name}: two runs of {controller.name} print different things")
    return results


class Controller:
    """Runs commands under one variant, with a configuration of its own."""

    def __init__(self, directory: Path, variant: Variant) -> None:
        """Write the configuration."""
        self.name = variant.name
        self.slowest = 0.0
        """Processor time of the longest run so far."""
        self._directory = directory / variant.name
        self._directory.mkdir()
        self._log = self._directory / "log"
        (self._directory / "ansible.cfg").write_text(variant.config({"defaults": {"nocows": "True"}}))
        self._meter = Meter()

    def close(self) -> None:
        """End what runs have left behind."""
        self._meter.close()

    def run(self, command: Sequence[str], inventory: Path, *, sample: bool) -> Reading:
        """Run a command once. RunFailed with the end of its output."""
        reading = self._meter.run(
            [*ansible_command(command[0]), "-i", str(inventory), *command[1:]],
            env=self._environment(),
            cwd=self._directory,
            log=self._log,
            timeout=RUN_SECONDS,
            sample=sample,
        )
        self.slowest = max(self.slowest, reading.cpu_s)
        if reading.rc != 0:
            lines = self._log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
            shown = "\n".join(f"    {line}" for line in lines)
            raise RunFailed(f"{self.name} ended with status {reading.rc}; its last lines:\n{shown}")
        return reading

    def printed(self) -> str:
        """Name what the last run printed."""
        return hashlib.sha256(self._log.read_bytes()).hexdigest()

    def _environment(self) -> Mapping[str, str]:
        own = ("ANSIBLE_", "FATLINE_", "MITOGEN_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        return environment | {
            "ANSIBLE_CONFIG": str(self._directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(self._directory / "home"),
        }


def write_inventory(path: Path, hosts: int) -> Path:
    """Write an inventory as estates have them: groups of a hundred hosts, a few variables on each."""
    with open(path, "w", encoding="utf-8") as target:
        target.write("all:\n  vars:\n    domain: example.org\n    ntp_servers: [ntp1, ntp2]\n  children:\n")
        for number in range(hosts):
            if number % HOSTS_OF_A_GROUP == 0:
                target.write(_group(number // HOSTS_OF_A_GROUP))
            target.write(_host(number))
    return path


def _group(number: int) -> str:
    return f"    rack{number:04}:\n      vars: {{rack: {number}, row: r{number // 20}}}\n      hosts:\n"


def _host(number: int) -> str:
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return (
        f"        host{number:06}.example.org:\n"
        f"          ansible_host: {address}\n"
        f'          fqdn: "host{number:06}.{{{{ domain }}}}"\n'
        f"          weight: {number % 7}\n"
        "          roles: [web, cache]\n"
    )
