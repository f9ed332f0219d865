# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``fatline inventory-check`` does: load inventories the stock way and Fatline's, and compare."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.cli import CLI
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import is_encrypted_file
from ansible.plugins import loader as plugin_loader

from fatline.ansible import dataloader_versions, yaml_hook
from fatline.ansible.comparison import Difference, differences, position

PLUGIN = "fatline.core.yaml"


@dataclass
class Report:
    """What came of one source."""

    differences: list[Difference] = field(default_factory=list)
    documents: int = 0
    """Files that were compared as documents."""
    left_to_core: int = 0
    """Those of them that Fatline gives to core's own loader."""
    hosts: int = 0
    groups: int = 0
    failure: str = ""
    """What core says is wrong with it, if anything."""

    def summary(self) -> str:
        """Say it in one line."""
        verdict = f"{len(self.differences)} DIFFERENCES" if self.differences else "no difference"
        own = f" ({self.left_to_core} parsed by ansible-core in the end)" if self.left_to_core else ""
        failure = f"; no inventory either way: {self.failure}" if self.failure else ""
        return (
            f"{verdict}; {self.documents} documents{own}, {self.hosts} hosts, {self.groups} groups{failure}"
        )


class Checker:
    """Checks sources, with the vault passwords that the configuration and a file give."""

    def __init__(self, password_file: str | None = None) -> None:
        """Make core ready as its commands do, and read the passwords."""
        begin = getattr(plugin_loader, "init_plugin_loader", None)
        if begin is not None:
            begin()
        files = [os.path.abspath(password_file)] if password_file else []
        loader = DataLoader()
        self.secrets = CLI.setup_vault_secrets(
            loader, list(C.DEFAULT_VAULT_IDENTITY_LIST), vault_password_files=files, auto_prompt=False
        )
        self.unavailable = yaml_hook.install()

    def check(self, source: str) -> Report:
        """Compare the documents that `source` consists of, then the inventories that they make."""
        report = Report()
        for file in _documents(Path(source)):
            report.documents += 1
            before = yaml_hook.left_to_core.total()
            report.differences += check_document(str(file), self.secrets)
            report.left_to_core += yaml_hook.left_to_core.total() > before
        found, theirs = check_inventory(source, self.secrets)
        report.differences += found
        report.hosts, report.groups = len(theirs.get("hosts", ())), len(theirs.get("groups", ()))
        report.failure = theirs["failure"]
        return report


def check_document(file: str, secrets: Any = None) -> list[Difference]:
    """Return each point in which a file gives another object, or another error, than with core's loader."""
    with _environment("FATLINE_DISABLE", "1"):
        theirs = load_document(file, secrets)
    with _environment("FATLINE_DISABLE", "0"):
        ours = load_document(file, secrets)
    return list(differences(ours, theirs, file, show=not _is_encrypted(file)))


def load_document(file: str, secrets: Any = None) -> Any:
    """Load a file as core loads its own; an error is part of the result."""
    dataloader_versions.forget_what_was_said()
    loader = DataLoader()
    loader.set_vault_secrets(secrets)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            content = dataloader_versions.load_trusted(loader, file)
        except Exception as error:
            content = _described(error)
    return [content, said.getvalue().splitlines()]


def check_inventory(source: str, secrets: Any = None) -> tuple[list[Difference], dict[str, Any]]:
    """Return the points in which `source` gives another inventory or other words, and stock's inventory."""
    with stock():
        theirs = snapshot(source, secrets)
    with accelerated():
        ours = snapshot(source, secrets)
    return list(differences(ours, theirs, "inventory")), theirs


def _described(error: Exception) -> dict[str, Any]:
    """Return all that core could print of an error."""
    return {
        "type": type(error).__name__,
        "text": str(error),
        "position": position(getattr(error, "obj", None)),
        "excerpt": str(getattr(error, "_formatted_source_context", "")),
        "help": str(getattr(error, "_help_text", "")),
    }


def _is_encrypted(file: str) -> bool:
    with open(file, "rb") as content:
        return bool(is_encrypted_file(content))


def _documents(source: Path) -> Iterator[Path]:
    """The files that core would try as YAML; what is executable is run, not read."""
    if source.is_dir():
        for child in sorted(source.iterdir()):
            if not child.name.startswith("."):
                yield from _documents(child)
    elif source.suffix in ("", *C.YAML_FILENAME_EXTENSIONS) and not os.access(source, os.X_OK):
        yield source


@contextlib.contextmanager
def stock() -> Iterator[None]:
    """Have the user's plugin list, but nothing of Fatline's."""
    with _environment("FATLINE_DISABLE", "1"), _enabled_plugins(stock_plugins()):
        yield


@contextlib.contextmanager
def accelerated() -> Iterator[None]:
    """Have the user's plugin list, and ``fatline.core.yaml`` in front of what loads YAML."""
    names = stock_plugins()
    first = min((names.index(name) for name in ("auto", "yaml") if name in names), default=0)
    with _environment("FATLINE_DISABLE", "0"), _enabled_plugins([*names[:first], PLUGIN, *names[first:]]):
        yield


def stock_plugins() -> list[str]:
    """Return the enabled inventory plugins without Fatline's."""
    return [name for name in C.INVENTORY_ENABLED if name != PLUGIN]


def snapshot(source: str, secrets: Any = None) -> dict[str, Any]:
    """Load `source` as the command line tools do; return hosts, groups and what was said."""
    loader = DataLoader()
    loader.set_vault_secrets(secrets)
    dataloader_versions.forget_what_was_said()
    said = io.StringIO()
    failure = ""
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            manager = InventoryManager(loader=loader, sources=[source])
        except AnsibleError as error:
            manager, failure = None, str(error)
    seen: dict[str, Any] = {"said": said.getvalue().splitlines(), "failure": failure}
    if manager is not None:
        seen["groups"] = {name: _group(group) for name, group in manager.groups.items()}
        seen["hosts"] = {name: _host(host) for name, host in manager.hosts.items()}
    return seen


def _group(group: Any) -> dict[str, Any]:
    return {
        "variables": group.vars,
        "hosts": [host.name for host in group.hosts],
        "children": [child.name for child in group.child_groups],
        "parents": [parent.name for parent in group.parent_groups],
        "depth": group.depth,
        "priority": group.priority,
    }


def _host(host: Any) -> dict[str, Any]:
    # Core collects a host's groups by way of sets, so that their order is another in every run.
    return {
        "variables": host.vars,
        "groups": sorted(group.name for group in host.groups),
        "address": host.address,
        "implicit": host.implicit,
    }


def _enabled_plugins(names: Sequence[str]) -> AbstractContextManager[None]:
    return _changed(C, "INVENTORY_ENABLED", list(names))


@contextlib.contextmanager
def _changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    kept = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if kept is None:
            del os.environ[name]
        else:
            os.environ[name] = kept
