# SPDX-License-Identifier: BSD-3-Clause
"""Under what a scenario is run: the lines each variant adds to an otherwise equal ansible.cfg.

All variants share interpreter, ansible-core, inventory, forks and ansible-core's own ssh arguments (with
their ControlPersist). None sees the user's ANSIBLE_* or FATLINE_* environment.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Sections = dict[str, dict[str, str]]

DOORS: dict[str, Sections] = {
    "strategy": {"defaults": {"strategy": "fatline.core.linear"}},
    "callback": {"defaults": {"callbacks_enabled": "fatline_recap, fatline.core.fatline"}},
    "connection": {"defaults": {"transport": "fatline.core.ssh"}},
}


class VariantError(Exception):
    """A variant cannot be run here. The message says what to do about it."""


@dataclass(frozen=True)
class Variant:
    """One way to run a playbook."""

    name: str
    sections: Callable[[], Sections]
    """The lines of ansible.cfg that make the difference."""

    def config(self, shared: Sections) -> str:
        """The text of its ansible.cfg, `shared` being what all variants have."""
        merged = {name: dict(lines) for name, lines in shared.items()}
        for name, lines in self.sections().items():
            merged.setdefault(name, {}).update(lines)
        return "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
            for name, lines in merged.items()
        )


def fatline(door: str) -> Variant:
    """Fatline through one of its doors: nothing but that line, pipelining not even mentioned."""
    return Variant("fatline", lambda: DOORS[door])


def _mitogen() -> Sections:
    spec = importlib.util.find_spec("ansible_mitogen")
    if spec is None or spec.origin is None:
        raise VariantError("Mitogen is not installed here; install it with: pip install 'fatline[bench]'")
    plugins = Path(spec.origin).parent / "plugins" / "strategy"
    return {
        "defaults": {"strategy_plugins": str(plugins), "strategy": "mitogen_linear"},
        "ssh_connection": {"pipelining": "True"},
    }


BASELINES: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("stock", lambda: {"ssh_connection": {"pipelining": "True"}}),
        Variant("stock-nopipelining", lambda: {"ssh_connection": {"pipelining": "False"}}),
        Variant("mitogen", _mitogen),
    )
}
