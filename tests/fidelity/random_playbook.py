# SPDX-License-Identifier: BSD-3-Clause
"""Playbooks that nobody thought of: what users combine, combined by chance, the same for the same seed.

What a task does is drawn apart from its keywords, from its loop and from the variables that say how its
host is reached, so most combinations make little sense, and many fail. They fail under stock in one way and
have to fail in that way here. Hosts are one machine under several addresses: whatever is written is written
below a folder of the host's own, or else two hosts would race for it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from fidelity_cases import Case

Task = dict[str, Any]

WORDS = yaml.safe_load(Path(__file__).with_name("random_words.yml").read_text(encoding="utf-8"))

HERE = "{{ work }}/{{ inventory_hostname }}"

NEEDS_FILES = ("become_user", "/nonexistent/sh")
"""Where pipelining is left open stock copies files, for which another account or no shell is reason enough to
fail. Fatline does not, and does not fail: the one thing that it chooses by itself."""

MASTER_RACE = r"ControlSocket \S+ already exists, disabling multiplexing(\r\n|\\r\\n)"

TAKES_FEW_KEYWORDS = {"meta", "include_tasks", "import_tasks", "include_role", "import_role"}


class RandomCase(Case):
    """A case that has no file among the others."""

    @property
    def name(self) -> str:
        """``random/SEED``."""
        return f"random/{self.path.stem}"


def make_case(seed: int, directory: Path) -> tuple[RandomCase, str]:
    """Write the playbook of a seed, and its files, into a folder; return it with its pipelining."""
    drawer = Drawer(seed)
    path = directory / f"{seed}.yml"
    for name, content in WORDS["files"].items():
        file = path.with_suffix("") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755 if content.startswith("#!") else 0o644)
    hosts = drawer.one((1, 2, 3))
    strategy = drawer.one(("linear", "linear", "linear", "free", "host_pinned"))
    pipelining = drawer.one(("on", "on", "on", "on", "unset", "off"))
    text = yaml.safe_dump(drawer.playbook(), sort_keys=False, width=110, allow_unicode=True)
    path.write_text(text)
    if pipelining == "unset" and any(words in text for words in NEEDS_FILES):
        pipelining = "on"
    case = RandomCase(
        path,
        rc=None,
        doors=("strategy",),
        strategy=strategy,
        hosts=hosts,
        order="any",
        awaited=("/usr/bin/python3", "sleep"),
        replace=((MASTER_RACE, "", "two ssh become the master at the same time, or do not"),),
        volatile_files={r".*/in\.tar\.gz": "it holds times"},
        timeout=600.0,
    )
    return case, pipelining


class Drawer:
    """Draws playbooks."""

    def __init__(self, seed: int) -> None:
        """Begin with a seed."""
        self._random = random.Random(seed)
        self._registered: list[str] = []
        self._tasks = 0

    def one(self, choices: Sequence[Any]) -> Any:
        """Draw one of them."""
        return self._random.choice(choices)

    def playbook(self) -> list[Task]:
        """Draw a playbook: a play that makes folders, then two or three others."""
        return [self._settled(WORDS["first_play"]), *(self._play() for _ in range(self.one((2, 3))))]

    def _play(self) -> Task:
        play: Task = self._settled(WORDS["play"]) | self._keywords("play_keywords")
        play["vars"] |= self._connection_variables(0.2).get("vars", {})
        play |= self._environment(0.2)
        play["tasks"] = [self._task_or_block(2) for _ in range(self._random.randint(6, 12))]
        play["handlers"] = [
            {"name": "first", **self._settled(self.one(WORDS["actions"]["shell"])), "ignore_errors": True},
            {"name": "second", "listen": "both", **self._settled(self.one(WORDS["actions"]["act"]))},
        ]
        return play

    def _task_or_block(self, depth: int) -> Task:
        return self._block(depth - 1) if depth and self._chance(0.12) else self._task()

    def _block(self, depth: int) -> Task:
        block: Task = {"block": [self._task_or_block(depth) for _ in range(self.one((1, 2, 3)))]}
        if self._chance(0.6):
            block["rescue"] = [self._task_or_block(depth), {"debug": {"var": "ansible_failed_task.name"}}]
        if self._chance(0.4):
            block["always"] = [self._task_or_block(depth)]
        block |= self._keywords("block_keywords") | self._environment(0.2) | self._delegation(0.2)
        return block | self._condition(0.2) | self._connection_variables(0.2)

    def _task(self) -> Task:
        self._tasks += 1
        task: Task = {"name": f"task {self._tasks}", **self._action()}
        if task.keys() & TAKES_FEW_KEYWORDS:
            return task
        if self._chance(0.25):
            task |= self._settled(self.one(WORDS["loops"]))
        drawn = self._keywords("task_keywords") | self._environment(0.12) | self._delegation(0.12)
        task = drawn | self._condition(0.1) | self._connection_variables(0.2) | task
        if self._chance(0.2):
            task["register"] = f"result_{self._tasks}"
            self._registered.append(task["register"])
        return task

    def _action(self) -> Task:
        action: Task = self._settled(self.one(self.one(list(WORDS["actions"].values()))))
        return action

    def _keywords(self, table: str) -> Task:
        found: Task = {}
        for probability, keywords in WORDS[table]:
            if self._chance(probability):
                found |= self._settled(keywords)
        return found

    def _environment(self, probability: float) -> Task:
        return {"environment": self.one(WORDS["environments"])} if self._chance(probability) else {}

    def _delegation(self, probability: float) -> Task:
        return {"delegate_to": self.one(WORDS["hosts_to_delegate_to"])} if self._chance(probability) else {}

    def _connection_variables(self, probability: float) -> Task:
        found: Task = {}
        while self._chance(probability):
            found |= self._settled(self.one(WORDS["connection_variables"]))
        return {"vars": found} if found else {}

    def _condition(self, probability: float) -> Task:
        if not self._chance(probability):
            return {}
        if not self._registered or self._chance(0.5):
            return {"when": self.one(WORDS["conditions"])}
        return {
            "when": self.one(WORDS["conditions_on_a_result"]).replace("RESULT", self.one(self._registered))
        }

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _settled(self, words: Any) -> Any:
        """Draw what is left to be drawn in words of the table; return a copy."""
        if isinstance(words, dict):
            if words.keys() == {"one of"}:
                return self._settled(self.one(words["one of"]))
            return {key: self._settled(value) for key, value in words.items()}
        if isinstance(words, list):
            return [self._settled(word) for word in words]
        return words.replace("HERE", HERE) if isinstance(words, str) else words
