# SPDX-License-Identifier: BSD-3-Clause
"""What two runs of a case are compared by, and the one table of what they need not have in common.

Everything is compared: every event with its whole result, what was printed, return code, files, processes. A
line of the tables below takes one thing out, with its reason. A key that is volatile must still be there in
both, and be of the same type.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fidelity_cases import Case

KEYS: dict[str, str] = {
    "start": "time of day",
    "end": "time of day",
    "delta": "how long it took",
    "elapsed": "how long it took",
    "atime": "time of day",
    "mtime": "time of day",
    "ctime": "time of day",
    "inode": "each world has its own file system",
    "dev": "each world has its own file system",
    "pid": "process ids",
    "child_pid": "process ids",
    "ansible_job_id": "random number and pid",
}
"""Keys of results, at any depth, whose values no two runs have in common."""

TEXTS: tuple[tuple[str, str, str], ...] = (
    (r"ansible-tmp-[0-9.]+-[0-9]+-[0-9]+", "ansible-tmp-N", "time, pid and random number"),
    (r"ansible-local-[0-9]+[0-9a-z_]{8}", "ansible-local-N", "pid and random letters"),
    (r"ansible-moduletmp-[0-9.]+-[0-9a-z_]{8}", "ansible-moduletmp-N", "time and random letters"),
    (r"(ansible[._][\w.]*payload_)[0-9a-z_]{8}", r"\1N", "random letters"),
    (r"\bj?[0-9]{9,}\.[0-9]{1,7}\b|\bj[0-9]{9,12}\b", "JOB", "async job ids: random number and pid"),
    (r"/home/control/\.ansible/tmp/[^\s\"'/]+(/tmp\w{8})?", "LOCAL-TMP", "random letters"),
    (r"/(tmp|ansible)[0-9a-z_]{8}\b", r"/\1N", "random letters"),
    (r"/(pymp|listener)-[0-9a-z_]{8}\b", r"/\1-N", "random letters: what 2.22 leaves when it is killed"),
    (r"\.ansible_tmp[0-9a-z_]{8}", ".ansible_tmpN", "random letters"),
    (r"\.[0-9]+\.\d{4}-\d\d-\d\d@\d\d:\d\d:\d\d~", ".BACKUP", "pid and time in names of backups"),
    (r"(^|/)\.[0-9a-z_]{8}$", r"\1.N", "random letters: the local file that `copy` makes of its content"),
    (r"^tmp[0-9a-z_]{8}$", "tmpN", "random letters: that file in 2.14, which tells its name"),
    (r"/dev/pts/\d+", "/dev/pts/N", "which terminals are free"),
    (r"(?m)^ASYNC POLL on .*\n", "", "how often a job is asked is a matter of time"),
    (
        r"^(\d+) (/bin/sh -c )?/usr/bin/python3( && sleep 0| -c import sys;sys\.path\[.*)?$",
        r"\1 MODULE",
        "a warm module's two processes have the command line of the agent that they are forks of",
    ),
    (r"currently used by process \d+", "currently used by process N", "process ids"),
    (r"copied, [0-9.e-]+ s, [0-9.]+ .?B/s", "copied", "how long it took"),
    (r"Paused for [0-9.]+ seconds", "Paused", "how long it took"),
    (r"BECOME-SUCCESS-[a-z]{32}", "BECOME-SUCCESS-N", "random letters"),
    (
        r"127\.0\.0\.(\d+) \d+ (127\.0\.0\.\d+ )?22\b",
        r"127.0.0.\1 PORT \2 22",
        "the port that ssh connects from",
    ),
    (r"\b\d+:\d\d:\d\d\.\d{6}\b", "DURATION", "how long it took"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?", "TIME", "time of day"),
)
"""Parts of texts that no two runs have in common."""

FILES: dict[str, str] = {
    r"/(run/(utmp|motd\.dynamic)|var/log/(lastlog|wtmp|btmp|wtmp\.db))": "when somebody logged in",
    r"/home/control/\.ssh/.*": "the suite's own",
    r"/(etc/ssh|play/record|home/control/(run|\.ansible/cp))(/.*)?": "the suite's own, and sockets",
    r"/run/sudo/ts/.*": "sudo's time stamps",
    r"/home/control/\.ansible/tmp/ansible-local-[^/]+/fatline-zip-\w+": "a run's own notes, in "
    "the folder that goes with the run, and stays when that is killed",
}
"""Paths, as full matches, that are left out altogether."""

FILES_UNSET: dict[str, str] = {
    r"(/home/\w+|/root)/\.ansible(/tmp)?": "stock copies modules into the login user's, and what they need "
    "besides lies there; pipelined by Fatline they have it in their own account's",
}
"""More of them, where the user leaves `pipelining` open: the one thing that Fatline chooses by itself."""

CONTENTS: dict[str, str] = {
    r".*/__pycache__/.*\.pyc": "they hold times",
    r".*/ansible_[\w.]+_payload_\w+/.*\.zip": "they hold times; modules that end by force leave them",
    r".*/ansible-tmp-[^/]+/(AnsiballZ_\w+|async_wrapper)\.py": "they hold times; jobs keep them",
    r".*/\.ansible_async/.*": "the results of jobs: they are compared as results",
}
"""Paths whose presence, type, mode and owner are compared, but not what is in them."""

STDERR: tuple[tuple[str, str], ...] = (
    (
        r"\[DEPRECATION WARNING\]: Use of strategy plugins not included in .*",
        "the strategy door's (ansible fact 30)",
    ),
    (
        r"\[WARNING\]: Deprecation warnings can be disabled by .*",
        "comes along with the first deprecation warning",
    ),
)
"""Lines of standard error, as full matches, that are left out."""

_HEADER = re.compile(r"^(PLAY|TASK|RUNNING HANDLER|USING|NO MORE HOSTS|PLAY RECAP)\b.*$", re.MULTILINE)


# Core names the hosts of an include in the order in which they have answered.
_INCLUDED = re.compile(r"^(included: .* for )([^\s,]+(?:, [^\s,]+)+)(.*)$", re.MULTILINE)


@dataclass
class Observation:
    """All that was seen of one variant of a case."""

    rcs: list[int] = field(default_factory=list)
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    events: list[list[dict[str, Any]]] = field(default_factory=list)
    tree: dict[str, str] = field(default_factory=dict)
    processes: list[str] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)


class Normaliser:
    """Takes what is volatile out of one case's observations."""

    def __init__(self, case: Case, pipelining: str) -> None:
        """Read the case's own additions to the tables."""
        files = [*FILES, *(FILES_UNSET if pipelining == "unset" else ())]
        self._racing = bool(case.racing)
        self._keys = KEYS.keys() | case.volatile | ({"attempts"} if case.racing else set())
        names = "|".join(map(re.escape, sorted(self._keys)))
        self._printed = re.compile(rf'"({names})": ("(\\.|[^"\\])*"|-?[0-9.]+)')
        self._texts = [(re.compile(p), r) for p, r, _ in (*TEXTS, *case.replace)]
        self._files = [re.compile(pattern) for pattern in files]
        self._contents = [re.compile(pattern) for pattern in (*CONTENTS, *case.volatile_files)]
        self._any_order = case.order == "any"

    def text(self, value: str) -> str:
        """A text with its volatile parts named instead."""
        for pattern, replacement in self._texts:
            value = pattern.sub(replacement, value)
        return value

    def value(self, value: Any) -> Any:
        """A result with its volatile values named instead."""
        if isinstance(value, dict):
            return {
                self.text(key): f"<{type(item).__name__}>" if key in self._keys else self.value(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def events(self, events: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
        """The events of each host in their order; those of no host under an empty name."""
        found: dict[str, list[str]] = {}
        for event in events:
            if self._racing and event["event"] == "retry":
                continue
            text = json.dumps(self.value(event), indent=1, sort_keys=True)
            found.setdefault(event["host"], []).append(text)
        if self._any_order:
            found[""] = sorted(found.get("", []))
        return found

    def output(self, text: str) -> list[str]:
        """What was printed, in sections; where hosts race for the order of lines, that is made one order."""
        text = self._printed.sub(r'"\1": VOLATILE', self.text(text))
        if self._racing:
            text = re.sub(r"^FAILED - RETRYING.*\n", "", text, flags=re.MULTILINE)
        text = _INCLUDED.sub(_line_each if self._any_order else _sorted_hosts, text)
        if self._any_order:
            # A header stands again wherever hosts have taken turns, which is a race too.
            lines = text.splitlines()
            headers = {line for line in lines if _HEADER.match(line)}
            return sorted([*headers, *(line for line in lines if line and line not in headers)])
        sections: list[list[str]] = [[]]
        for line in text.splitlines():
            if _HEADER.match(line):
                sections.append([])
            sections[-1].append(line)
        return [line for section in sections for line in _in_one_order(section)]

    def errors(self, text: str) -> list[str]:
        """What was printed to standard error."""
        left_out = [re.compile(pattern) for pattern, _ in STDERR]
        # Hosts race for their warnings; empty lines between them say nothing once they are sorted.
        lines = sorted(filter(None, self.output(text)))
        return [line for line in lines if not any(pattern.fullmatch(line) for pattern in left_out)]

    def processes(self, lines: Iterable[str]) -> list[str]:
        """The command lines of what is left running."""
        return sorted(map(self.text, lines))

    def tree(self, tree: dict[str, str]) -> list[str]:
        """One line for each path."""
        lines = []
        for path, words in tree.items():
            if any(pattern.fullmatch(path) for pattern in self._files):
                continue
            if any(pattern.fullmatch(path) for pattern in self._contents):
                words = " ".join(words.split()[:3])
            lines.append(f"{self.text(path)}: {words}")
        return sorted(lines)


def _sorted_hosts(line: re.Match[str]) -> str:
    return line[1] + ", ".join(sorted(line[2].split(", "))) + line[3]


def _line_each(line: re.Match[str]) -> str:
    # Who has not answered yet gets an include of its own.
    return "\n".join(f"{line[1]}{host}{line[3]}" for host in line[2].split(", "))


def _in_one_order(section: list[str]) -> list[str]:
    """Sort what several hosts say about one task: each begins with a word, a colon and the host."""
    blocks: list[list[str]] = [[]]
    for line in section:
        if re.match(r"^(\w+( - \w+)?|\.\.\.\w+): \[|^(FAILED|ASYNC)\b|^\[ERROR\]", line):
            blocks.append([])
        blocks[-1].append(line)
    for block in blocks:
        while block and not block[-1]:
            block.pop()
    return [*blocks[0], *(line for block in sorted(blocks[1:]) for line in block), ""]


def differences(case: Case, pipelining: str, stock: Observation, other: Observation) -> list[str]:
    """What differs, in lines for a reader; empty if nothing does."""
    normaliser = Normaliser(case, pipelining)
    found = _difference("return code", stock.rcs, other.rcs)
    for number, (expected, got) in enumerate(zip(stock.events, other.events, strict=True), 1):
        one, two = normaliser.events(expected), normaliser.events(got)
        for host in sorted(one.keys() | two.keys()):
            what = f"events of {host or 'the run'}, run {number}"
            found += _difference(what, _lines(one.get(host, [])), _lines(two.get(host, [])))
    for expected_text, got_text in zip(stock.stdout, other.stdout, strict=True):
        found += _difference("stdout", normaliser.output(expected_text), normaliser.output(got_text))
    for expected_text, got_text in zip(stock.stderr, other.stderr, strict=True):
        found += _difference("stderr", normaliser.errors(expected_text), normaliser.errors(got_text))
    one, two = normaliser.processes(stock.processes), normaliser.processes(other.processes)
    found += _difference("files", normaliser.tree(stock.tree), normaliser.tree(other.tree))
    return found + _difference("processes left", one, two)


def _lines(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in text.splitlines()]


def _difference(what: str, expected: Sequence[Any], got: Sequence[Any]) -> list[str]:
    one, two = [str(item) for item in expected], [str(item) for item in got]
    if one == two:
        return []
    return [f"--- {what}: stock, +++ here", *list(difflib.unified_diff(one, two, lineterm="", n=4))[2:]]
