# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ansible-core's ssh plugin, read from its own documentation.

A plugin cannot extend the documentation of another plugin, only a fragment, and a pasted copy would be
wrong on all releases but one (ansible fact 23).
"""

from __future__ import annotations

import textwrap

from ansible.plugins.connection.ssh import DOCUMENTATION as SSH_DOCUMENTATION


def options_of(documentation: str) -> str:
    """Return the ``options:`` section of a plugin's documentation, to its end."""
    text = textwrap.dedent(documentation.strip("\n"))
    before, marker, options = text.partition("\noptions:\n")
    if not marker:
        raise ValueError(f"no options in the documentation of ansible-core's ssh plugin: {before[:80]!r}")
    return marker.lstrip("\n") + options


class ModuleDocFragment:
    """What ``extends_documentation_fragment: fatline.core.ssh`` adds."""

    DOCUMENTATION = options_of(SSH_DOCUMENTATION)
