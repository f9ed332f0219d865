# SPDX-License-Identifier: BSD-3-Clause
"""The place where runs happen: private targets, relays in front of them, scratch directories, inventories."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fatline.cli.bench.meter import Meter, Reading
from fatline.cli.bench.relay import Relay
from fatline.cli.bench.scenarios import Scenario
from fatline.cli.bench.variants import Sections, Variant
from fatline.cli.sandbox import Keys, PrivateSshd

RUN_SECONDS = 1800.0
QUIET_SECONDS = 10.0
SHOWN_LOG_LINES = 20

Recap = dict[str, dict[str, int]]


class RunFailed(Exception):
    """A run did not do what it should have done, so its time means nothing."""


@dataclass(frozen=True)
class Wire:
    """Bytes that crossed the loopback connections of one run, both directions of all hosts."""

    up: int
    down: int


class Lab:
    """Targets and scratch space. A context manager; leaving it ends everything and removes all files."""

    def __init__(self, directory: Path, hosts: int, rtt_ms: float, python: str) -> None:
        """Plan `hosts` targets whose modules run under `python`, `rtt_ms` away."""
        self.directory = directory
        self._python = python
        self._rtt_ms = rtt_ms
        keys = Keys.generate(directory / "keys")
        self._targets = [
            PrivateSshd(directory / f"target{number}", keys=keys) for number in range(1, hosts + 1)
        ]
        self._relays: list[Relay] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as stack:
            for target in self._targets:
                stack.enter_context(target)
                relay = Relay((target.host, target.port), self._rtt_ms / 1000)
                self._relays.append(stack.enter_context(relay))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    def write_inventory(self, path: Path, relayed: bool) -> None:
        """An inventory that reaches the targets, past the relays only if `relayed` is false."""
        lines = ["[all]"]
        for number, (target, relay) in enumerate(zip(self._targets, self._relays, strict=True), 1):
            variables = target.inventory_variables(relay.port if relayed else None)
            variables["ansible_python_interpreter"] = self._python
            variables["work_dir"] = str(self._work_dir(target))
            variables["fetch_dir"] = str(self.directory / "fetched")
            words = " ".join(f"{name}={json.dumps(value)}" for name, value in variables.items())
            lines.append(f"host{number} {words}")
        path.write_text("\n".join(lines) + "\n")

    def reset(self) -> None:
        """Give every target the state all runs start from, once nothing runs there any more."""
        for _ in self._until_quiet():
            time.sleep(0.005)
        for directory in (*map(self._work_dir, self._targets), self.directory / "fetched"):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()

    def mark(self) -> None:
        """Start a new count of bytes."""
        for relay in self._relays:
            relay.mark()

    def wire(self) -> Wire:
        """The bytes since `mark`."""
        counts = [relay.counts() for relay in self._relays]
        return Wire(sum(count.bytes_up for count in counts), sum(count.bytes_down for count in counts))

    @property
    def hosts(self) -> int:
        """The number of targets."""
        return len(self._targets)

    @property
    def relayed(self) -> bool:
        """Whether timing runs go through the relays."""
        return self._rtt_ms > 0

    def _until_quiet(self) -> Iterator[None]:
        """Yield while a session is still ending; sessions kept for a warm run stay, so not for ever."""
        deadline = time.monotonic() + QUIET_SECONDS
        while any(target.session_pids() for target in self._targets) and time.monotonic() < deadline:
            yield

    def _work_dir(self, target: PrivateSshd) -> Path:
        return target.directory / "work"


class Controller:
    """Runs scenarios under one variant, with files and processes of its own."""

    def __init__(self, lab: Lab, variant: Variant, environment: Mapping[str, str] | None = None) -> None:
        """Prepare configuration and inventories; `environment` is added to that of every run."""
        self.variant = variant
        self._lab = lab
        self._directory = lab.directory / variant.name
        self._directory.mkdir(exist_ok=True)
        self._log = self._directory / "log"
        self._extra = dict(environment or {})
        self._meter = Meter()
        self._write_config()

    def close(self) -> None:
        """End every process that runs have left behind."""
        self._meter.close()

    def settle(self) -> None:
        """Become cold."""
        self._meter.settle()

    def log_lines(self) -> list[str]:
        """What the last run printed."""
        return self._log.read_text(errors="replace").splitlines() if self._log.exists() else []

    def summary(self) -> str:
        """What Fatline said at the end of the last run, if it ran and was asked to."""
        return "\n".join(line.strip() for line in self.log_lines() if line.strip().startswith("fatline: "))

    def run(
        self, scenario: Scenario, directory: Path, *, relayed: bool, sample: bool
    ) -> tuple[Reading, Recap]:
        """Run `scenario`, written into `directory` before, once. RunFailed with the end of its output.

        A run with `sample` ends with Fatline's summary, and what outlives it is still there: a mux can be
        asked about its memory.
        """
        if not scenario.warm:
            self._lab.reset()
        recap = self._directory / "recap.json"
        recap.unlink(missing_ok=True)
        reading = self._meter.run(
            scenario.argv(directory),
            env=self._environment(relayed, recap, sample),
            cwd=directory,
            log=self._log,
            timeout=RUN_SECONDS,
            keep=scenario.warm or sample,
            sample=sample,
        )
        if reading.rc != 0 or not recap.exists():
            shown = "\n".join(f"    {line}" for line in self.log_lines()[-SHOWN_LOG_LINES:])
            raise RunFailed(f"{self.variant.name} ended with status {reading.rc}; its last lines:\n{shown}")
        return reading, json.loads(recap.read_text())

    @property
    def runtime_directory(self) -> Path:
        """Where this controller's mux lives."""
        return self._directory / "run"

    def _write_config(self) -> None:
        for relayed in (False, True):
            self._lab.write_inventory(self._inventory(relayed), relayed)
        shared: Sections = {
            "defaults": {
                "forks": str(max(5, self._lab.hosts)),
                "callback_plugins": str(Path(__file__).parent / "plugins"),
                "callbacks_enabled": "fatline_recap",
                "bin_ansible_callbacks": "True",
                "remote_tmp": str(self._lab.directory / "remote_tmp"),
                "local_tmp": str(self._directory / "tmp"),
                "retry_files_enabled": "False",
                "nocows": "True",
            },
            "ssh_connection": {"control_path_dir": str(self._directory / "cp")},
        }
        (self._directory / "ansible.cfg").write_text(self.variant.config(shared))

    def _inventory(self, relayed: bool) -> Path:
        return self._directory / ("relayed.ini" if relayed else "direct.ini")

    def _environment(self, relayed: bool, recap: Path, summary: bool) -> Mapping[str, str]:
        own = ("ANSIBLE_", "FATLINE_", "MITOGEN_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        return environment | {
            "ANSIBLE_CONFIG": str(self._directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(self._directory / "home"),
            "ANSIBLE_INVENTORY": str(self._inventory(relayed)),
            "FATLINE_RUNTIME_DIR": str(self.runtime_directory),
            "FATLINE_BENCH_RECAP": str(recap),
            "FATLINE_SUMMARY": "1" if summary else "0",
            **self._extra,
        }


def differences(expected: Recap, found: Recap) -> Sequence[str]:
    """What differs between two recaps, one line a host."""
    return [
        f"{host}: {expected.get(host)} against {found.get(host)}"
        for host in sorted(expected.keys() | found.keys())
        if expected.get(host) != found.get(host)
    ]
