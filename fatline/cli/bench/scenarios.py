# SPDX-License-Identifier: BSD-3-Clause
"""What is run: each scenario writes its playbook into a directory and says how to start it.

Playbooks use two variables, both scratch directories emptied before every run: `work_dir` on the target and
`fetch_dir` on the controller.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fatline.cli.tools import ansible_command

PLAYBOOKS = Path(__file__).parent / "playbooks"
PIECE = 1024 * 1024

Task = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One thing to measure."""

    name: str
    title: str
    write: Callable[[Path, int], None]
    """Writes the playbook and its files into a directory; the number is the big file's size in MiB."""
    module: str | None = None
    """An ad-hoc run of this module instead of a playbook."""
    warm: bool = False
    """Processes that outlive a run (mux, ssh masters) are kept for the next."""

    def argv(self, directory: Path) -> list[str]:
        """The command that runs it, written into `directory` before."""
        if self.module:
            return [*ansible_command("ansible"), "all", "-m", self.module]
        return [*ansible_command("ansible-playbook"), str(directory / "playbook.yml")]


def _nothing(_directory: Path, _mebibytes: int) -> None:
    """An ad-hoc scenario needs no file."""


def _playbook(
    tasks: list[Task], gather_facts: bool = False, **keywords: object
) -> Callable[[Path, int], None]:
    """A writer for one play. JSON is YAML, and ours has no comment to lose."""
    play = [{"name": "Bench", "hosts": "all", "gather_facts": gather_facts, "tasks": tasks, **keywords}]

    def write(directory: Path, _mebibytes: int) -> None:
        (directory / "playbook.yml").write_text(json.dumps(play, indent=2) + "\n")

    return write


def _with_small_files(directory: Path, _mebibytes: int) -> None:
    files = directory / "files"
    files.mkdir(exist_ok=True)
    for number in range(100):
        (files / f"small{number}").write_text(f"file {number}\n" * 20)
    copy = {"src": "small{{ item }}", "dest": "{{ work_dir }}/small{{ item }}", "mode": "0644"}
    tasks = [{"name": "Copy", "ansible.builtin.copy": copy, "loop": "{{ range(100) | list }}"}]
    _playbook(tasks)(directory, 0)


def _with_templates(directory: Path, _mebibytes: int) -> None:
    templates = directory / "templates"
    templates.mkdir(exist_ok=True)
    (templates / "unit.j2").write_text(
        "# unit {{ item }}\n{% for port in range(8000, 8040) %}\nlisten {{ item }}:{{ port }}\n{% endfor %}\n"
    )
    template = {"src": "unit.j2", "dest": "{{ work_dir }}/unit{{ item }}.conf", "mode": "0644"}
    tasks = [{"name": "Template", "ansible.builtin.template": template, "loop": "{{ range(20) | list }}"}]
    _playbook(tasks)(directory, 0)


def _with_big_file(directory: Path, mebibytes: int) -> None:
    files = directory / "files"
    files.mkdir(exist_ok=True)
    with open(files / "big", "wb") as big:
        for _ in range(mebibytes):
            big.write(os.urandom(PIECE))
    there = "{{ work_dir }}/big"
    back = {"src": there, "dest": "{{ fetch_dir }}/{{ inventory_hostname }}", "flat": True}
    tasks: list[Task] = [
        {"name": "Copy", "ansible.builtin.copy": {"src": "big", "dest": there, "mode": "0644"}},
        {"name": "Fetch", "ansible.builtin.fetch": back},
    ]
    _playbook(tasks)(directory, 0)


def _mixed(directory: Path, _mebibytes: int) -> None:
    shutil.copytree(PLAYBOOKS, directory, dirs_exist_ok=True)
    (directory / "mixed.yml").rename(directory / "playbook.yml")


_HOSTNAME: Task = {"name": "Command", "ansible.builtin.command": "hostname"}
_DEBUG: Task = {"name": "Debug", "ansible.builtin.debug": {"msg": "{{ inventory_hostname }}"}}

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("ping", "ansible -m ping, everything cold", _nothing, module="ansible.builtin.ping"),
        Scenario(
            "ping-warm",
            "ansible -m ping, mux and ssh masters left by the run before",
            _nothing,
            module="ansible.builtin.ping",
            warm=True,
        ),
        Scenario("tasks100", "100 tasks 'command: hostname'", _playbook([_HOSTNAME] * 100)),
        Scenario(
            "loop100",
            "one task 'command: hostname', looped 100 times",
            _playbook([{**_HOSTNAME, "loop": "{{ range(100) | list }}"}]),
        ),
        Scenario(
            "local100",
            "100 tasks 'command: hostname' on the controller itself",
            _playbook([_HOSTNAME] * 100, connection="local"),
        ),
        Scenario("copy100", "one task 'copy', looped over 100 small files", _with_small_files),
        Scenario("template20", "one task 'template', looped 20 times", _with_templates),
        Scenario("facts", "gathering all facts", _playbook([], gather_facts=True)),
        Scenario("bigfile", "one large file copied and fetched back", _with_big_file),
        Scenario("debug100", "100 tasks 'debug': controller only", _playbook([_DEBUG] * 100)),
        Scenario("mixed", "a playbook of 27 realistic tasks", _mixed),
    )
}
