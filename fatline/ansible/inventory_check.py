# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``fatline inventory-check`` does: load inventories the stock way and Fatline's, and compare."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from fatline.ansible import dataloader_versions
from fatline.ansible.comparison import Difference, differences

PLUGIN = "fatline.core.yaml"


def check_inventory(source: str, secrets: Any = None) -> Iterator[Difference]:
    """Yield each point in which `source` gives another inventory, or other words, than under stock."""
    with stock():
        theirs = snapshot(source, secrets)
    with accelerated():
        ours = snapshot(source, secrets)
    yield from differences(ours, theirs, "inventory")


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
