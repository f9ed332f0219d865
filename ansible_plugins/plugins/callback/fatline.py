# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback door: Fatline for the whole run, with whatever strategy the play names."""

# Documentation comes first, as in ansible-core's own plugins.
# ruff: noqa: E402
from __future__ import annotations

DOCUMENTATION = """
name: fatline
type: aggregate
short_description: makes ssh connections Fatline's, and tells what that gave
description:
  - Loading it makes C(ssh) connections Fatline's, before any strategy or worker starts.
  - At the end of the run it prints how many commands were accelerated, and why the others were not, if asked.
author: The Fatline project
version_added: 0.1.0
requirements:
  - Enable it with C(callbacks_enabled = fatline.core.fatline).
options:
  show_summary:
    description: Print one line about the run at its end.
    type: bool
    default: false
    version_added: 0.1.0
    env:
      - name: FATLINE_SUMMARY
    ini:
      - section: callback_fatline
        key: show_summary
"""

from typing import Any

from ansible.plugins.callback import CallbackBase

from fatline.ansible.activate import activate, begin_play, print_summary


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Activates Fatline when it is loaded, and prints the summary."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fatline.core.fatline"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Activate Fatline; core loads callbacks in the main process, before the first fork."""
        super().__init__(*args, **kwargs)
        self._active = activate(__file__)
        self._play_context: Any = None

    def set_play_context(self, play_context: Any) -> None:
        """Keep what the command line says about connections."""
        self._play_context = play_context

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Connect the batch's hosts while core prepares the first task."""
        if self._active:
            begin_play(play, self._play_context)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the summary, if asked."""
        if self._active and self.get_option("show_summary"):
            print_summary()
