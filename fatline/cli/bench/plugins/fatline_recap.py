# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the play recap as JSON to the file named by ``FATLINE_BENCH_RECAP``.

The bench compares recaps between variants, and compares numbers rather than text that a stdout callback
formats.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: fatline_recap
type: aggregate
short_description: Writes the play recap as JSON
description:
  - Used by C(fatline bench) to compare what runs did.
requirements:
  - E(FATLINE_BENCH_RECAP) names the file to write.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """The recap of a run, one JSON object: host to counts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fatline_recap"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write every count ansible-core keeps for every host it touched."""
        recap = {host: stats.summarize(host) for host in sorted(stats.processed)}
        with open(os.environ["FATLINE_BENCH_RECAP"], "w", encoding="utf-8") as target:
            json.dump(recap, target)
