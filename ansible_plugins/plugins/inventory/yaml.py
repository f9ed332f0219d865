# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory door: ansible-core's YAML inventories, loaded once and not copied.

A shim, because ansible-core loads plugin files under names of its own; the code is in ``fatline.ansible``.
"""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: yaml
short_description: Uses a YAML file as an inventory source, quickly
description:
  - Reads the same files as P(ansible.builtin.yaml#inventory), with the same result and the same options.
  - Loads a file once, does not copy what it has loaded, and pauses garbage collection meanwhile.
  - Files that name an inventory plugin are left to P(ansible.builtin.auto#inventory).
  - While it is in use, all YAML files that ansible-core reads are parsed by Fatline.
author: The Fatline project
version_added: 0.1.0
notes:
  - Enable it ahead of C(auto), in the section C(inventory) of the configuration, with
    C(enable_plugins = host_list, script, fatline.core.yaml, auto, yaml, ini, toml).
extends_documentation_fragment:
  - fatline.core.yaml
"""

EXAMPLES = """
# An inventory as P(ansible.builtin.yaml#inventory) reads it.
all:
  children:
    web:
      hosts:
        web[01:20].example.org:
      vars:
        http_port: 8080
"""

from fatline.ansible.inventory import YamlInventory


class InventoryModule(YamlInventory):  # type: ignore[misc]
    """A class of this plugin's own: the loader writes the plugin's name into it."""
