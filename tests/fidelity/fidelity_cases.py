# SPDX-License-Identifier: BSD-3-Clause
"""The cases: playbooks with a header that says what they show and how they are run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).with_name("cases")

DOORS = ("strategy", "callback")
"""The doors that a case goes through unless its header says otherwise."""

PIPELINING: dict[str, dict[str, str]] = {
    "on": {"ANSIBLE_PIPELINING": "True"},
    "off": {"ANSIBLE_PIPELINING": "False"},
    # What most users have: stock copies files then, and Fatline does not.
    "unset": {},
}


class CaseError(Exception):
    """A header that cannot be right."""


@dataclass(frozen=True)
class Case:
    """One playbook, and what its header says: what follows ``#:`` in its first lines, read as YAML."""

    path: Path
    rc: int | None = 0
    """The return code under stock: a case that does not do under stock what it is for shows nothing.

    None: any."""

    quick: bool = False
    """Whether it is a part of `make test`."""

    doors: tuple[str, ...] = DOORS
    strategy: str = "linear"
    pipelining: tuple[str, ...] = ("on",)
    hosts: int = 1
    """How many targets there are: t1, t2, ... They are one machine under several addresses."""

    inventory: str = ""
    """The inventory in YAML, instead of the usual one."""

    config: str = ""
    """Lines for ansible.cfg, with their sections."""

    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stdin: str | None = None
    answers: tuple[tuple[str, str], ...] = ()
    """It runs on a terminal: pairs of a regular expression for the end of a question, and what is typed."""

    setup: str = ""
    """A shell script that root runs before, in each world."""

    awaited: tuple[str, ...] = ()
    """Commands, by their first words, that end by themselves before it is looked what is left."""

    runs: int = 1
    """How often it is run in the same world; the second run finds a warm mux, as it finds stock's masters."""

    order: str = "fixed"
    """``any`` where stock itself promises no order of tasks."""

    racing: str = ""
    """Why the number of attempts of an `until` is a matter of speed; attempts are not compared then."""

    volatile: dict[str, str] = field(default_factory=dict)
    """Further keys of results that no two runs have in common, each with its reason."""

    replace: tuple[tuple[str, str, str], ...] = ()
    """Further patterns in texts: pattern, replacement, reason."""

    volatile_files: dict[str, str] = field(default_factory=dict)
    """Further patterns of paths whose content no two runs have in common, each with its reason."""

    needs: tuple[str, ...] = ()
    """Programs without which it is skipped."""

    collections: bool = False
    """Whether it needs plugins of collections; it is skipped where these could not be fetched."""

    ansible: str = ">=2.14"
    """The versions of ansible-core that it is for."""

    xfail: str = ""
    """A miss that is known, in words. It is a miss all the same: strict."""

    timeout: float = 180.0

    @property
    def name(self) -> str:
        """``area/name``."""
        return str(self.path.relative_to(CASES).with_suffix(""))

    @property
    def helpers(self) -> Path:
        """The folder of files that lie next to the playbook when it is run; it need not exist."""
        return self.path.with_suffix("")


def load(path: Path) -> Case:
    """Read one case."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].startswith("# "):
        raise CaseError(f"{path}: the first line says what the case shows")
    try:
        header = _header([line[3:] for line in lines if line.startswith("#:")])
    except yaml.YAMLError as error:
        raise CaseError(f"{path}: the header is not YAML: {error}") from None
    unknown = header.keys() - Case.__dataclass_fields__.keys()
    if unknown:
        raise CaseError(f"{path}: unknown words in the header: {sorted(unknown)}")
    return Case(path, **{key: _frozen(value) for key, value in header.items()})


def _header(lines: list[str]) -> dict[str, Any]:
    """Read a header: a mapping, before which there may be short ones, each in braces on a line of its own."""
    found: dict[str, Any] = {}
    while lines and lines[0].startswith("{"):
        found |= yaml.safe_load(lines.pop(0))
    return found | (yaml.safe_load("\n".join(lines)) or {})


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return value


def every_case() -> Iterator[Case]:
    """All cases, in the order of their names."""
    for area in sorted(path for path in CASES.iterdir() if path.is_dir()):
        for path in sorted(area.glob("*.yml")):
            yield load(path)
