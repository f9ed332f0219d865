# SPDX-License-Identifier: BSD-3-Clause
"""Connections that run commands with a program, to real containers and their like."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import containers
import pytest
from ansible_support import Lab, differences
from e2e_support import status_value, wait_for
from small_root import make_root

from fatline import mux
from fatline.client import Client

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
]

EVERYTHING = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: facts, setup: {gather_subset: ['!all', '!min', 'user', 'python']}}
    - {name: inherited, shell: "pwd; id; umask; env | grep -v -e ^ANSIBLE_ -e ^FATLINE_ -e ^RECORD | sort"}
    - {name: again, shell: "pwd; cat {{ only_here }}"}
    - {name: folder, file: {path: "{{ there }}", state: directory, mode: "0750"}}
    - {name: copy, copy: {content: "hello\\n", dest: "{{ there }}/copied"}}
    - {name: copy again, copy: {content: "hello\\n", dest: "{{ there }}/copied"}}
    - {name: line, lineinfile: {path: "{{ there }}/copied", line: more}}
    - {name: slurp, slurp: {src: "{{ there }}/copied"}}
    - {name: fetch, fetch: {src: "{{ there }}/copied", dest: "{{ playbook_dir }}/fetched", flat: true}}
    - {name: raw, raw: "echo raw; echo more >&2; pwd; exit 3", ignore_errors: true}
    - {name: loop, command: "printf '%s' {{ item }}", loop: [1, 2, 3, 4]}
    - {name: removed, file: {path: "{{ there }}", state: absent}}
"""


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with this machine's interpreter, and a file that tells it from others."""
    root = make_root(tmp_path_factory.mktemp("root") / "root")
    for mark in ("mark", "tmp/mark"):
        (root / mark).write_text("only here\n")
    return root


@pytest.mark.parametrize("tool", sorted(containers.TOOLS))
def test_every_result_is_the_one_that_stock_gives(
    tmp_path: Path, collections: Path, root: Path, tool: str
) -> None:
    """The plugin's own command line starts the agent; nothing of it is left when the run has ended."""
    with short_directory() as scratch, containers.TOOLS[tool](root, scratch) as place:
        lab = Lab(tmp_path, {}, there="/tmp/folder", only_here="/mark")
        lab.settings["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
        lab.seconds = 300
        lab.hosts = {"one": place.variables}
        lab.write()
        compare(lab)
        if place.sees_processes:
            look = [*place.inside, "sh", "-c", "grep -l NONC[E]= /proc/[0-9]*/cmdline"]
            wait_for("the agents' end", lambda: subprocess.run(look, check=False).returncode == 1)


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory for a tool's state and sockets, which want a short path."""
    with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def compare(lab: Lab) -> None:
    """Run everything on the lab's host, stock and then with Fatline."""
    stock = lab.playbook(EVERYTHING, door="stock")
    assert stock.rc == 0, stock.output
    (lab.directory / "fetched").unlink()
    got = lab.playbook(EVERYTHING)
    assert got.rc == 0, got.output
    found = differences(stock, got)
    assert not found, f"stock and then Fatline: {found}"
    accelerated, _, rest = got.summary()
    assert accelerated >= 12, rest
    native = mux.find()
    assert native is not None
    client = Client(native)
    wait_for("the agents' end", lambda: status_value(client, "agents") == "0")
