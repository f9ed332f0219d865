# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin `fatline.core.yaml` gives what ansible-core's own plugins give."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.host import Host
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins import loader as plugin_loader
from inventories import SOURCES, VAULT_PASSWORD, Source

from fatline.ansible import collector, inventory_check
from fatline.cli.tools import ansible_command

SECRETS = [("default", VaultSecret(VAULT_PASSWORD))]
LINE = "[inventory]\nenable_plugins = host_list, script, fatline.core.yaml, auto, yaml, ini, toml\n"


@pytest.fixture(scope="module", autouse=True)
def collections() -> None:
    """Let core find collections; before 2.15 importing the loader was enough."""
    begin = getattr(plugin_loader, "init_plugin_loader", None)
    if begin is not None:
        begin()


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FATLINE_DISABLE", raising=False)
    monkeypatch.delenv("FATLINE_YAML", raising=False)


def written(source: Source, directory: Path) -> str:
    """Write a source, encrypted where it says so."""
    start = source.write(directory)
    for name in source.encrypt:
        path = directory / name
        path.write_bytes(VaultLib(SECRETS).encrypt(path.read_bytes()))
    return start


def assert_same(start: str) -> None:
    found, _ = inventory_check.check_inventory(start, SECRETS)
    assert [str(difference) for difference in found] == []


@pytest.mark.parametrize("name", SOURCES)
def test_every_inventory_is_the_same_as_under_stock(name: str, tmp_path: Path) -> None:
    start = written(SOURCES[name], tmp_path)
    assert_same(start)


def test_an_encrypted_value_stays_encrypted(tmp_path: Path) -> None:
    ciphertext = VaultLib(SECRETS).encrypt("letmein").decode().splitlines()
    value = "\n".join(f"        {line}" for line in ciphertext)
    start = tmp_path / "hosts.yml"
    start.write_text(f"all:\n  hosts:\n    a:\n      password: !vault |\n{value}\n")
    assert_same(str(start))
    password = tmp_path / "password"
    password.write_bytes(VAULT_PASSWORD)
    # The text itself would be redacted, from 2.22 on.
    expression = "msg={{ password == 'let' ~ 'mein' }}"
    debug = ["ansible", "a", "-i", str(start), "-m", "debug", "-a", expression]
    done = run(tmp_path, LINE, *debug, "--vault-password-file", str(password))
    assert '"msg": true' in done.stdout.lower(), done.stdout + done.stderr


def loaded(start: str) -> InventoryManager:
    """Load with Fatline's plugin."""
    with inventory_check.accelerated():
        loader = DataLoader()
        loader.set_vault_secrets(SECRETS)
        return InventoryManager(loader=loader, sources=[start])


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files that DataLoader is asked to load, in order."""
    asked: list[str] = []
    original = DataLoader.load_from_file

    def load_from_file(self: Any, file_name: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(os.path.basename(file_name))
        return original(self, file_name, *args, **kwargs)

    monkeypatch.setattr(DataLoader, "load_from_file", load_from_file)
    yield asked


def test_a_file_is_loaded_at_most_once(tmp_path: Path, loads: list[str]) -> None:
    loaded(SOURCES["plain"].write(tmp_path))
    assert loads == ["hosts.yml"]


def test_what_is_not_copied_is_in_nobody_s_cache(tmp_path: Path) -> None:
    """A later load of the same file gives an object of its own: changing one does not change the other."""
    start = SOURCES["nested groups"].write(tmp_path)
    with inventory_check.accelerated():
        loader = DataLoader()
        manager = InventoryManager(loader=loader, sources=[start])
        first = loader.load_from_file(start)
        first["all"]["vars"]["domain"] = "changed"
        assert manager.groups["all"].vars["domain"] == "example.org"
        assert loader.load_from_file(start)["all"]["vars"]["domain"] == "example.org"


def test_collection_of_garbage_goes_on_afterwards(tmp_path: Path) -> None:
    loaded(SOURCES["plain"].write(tmp_path))
    assert gc.isenabled()
    loaded(SOURCES["a loop of groups"].write(tmp_path))
    assert gc.isenabled()


def test_garbage_collection_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_large_inventory_is_out_of_the_collector_s_sight_until_it_is_refreshed(tmp_path: Path) -> None:
    start = tmp_path / "hosts.yml"
    start.write_text("all:\n  hosts:\n" + "".join(f"    h{number}:\n" for number in range(2000)))
    try:
        with inventory_check.accelerated():
            manager = InventoryManager(loader=DataLoader(), sources=[str(start)])
            assert gc.get_freeze_count() > 2000
            assert not any(isinstance(found, Host) for found in gc.get_objects())
            hosts = [weakref.ref(host) for host in manager.hosts.values()]
            manager.refresh_inventory()
            assert len(manager.hosts) == 2000
            assert not any(host() for host in hosts), "the old inventory is kept for ever"
    finally:
        gc.unfreeze()


def test_a_small_inventory_is_not_worth_it(tmp_path: Path) -> None:
    frozen = gc.get_freeze_count()
    loaded(SOURCES["nested groups"].write(tmp_path))
    assert gc.get_freeze_count() == frozen


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """As in `ansible -i <(command)`: whoever looks into it first would have it all."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    answers: list[bool] = []
    with inventory_check.accelerated():
        plugin = plugin_loader.inventory_loader.get(inventory_check.PLUGIN)
        # Without a writer, opening it would take for ever.
        asking = threading.Thread(target=lambda: answers.append(plugin.verify_file(str(pipe))), daemon=True)
        asking.start()
        asking.join(timeout=30)
    assert answers == [False]


