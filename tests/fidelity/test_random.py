# SPDX-License-Identifier: BSD-3-Clause
"""The differential suite's other half: playbooks drawn by chance (random_playbook.py).

``SEEDS`` says which, as ``FIRST-LAST`` or as one number; `make fidelity-random` sets it. A failure shows the
difference and says where its playbook is; the seed makes it again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fidelity_run import Bench
from random_playbook import make_case

_QUICK = (1, 2)
_USUAL = "1-10"


def _parameters() -> list[object]:
    first, _, last = os.environ.get("SEEDS", _USUAL).partition("-")
    found = []
    for seed in range(int(first), int(last or first) + 1):
        marks = [pytest.mark.fidelity, pytest.mark.timeout(1200)]
        if seed in _QUICK:
            marks.append(pytest.mark.quick)
        found.append(pytest.param(seed, marks=marks))
    return found


@pytest.mark.parametrize("seed", _parameters())
def test_same_as_stock(seed: int, bench: Bench, counted: list, tmp_path: Path) -> None:
    case, pipelining = make_case(seed, tmp_path)
    found, counts = bench.compare(case, pipelining)
    counted += [{"pipelining": f"{pipelining}, drawn by chance", **count} for count in counts]
    if found:
        # At once: the report of the others comes when all have run.
        case.path.with_suffix(".difference").write_text("\n".join(found), encoding="utf-8")
    assert not found, "\n".join([f"the playbook: {case.path}", *found])
