# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML inventories: ansible-core's own plugin, without the work that nobody needs.

Core's ``auto`` plugin loads every YAML inventory, copies it, finds no ``plugin:`` key and drops it; then
the ``yaml`` plugin loads and copies it once more, and garbage collection looks through the growing heap again
and again. Here the same code of core's reads the file once, owns what it has read, and is not interrupted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import is_encrypted
from ansible.plugins.inventory import BaseFileInventoryPlugin
from ansible.plugins.inventory.yaml import InventoryModule as StockInventory

from fatline.ansible import collector, dataloader_versions, yaml_hook
from fatline.ansible.switches import disabled

# A key of the outermost mapping, as people write it: at the beginning of a line, or first in a flow mapping.
_PLUGIN_KEY = re.compile(rb"""^(?:\{\s*)?(["']?)plugin\1\s*:""", re.MULTILINE)

# Hosts and group variables. Of less, the collector's work is not worth a thought.
_LARGE = 1000


class _WithoutExtraVariables(BaseFileInventoryPlugin):  # type: ignore[misc]
    """What core's plugin calls first, with its ``super().parse()``.

    There core loads the variables of the command line, once for the whole process. A trial must not: it has
    neither the passwords nor the directory for that.
    """

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Begin as core does, or with nothing but the two objects."""
        if isinstance(inventory, _Plan):
            self.inventory, self.loader = inventory, loader
        else:
            super().parse(inventory, loader, path, cache)


class YamlInventory(StockInventory, _WithoutExtraVariables):  # type: ignore[misc]
    """ansible-core's ``yaml`` inventory plugin, which does not load twice, copy or collect garbage.

    A file is loaded and gone through when core asks whether it can be (`verify_file`); what comes of it is
    written down, and done when core says so (`parse`). So a file with a fault is not this plugin's, and the
    stock plugins that come next say what they say without it, no word more.
    """

    NAME = "fatline.core.yaml"

    _plan: _Plan | None = None

    def __init__(self) -> None:
        """Put the quick loader in place: no other door is opened as early as this one."""
        super().__init__()
        yaml_hook.install()

    def verify_file(self, path: str) -> bool:
        """Accept what core's plugin would load without an error, except what names a plugin."""
        self._plan = None
        if disabled():
            return not _others_follow() and bool(super().verify_file(path))
        if not super().verify_file(path):
            return False
        with collector.paused() as pause:
            try:
                accepted = self._prepare(path)
            except Exception as error:
                self.display.vvvv(f"fatline leaves {path} to the stock plugins: {error}")
                return not _others_follow()
            pause.keep = self._plan is not None and self._plan.is_large
        return accepted

    def _prepare(self, path: str) -> bool:
        """Go through a file, if that can be done without passwords; say whether it is ours."""
        content = _read(path)
        if content is None or _names_a_plugin(content):
            return not _others_follow()
        # A relative name is one with a comma in it. It is relative to what only the real loader knows.
        if not is_encrypted(content) and os.path.isabs(path):
            plan = _Plan()
            super().parse(plan, _Uncopied(DataLoader(), path), path)
            # Encrypted values may know the passwords of the loader that made them: they are made again.
            self._plan = None if b"vault" in content else plan
        return True

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Populate `inventory` from the file at `path`, by core's own code."""
        plan, self._plan = self._plan, None
        if disabled():
            super().parse(inventory, loader, path, cache)
            return
        with collector.paused() as pause:
            if plan is None:
                super().parse(inventory, _Uncopied(loader, path), path, cache)
                self.loader = loader
                return
            if plan.is_large:
                collector.keep_for(getattr(inventory, "__wrapped__", inventory))
                pause.keep = True
            BaseFileInventoryPlugin.parse(self, inventory, loader, path)
            plan.carry_out(inventory, super()._populate_host_vars)

    def _populate_host_vars(self, hosts: Any, variables: Any, group: Any = None, port: Any = None) -> None:
        if isinstance(self.inventory, _Plan):
            self.inventory.populate_hosts(hosts, variables, group, port)
        else:
            super()._populate_host_vars(hosts, variables, group, port)


class _Plan:
    """An inventory that refuses what a real one would refuse, and else writes down what it is to be given.

    Groups are few, so they are tried out on a real inventory: their names, loops and priorities.
    """

    def __init__(self) -> None:
        self.is_large = False
        self._trial = InventoryData()
        self._steps: list[tuple[str, tuple[Any, ...]]] = []

    def add_group(self, name: Any) -> Any:
        self._steps.append(("add_group", (name,)))
        return self._trial.add_group(name)

    def add_child(self, group: Any, child: Any) -> Any:
        self._steps.append(("add_child", (group, child)))
        return self._trial.add_child(group, child)

    def set_variable(self, entity: Any, name: Any, value: Any) -> None:
        self._steps.append(("set_variable", (entity, name, value)))
        if name == "ansible_group_priority":
            self._trial.set_variable(entity, name, value)

    def populate_hosts(self, hosts: Any, variables: Any, group: Any, port: Any) -> None:
        if not isinstance(variables, Mapping):
            raise AnsibleParserError(f"variables of {hosts} are no mapping")
        for host in hosts:
            if not host or not isinstance(host, str):
                raise AnsibleParserError(f"not a host name: {host!r}")
        self._steps.append(("", (hosts, variables, group, port)))
        self.is_large = len(self._steps) >= _LARGE

    def carry_out(self, inventory: Any, populate_hosts: Callable[..., None]) -> None:
        """Give it all to a real inventory."""
        for method, arguments in self._steps:
            if method:
                getattr(inventory, method)(*arguments)
            else:
                populate_hosts(*arguments)


class _Uncopied:
    """A DataLoader that gives one file's content away uncopied, and is the real one in all else."""

    def __init__(self, loader: Any, path: str) -> None:
        self._loader = loader
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_from_file(self, file_name: str, *args: Any, **kwargs: Any) -> Any:
        if file_name == self._path and not args and kwargs.get("cache") in (False, "none"):
            return dataloader_versions.load_uncopied(self._loader, file_name, kwargs)
        return self._loader.load_from_file(file_name, *args, **kwargs)


def _read(path: str) -> bytes | None:
    """Return a file's content; None for a pipe, which only one can read, so that it is left to others."""
    file = Path(path)
    return file.read_bytes() if stat.S_ISREG(file.stat().st_mode) else None


def _names_a_plugin(content: bytes) -> bool:
    return b"plugin" in content and _PLUGIN_KEY.search(content) is not None


def _others_follow() -> bool:
    """Say whether core's own plugin for YAML is enabled as well, to take what this one leaves."""
    return not {"yaml", "ansible.builtin.yaml", "ansible.legacy.yaml"}.isdisjoint(C.INVENTORY_ENABLED)
