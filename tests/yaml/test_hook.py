# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Fatline's YAML loader serves ansible-core's DataLoader, and that all around it stays core's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret

from fatline.ansible import activate, dataloader_versions, yaml_hook, yaml_loader
from fatline.ansible.comparison import attachments

SECRETS = [("default", VaultSecret(b"secret"))]


@pytest.fixture(autouse=True)
def unhooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin every test with core's own loader, and leave that behind."""
    monkeypatch.delenv("FATLINE_DISABLE", raising=False)
    monkeypatch.delenv("FATLINE_YAML", raising=False)
    current = dataloader_versions.current_from_yaml()
    dataloader_versions.replace_from_yaml(getattr(current, "__wrapped__", current))
    assert not yaml_hook.installed()
    yield
    dataloader_versions.replace_from_yaml(current)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the hook in place; the list is of the files whose documents the quick loader was given."""
    given: list[str] = []
    original = yaml_loader.load

    def load(*args: object, **kwargs: object) -> object:
        given.append(os.path.basename(str(kwargs["file_name"])))
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(yaml_loader, "load", load)
    assert yaml_hook.install() == ""
    return given


def document(directory: Path, text: str = "a: [1]\n", encrypted: bool = False) -> str:
    path = directory / "vars.yml"
    content = text.encode()
    path.write_bytes(VaultLib(SECRETS).encrypt(content) if encrypted else content)
    return str(path)


def test_installed_twice_it_is_there_once(quick: list[str], tmp_path: Path) -> None:
    assert yaml_hook.install() == ""
    DataLoader().load_from_file(document(tmp_path))
    assert quick == ["vars.yml"]


def test_core_s_cache_and_copies_work_as_ever(quick: list[str], tmp_path: Path) -> None:
    loader = DataLoader()
    name = document(tmp_path)
    first, second = loader.load_from_file(name), loader.load_from_file(name)
    assert quick == ["vars.yml"]
    first["a"].append(2)
    assert second == {"a": [1]} == loader.load_from_file(name)
    assert loader.load_from_file(name, unsafe=True) is loader.load_from_file(name, unsafe=True)


def test_copies_have_what_originals_have(quick: list[str], tmp_path: Path) -> None:
    loader = DataLoader()
    name = document(tmp_path, "a: [x, {y: 1}]\n")
    copied, original = loader.load_from_file(name), loader.load_from_file(name, unsafe=True)
    assert copied is not original
    for mine, other in ((copied, original), (copied["a"], original["a"]), (copied["a"][0], original["a"][0])):
        assert attachments(mine) == attachments(other) != []


def test_an_encrypted_file_is_decrypted_by_core(quick: list[str], tmp_path: Path) -> None:
    loader = DataLoader()
    loader.set_vault_secrets(SECRETS)
    name = document(tmp_path, "a: letmein\n", encrypted=True)
    assert loader.load_from_file(name) == {"a": "letmein"}
    with pytest.raises(AnsibleError):
        DataLoader().load_from_file(name)


def test_only_json_is_only_json(quick: list[str], tmp_path: Path) -> None:
    with pytest.raises(AnsibleParserError):
        DataLoader().load("a: 1", json_only=True)
    assert DataLoader().load('{"a": 1}', json_only=True) == {"a": 1}
    assert quick == []


def test_the_words_of_an_error_are_core_s(tmp_path: Path) -> None:
    name = document(tmp_path, "a: b: c\n")
    with pytest.raises(AnsibleParserError) as without:
        DataLoader().load_from_file(name)
    yaml_hook.install()
    with pytest.raises(AnsibleParserError) as with_it:
        DataLoader().load_from_file(name)
    assert str(with_it.value) == str(without.value)


@pytest.mark.parametrize("variable", ["FATLINE_YAML=0", "FATLINE_DISABLE=1"])
def test_switched_off_before_or_after(
    variable: str, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*variable.split("="))
    DataLoader().load_from_file(document(tmp_path))
    assert quick == []
    current = dataloader_versions.current_from_yaml()
    dataloader_versions.replace_from_yaml(current.__wrapped__)
    assert variable in yaml_hook.install()
    assert not yaml_hook.installed()


def test_another_from_yaml_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_yaml(data: str, file_name: str = "", colour: str = "red") -> None:
        """Take what no release takes."""

    dataloader_versions.replace_from_yaml(from_yaml)
    assert "colour" in yaml_hook.install()
    assert dataloader_versions.current_from_yaml() is from_yaml


def test_activation_puts_it_in_place() -> None:
    """What the strategy's and the callback's doors call, each in a process of its own."""
    program = (
        "import fatline.ansible.activate as a, fatline.ansible.yaml_hook as h; "
        "assert not h.installed(); assert a.activate(); assert h.installed()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FATLINE_")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
    assert activate.activate


PLAYBOOK = """\
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files: [more.yml]
  tasks:
    - include_tasks: tasks.yml
    - include_vars: included.yml
    - debug: msg="{{ from_group }} {{ from_file }} {{ from_include }} {{ from_task }}"
"""

FILES = {
    "hosts.yml": "all:\n  hosts:\n    localhost:\n",
    "group_vars/all.yml": "from_group: one\n",
    "more.yml": "from_file: two\n",
    "included.yml": "from_include: three\n",
    "tasks.yml": "- set_fact: {from_task: four}\n",
    "play.yml": PLAYBOOK,
}

# Loaded by core before the program below, so that it sees every document that goes to core's own loader.
SITECUSTOMIZE = """\
import atexit, os
from ansible.parsing import dataloader
original = dataloader.from_yaml
asked = []
def from_yaml(data, file_name=None, show_content=True, vault_secrets=None, json_only=False):
    with open(os.environ["ASKED"], "a") as asked:
        print(os.path.basename(str(file_name)), file=asked)
    return original(data, file_name, show_content, vault_secrets, json_only=json_only)
dataloader.from_yaml = from_yaml
"""


@pytest.mark.parametrize("switch", ["1", "0"])
def test_everything_that_a_playbook_reads_is_served(switch: str, tmp_path: Path) -> None:
    """group_vars, the playbook, vars_files, included tasks and include_vars (which runs in a worker)."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (tmp_path / "ansible.cfg").write_text(
        "[inventory]\nenable_plugins = host_list, script, fatline.core.yaml, auto, yaml, ini, toml\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "FATLINE_"))
    }
    environment |= {
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ASKED": str(tmp_path / "asked"),
        "PYTHONPATH": str(tmp_path / "spy"),
        "FATLINE_YAML": switch,
    }
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # Without a terminal of its own: some of core's commands would change the settings of ours.
        start_new_session=True,
    )
    assert "one two three four" in done.stdout, done.stdout + done.stderr
    asked = tmp_path / "asked"
    left = set(asked.read_text().split()) if asked.exists() else set()
    read = {os.path.basename(name) for name in FILES}
    assert left & read == (set() if switch == "1" else read)
