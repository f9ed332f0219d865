# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ansible-core's yaml inventory plugin, read from its own documentation."""

from __future__ import annotations

from ansible.plugins.inventory.yaml import DOCUMENTATION as YAML_DOCUMENTATION

from fatline.ansible.documentation import options_of


class ModuleDocFragment:
    """What ``extends_documentation_fragment: fatline.core.yaml`` adds."""

    DOCUMENTATION = options_of(YAML_DOCUMENTATION)
