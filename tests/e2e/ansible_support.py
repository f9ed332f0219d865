# SPDX-License-Identifier: BSD-3-Clause
"""Run the installed ansible-core against private ssh servers and read what came out."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fatline.cli.sandbox import PrivateSshd

RUN_SECONDS = 120

CALLBACKS = Path(__file__).parent / "callback_plugins"

# A target interpreter that is sure to exist: discovery is tested on its own.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


# What no two runs have in common.
VOLATILE = {
    *("start", "end", "delta", "started", "finished", "ansible_job_id", "results_file"),
    *("atime", "mtime", "ctime", "inode", "version", "src", "_original_basename"),
    *("stdout_lines", "diff", "warnings", "deprecations", "_ansible_no_log"),
}


@dataclass
class Record:
    """One task on one host."""

    status: str
    host: str
    task: str
    result: dict[str, Any]


@dataclass
class Outcome:
    """One run of ansible."""

    rc: int
    output: str
    records: list[Record] = field(default_factory=list)

    def of(self, task: str, host: str | None = None) -> Record:
        """Return the record of a task."""
        found = [
            record for record in self.records if record.task == task and (host is None or record.host == host)
        ]
        assert found, f"no result of task {task!r}:\n{self.output}"
        return found[0]

    def summary(self) -> tuple[int, int, str]:
        """Return accelerated, all, and the reasons for the rest, as the summary line says."""
        match = re.search(r"fatline: accelerated (\d+) of (\d+) commands([^\n]*)", self.output)
        assert match, f"no summary:\n{self.output}"
        return int(match[1]), int(match[2]), match[3]


class Lab:
    """An inventory of private servers and a directory to run ansible in."""

    def __init__(self, directory: Path, servers: Mapping[str, PrivateSshd], **variables: Any) -> None:
        """Write the inventory; `variables` go to every host."""
        self.directory = directory
        self.inventory = directory / "inventory"
        self.configuration = directory / "ansible.cfg"
        self.configuration.write_text("[defaults]\n")
        self.variables: dict[str, Any] = {"ansible_python_interpreter": PYTHON, **variables}
        self.hosts = {name: dict(server.inventory_variables()) for name, server in servers.items()}
        self.settings: dict[str, str] = {}
        """Environment variables of all runs."""
        self.seconds = RUN_SECONDS
        """How long one run may take."""
        self.user = ""
        """The account that runs ansible; empty for the tests' own."""
        self.write()

    def write(self) -> None:
        """Write the inventory again, after a change of its variables."""
        lines = [
            f"{name} " + " ".join(f"{key}={json.dumps(str(value))}" for key, value in variables.items())
            for name, variables in self.hosts.items()
        ]
        lines += ["[all:vars]", *(f"{name}={value}" for name, value in self.variables.items())]
        self.inventory.write_text("\n".join(lines) + "\n")

    def environment(self, **changes: str) -> dict[str, str]:
        """Return what ansible is run with: nothing of the user's own configuration."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ANSIBLE_", "LC_")) and name not in ("FATLINE_DISABLE", "FATLINE_SUMMARY")
        }
        kept |= {
            "ANSIBLE_CONFIG": str(self.configuration),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            # The servers give sessions a HOME that is not the account's own; async resolves "~" both ways.
            "ANSIBLE_ASYNC_DIR": str(self.directory / "async"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "local-tmp"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_TIMEOUT": "10",
            "FATLINE_SUMMARY": "1",
        }
        if self.user:
            # The tests' own directory for a mux is closed to it.
            del kept["FATLINE_RUNTIME_DIR"]
            kept |= {"HOME": pwd.getpwnam(self.user).pw_dir, "USER": self.user, "LOGNAME": self.user}
        return kept | self.settings | changes

    def start(self, arguments: Sequence[str], **changes: str) -> subprocess.Popen[str]:
        """Start an ansible program of the tests' own environment."""
        program = str(Path(sys.executable).with_name(arguments[0]))
        return subprocess.Popen(
            [*self._as_user(), program, *arguments[1:]],
            cwd=self.directory,
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _as_user(self) -> list[str]:
        """Return what runs a program as the account; it may read a Python that is in somebody else's home."""
        if not self.user:
            return []
        group = str(pwd.getpwnam(self.user).pw_gid)
        reads = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
        return ["setpriv", f"--reuid={self.user}", f"--regid={group}", "--init-groups", *reads]

    def finish(self, process: subprocess.Popen[str], record: Path | None = None) -> Outcome:
        """Wait for a program that was started and read what it recorded."""
        try:
            output, _ = process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"not ended within {self.seconds} s:\n{output}") from None
        records = []
        if record is not None and record.exists():
            records = [Record(**json.loads(line)) for line in record.read_text().splitlines()]
        return Outcome(process.returncode, output, records)

    def playbook(self, text: str, *arguments: str, door: str = "callback", **changes: str) -> Outcome:
        """Run a playbook to its end through a door, or without Fatline if that is ``stock``."""
        return self.finish(*self.start_playbook(text, *arguments, door=door, **changes))

    def start_playbook(
        self, text: str, *arguments: str, door: str = "callback", **changes: str
    ) -> tuple[subprocess.Popen[str], Path]:
        """Start a playbook; returns the process and the file that it records to."""
        playbook = self.directory / f"{door}.yml"
        playbook.write_text(text)
        record = self.directory / f"{door}.jsonl"
        record.unlink(missing_ok=True)
        environment = {"RECORD_FILE": str(record), **DOORS[door], **changes}
        command = ["ansible-playbook", "-i", str(self.inventory), *arguments, str(playbook)]
        return self.start(command, **environment), record

    def adhoc(self, *arguments: str, door: str = "callback", **changes: str) -> Outcome:
        """Run a module on all hosts without a playbook."""
        record = self.directory / "adhoc.jsonl"
        record.unlink(missing_ok=True)
        environment = {
            "RECORD_FILE": str(record),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            **DOORS[door],
            **changes,
        }
        return self.finish(
            self.start(["ansible", "-i", str(self.inventory), *arguments], **environment), record
        )

    def close_masters(self, directory: Path) -> None:
        """End the ssh masters that fall-backs left behind for the next minute, as stock leaves its own."""
        for socket in (*directory.glob("cp-*"), *(self.directory / "cp").glob("*")):
            command = ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "unused"]
            subprocess.run(command, capture_output=True, check=False, timeout=10)


