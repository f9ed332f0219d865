# SPDX-License-Identifier: BSD-3-Clause
"""An ansible-core that Fatline has never seen: the installed one under a higher number, changed in places."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import ansible
import pytest
from ansible_support import Lab, Outcome, difference

from fatline.cli.sandbox import PrivateSshd

pytestmark = pytest.mark.timeout(300)

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: ping, ping: }
    - {name: command, command: printf '%s' out}
    - {name: shell, shell: "echo out; echo err >&2; exit 3", ignore_errors: true}
    - {name: copy, copy: {content: "hello", dest: "{{ scratch }}/copied"}}
    - {name: raw, raw: "echo raw"}
"""
MODULES = 5
"""Modules that it runs: copy takes two."""


@pytest.fixture
def lab(tmp_path: Path, sshd: PrivateSshd, runtime_dir: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, {"one": sshd}, scratch=tmp_path)
    yield lab
    lab.close_masters(runtime_dir)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A tree of the installed ansible-core that says it is of version 2.99."""
    found = Path(ansible.__file__).parent
    shutil.copytree(found, tmp_path / "newer" / "ansible", copy_function=os.symlink)
    change(tmp_path / "newer", "ansible/release.py", r"(?m)^__version__ = .*", "__version__ = '2.99.0'")
    return tmp_path / "newer"


def change(core: Path, name: str, pattern: str, text: str) -> None:
    """Replace one place in a file of the tree."""
    path = core / name
    changed, count = re.subn(pattern, text, path.read_text(), count=1)
    assert count == 1, f"{name} has no {pattern}"
    path.unlink()
    path.write_text(changed)


def with_another_wrapper(core: Path) -> None:
    wrapper = "ansible/_internal/_ansiballz/_wrapper.py"
    name = wrapper if (core / wrapper).exists() else "ansible/executor/module_common.py"
    change(core, name, r"(?m)^def _ansiballz_main\(", "NEWER = True\n\n\ndef _ansiballz_main(")


def with_another_method(core: Path) -> None:
    path = core / "ansible/plugins/connection/ssh.py"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("_bare_run", "_run_bare"))


def run(lab: Lab, core: Path, door: str) -> Outcome:
    # Messages on one line, however long.
    outcome = lab.playbook(PLAY, "-vvv", door=door, PYTHONPATH=str(core), COLUMNS="4000")
    assert "[core 2.99.0]" in outcome.output, outcome.output
    (lab.directory / "copied").unlink()
    return outcome


def warnings(outcome: Outcome) -> list[str]:
    return [line for line in outcome.output.splitlines() if "WARNING" in line and "fatline" in line]


@pytest.mark.parametrize("door", ["callback", "strategy"])
@pytest.mark.parametrize(
    ("changed", "words", "warm", "cold"),
    [
        (None, "2.99.0 is newer than", MODULES, 0),
        (with_another_wrapper, "2.99.0 is newer than", 0, MODULES),
        (with_another_method, "fatline is not active", 0, 0),
    ],
)
def test_what_fits_runs_and_the_rest_is_stock_s_after_one_warning(
    lab: Lab, core: Path, door: str, changed: Callable[[Path], None] | None, words: str, warm: int, cold: int
) -> None:
    if changed is not None:
        changed(core)
    expected, got = run(lab, core, "stock"), run(lab, core, door)
    assert [difference(*pair) for pair in zip(expected.records, got.records, strict=True)] == [{}] * 5
    told = [line for line in warnings(got) if "DEPRECATION" not in line]
    assert len(told) == 1 and words in told[0], got.output
    assert not warnings(expected)
    # Where no agent is there yet nothing boots one for such an input: that one goes stock's way.
    assert len(re.findall(r"fatline: (?:cold|stock): input that is not a module payload", got.output)) == cold
    forked = len(re.findall(r"fatline: (?:warm: |cold: (?:new modules|first run))", got.output))
    assert forked == warm, got.output
