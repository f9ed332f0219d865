# SPDX-License-Identifier: BSD-3-Clause
"""The differential suite: each case gives the same under stock Ansible and under Fatline.

`make test` runs the quick part, `make fidelity` all of it. See docs/fidelity.md.
"""

from __future__ import annotations

import operator
import re
import shutil

import pypi_collections
import pytest
from fidelity_cases import Case, every_case
from fidelity_run import Bench, Controller

_OPERATORS = {">=": operator.ge, "<": operator.lt}


def _parameters() -> list[object]:
    found = []
    for case in every_case():
        for pipelining in case.pipelining:
            marks = [pytest.mark.fidelity, pytest.mark.timeout(2 * case.timeout)]
            if case.quick:
                marks.append(pytest.mark.quick)
            if case.xfail:
                marks.append(pytest.mark.xfail(reason=case.xfail, strict=True))
            name = case.name if pipelining == "on" else f"{case.name}-{pipelining}"
            found.append(pytest.param(case, pipelining, marks=marks, id=name))
    return found


def _skip_where_it_cannot_run(case: Case, controller: Controller) -> None:
    for program in case.needs:
        if shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin") is None:
            pytest.skip(f"needs {program}")
    if case.collections and pypi_collections.installed() is None:
        pytest.skip("the collections could not be fetched; see tests/e2e/pypi_collections.py")
    for sign, text in re.findall(r"(>=|<)([\d.]+)", case.ansible):
        if not _OPERATORS[sign](controller.version, tuple(map(int, text.split(".")))):
            pytest.skip(f"for ansible-core {case.ansible}")


@pytest.mark.parametrize(("case", "pipelining"), _parameters())
def test_same_as_stock(
    case: Case, pipelining: str, bench: Bench, controller: Controller, counted: list
) -> None:
    _skip_where_it_cannot_run(case, controller)
    found, counts = bench.compare(case, pipelining)
    counted += [{"pipelining": pipelining, **count} for count in counts]
    assert not found, "\n".join(found)
