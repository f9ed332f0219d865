# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection door for this machine: Fatline where ``ansible_connection`` names it.

A shim, because ansible-core loads plugin files under names of its own; the code is in ``fatline.ansible``.
"""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: local
short_description: this machine, with warm modules
description:
  - Runs tasks on the controller as P(ansible.builtin.local#connection) does, and takes the same options.
  - Modules are run by forking a Python interpreter that stays for as long as the run.
  - What cannot be run that way is run as P(ansible.builtin.local#connection) would run it.
author: The Fatline project
version_added: 0.1.0
extends_documentation_fragment:
  - fatline.core.local
  - connection_pipelining
"""

from fatline.ansible import local, owned, versions

# Under an ansible-core that does not fit this is core's own connection and nothing more: the file is
# loaded inside tasks, where no warning may be given (rule 12).
Base = versions.StockLocal if versions.misfit() else local.Connection

# Nothing of Fatline may have run yet in this process: this is the earliest place.
owned.settle(in_main=False)


class Connection(Base):  # type: ignore[misc]
    """A class of this plugin's own: the loader writes the plugin's name into it."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Make the options known under the public name first."""
        versions.register_options(self, "fatline.core.local")
        super().__init__(*args, **kwargs)