def normalised(value: Any) -> Any:
    """Return a result without what differs from run to run."""
    if isinstance(value, dict):
        return {key: normalised(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if isinstance(value, str):
        value = re.sub(r"ansible-tmp-[0-9.]+-[0-9]+-[0-9]+|ansible-local-\w+", "ansible-tmp", value)
        value = re.sub(r"ansible_\w+_payload_\w+", "ansible_payload", value)
        return re.sub(r'line \d+, in|File "[^"]+"', "", value)
    return value


def difference(expected: Record, got: Record) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two results differ, with both values."""
    one, other = ({"status": record.status, **normalised(record.result)} for record in (expected, got))
    return {
        key: (one.get(key), other.get(key)) for key in one.keys() | other if one.get(key) != other.get(key)
    }


def differences(expected: Outcome, got: Outcome) -> dict[str, object]:
    """Return what the results of two runs differ in, by host and task."""
    assert len(got.records) == len(expected.records), got.output
    pairs = zip(expected.records, got.records, strict=True)
    found = {f"{one.host}: {one.task}": difference(one, other) for one, other in pairs}
    return {task: what for task, what in found.items() if what}


DOORS: dict[str, dict[str, str]] = {
    "stock": {"FATLINE_DISABLE": "1"},
    "callback": {"ANSIBLE_CALLBACKS_ENABLED": "fatline.core.fatline"},
    "strategy": {"ANSIBLE_STRATEGY": "fatline.core.linear"},
    "free": {"ANSIBLE_STRATEGY": "fatline.core.free"},
    "host_pinned": {"ANSIBLE_STRATEGY": "fatline.core.host_pinned"},
    "connection": {"ANSIBLE_TRANSPORT": "fatline.core.ssh"},
    "local": {"ANSIBLE_TRANSPORT": "fatline.core.local"},
}
"""The one line that turns Fatline on, for each door, as an environment variable."""


def quoted(*words: str) -> str:
    """Spell a shell command."""
    return shlex.join(words)
