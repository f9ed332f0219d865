# SPDX-License-Identifier: BSD-3-Clause
"""Run the installed ``fatline bench`` and read its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FATLINE = Path(sys.executable).with_name("fatline")
RUN_SECONDS = 300


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the bench to its end."""
    return subprocess.run(
        [FATLINE, "bench", *options], capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )


def figures(directory: Path, *options: str) -> list[dict[str, Any]]:
    """Return the figures of a bench that must succeed."""
    document = directory / "figures.json"
    done = bench(*options, "--json", str(document))
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(document.read_text())["results"]
    return results
