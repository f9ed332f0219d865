# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ansible-core's ssh plugin, read from its own documentation."""

from __future__ import annotations

from ansible.plugins.connection.ssh import DOCUMENTATION as SSH_DOCUMENTATION

from fatline.ansible.documentation import options_of


class ModuleDocFragment:
    """What ``extends_documentation_fragment: fatline.core.ssh`` adds."""

    DOCUMENTATION = options_of(SSH_DOCUMENTATION)
