# SPDX-License-Identifier: BSD-3-Clause
"""Option documentation that is taken from ansible-core's own plugins.

A plugin cannot extend the documentation of another plugin, only a fragment, and a pasted copy would be
wrong on all releases but one (ansible fact 23).
"""

from __future__ import annotations

import textwrap


def options_of(documentation: str) -> str:
    """Return the ``options:`` section of a plugin's documentation, to its end."""
    text = textwrap.dedent(documentation.strip("\n"))
    before, marker, options = text.partition("\noptions:\n")
    if not marker:
        raise ValueError(f"no options in the documentation of ansible-core's plugin: {before[:80]!r}")
    return marker.lstrip("\n") + options
