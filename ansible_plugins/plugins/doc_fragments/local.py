# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ansible-core's local plugin, read from its own documentation; there are none before 2.19."""

from __future__ import annotations

from ansible.plugins.connection.local import DOCUMENTATION as LOCAL_DOCUMENTATION

from fatline.ansible.documentation import options_of


class ModuleDocFragment:
    """What ``extends_documentation_fragment: fatline.core.local`` adds."""

    DOCUMENTATION = options_of(LOCAL_DOCUMENTATION) if "options:" in LOCAL_DOCUMENTATION else "options: {}"