def test_switched_off_it_leaves_everything_to_stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = SOURCES["plain"].write(tmp_path)
    with inventory_check.accelerated():
        monkeypatch.setenv("FATLINE_DISABLE", "1")
        plugin = plugin_loader.inventory_loader.get(inventory_check.PLUGIN)
        assert not plugin.verify_file(start)
        assert list(InventoryManager(loader=DataLoader(), sources=[start]).hosts) == ["one", "two"]


def test_alone_it_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no stock plugin comes after it, nobody else would."""
    start = SOURCES["a syntax error"].write(tmp_path)
    with inventory_check.accelerated(), inventory_check._enabled_plugins([inventory_check.PLUGIN]):
        InventoryManager(loader=DataLoader(), sources=[start])
    said = " ".join(capsys.readouterr().err.split())
    assert "mapping values are not allowed" in said or "Colons in unquoted values" in said


@pytest.mark.parametrize("encrypted", [False, True])
def test_variables_of_the_command_line_are_core_s_to_load(encrypted: bool, tmp_path: Path) -> None:
    """They are loaded once in a process, with passwords and relative to a directory that a trial has not."""
    SOURCES["nested groups"].write(tmp_path)
    extra = tmp_path / "playbooks" / "extra.yml"
    extra.parent.mkdir()
    content = b"domain: of the command line\n"
    extra.write_bytes(VaultLib(SECRETS).encrypt(content) if encrypted else content)
    (tmp_path / "password").write_bytes(VAULT_PASSWORD)
    # In the current directory there is another one, which some releases take.
    (tmp_path / "extra.yml").write_text("domain: of another file\n")
    words = ["-m", "debug", "-a", "var=domain", "-e", "@extra.yml", "--playbook-dir", "playbooks"]
    password = ["--vault-password-file", str(tmp_path / "password")]
    with_line, stock = (
        run(tmp_path, configuration, "ansible", "w1", "-i", "hosts.yml", *words, *password)
        for configuration in (LINE, "[defaults]\n")
    )
    assert with_line.stdout == stock.stdout
    assert '"domain": "of ' in stock.stdout, stock.stderr


def test_a_name_with_a_comma_in_it_stays_relative(tmp_path: Path) -> None:
    (tmp_path / "a,b.yml").write_text("all:\n  hosts:\n    x:\n")
    listed = [
        run(tmp_path, configuration, "ansible-inventory", "-i", "a,b.yml", "--list").stdout
        for configuration in (LINE, "[defaults]\n")
    ]
    assert listed[0] == listed[1] != ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--graph"],
        ["--graph", "--vars"],
        ["--list"],
        ["--list", "--yaml"],
        ["--list", "--export"],
        ["--host", "w1"],
    ],
    ids=" ".join,
)
def test_the_command_line_prints_the_same(arguments: list[str], tmp_path: Path) -> None:
    start = SOURCES["nested groups"].write(tmp_path)
    assert ansible_inventory(tmp_path, LINE, start, *arguments) == ansible_inventory(
        tmp_path, "[defaults]\n", start, *arguments
    )


def test_the_documentation_has_the_options_of_core_s_plugin(tmp_path: Path) -> None:
    done = run(tmp_path, LINE, "ansible-doc", "-t", "inventory", "fatline.core.yaml")
    assert done.returncode == 0, done.stderr
    assert "yaml_valid_extensions" in done.stdout
    assert "ANSIBLE_YAML_FILENAME_EXT" in done.stdout


def test_extensions_are_configured_as_for_core_s_plugin(tmp_path: Path) -> None:
    start = one_of(tmp_path, "hosts.data")
    extension = "[inventory_plugin_yaml]\nyaml_valid_extensions = .data\n"
    said = ansible_inventory(tmp_path, LINE + extension, start, "--list", "-vvv")
    assert "fatline" in said.partition("Parsed ")[2]


def one_of(directory: Path, name: str) -> str:
    path = directory / name
    path.write_text("all:\n  hosts:\n    a:\n")
    return str(path)


def ansible_inventory(directory: Path, configuration: str, start: str, *arguments: str) -> str:
    done = run(directory, configuration, "ansible-inventory", "-i", start, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(directory: Path, configuration: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run one of core's commands with this ansible.cfg."""
    config = directory / "ansible.cfg"
    config.write_text(configuration)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "FATLINE_"))
    }
    environment |= {"ANSIBLE_CONFIG": str(config), "ANSIBLE_HOME": str(directory / "home")}
    return subprocess.run(
        [*ansible_command(command[0]), *command[1:]],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # Without a terminal of its own: some of core's commands would change the settings of ours.
        start_new_session=True,
    )
