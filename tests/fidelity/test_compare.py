# SPDX-License-Identifier: BSD-3-Clause
"""The comparison finds what differs, and nothing else: a suite that cannot fail shows nothing."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fidelity_cases import Case, CaseError, every_case, load
from fidelity_compare import KEYS, Observation, differences

CASE = Case(Path("case.yml"))

STOCK = Observation(
    rcs=[0],
    stdout=["\nPLAY [all]\n\nTASK [one]\nok: [t1]\nchanged: [t2]\n\nPLAY RECAP\n"],
    stderr=[""],
    events=[
        [
            {"event": "ok", "host": "t1", "task": "one", "result": {"rc": 0, "stdout": "out", "start": "1"}},
            {"event": "ok", "host": "t2", "task": "one", "result": {"rc": 0}},
        ]
    ],
    tree={"/home/worker/file": "-rw-r--r-- 1 1 5 abcd"},
    processes=["0 sleep 60"],
)


def changed(**changes: Any) -> Observation:
    return dataclasses.replace(copy.deepcopy(STOCK), **changes)


def with_result(**changes: Any) -> Observation:
    other = copy.deepcopy(STOCK)
    other.events[0][0]["result"] |= changes
    return other


def test_equal_runs_do_not_differ() -> None:
    assert differences(CASE, "on", STOCK, copy.deepcopy(STOCK)) == []


@pytest.mark.parametrize(
    "other",
    [
        changed(rcs=[2]),
        changed(stdout=[STOCK.stdout[0].replace("ok", "changed")]),
        changed(stderr=["[WARNING]: something\n"]),
        changed(events=[STOCK.events[0][:1]]),
        changed(events=[[STOCK.events[0][0], STOCK.events[0][0]]]),
        changed(tree={}),
        changed(tree={**STOCK.tree, "/tmp/left": "-rw-r--r-- 1 1 0 "}),
        changed(tree={"/home/worker/file": "-rw------- 1 1 5 abcd"}),
        changed(tree={"/home/worker/file": "-rw-r--r-- 1 1 5 dcba"}),
        changed(processes=[]),
        with_result(stdout="other"),
        with_result(rc="0"),
        with_result(more=1),
        with_result(start=1),
    ],
    ids=str,
)
def test_a_difference_is_found(other: Observation) -> None:
    assert differences(CASE, "on", STOCK, other)


def test_a_volatile_value_may_differ_but_not_be_missing() -> None:
    assert not differences(CASE, "on", STOCK, with_result(start="2"))
    other = copy.deepcopy(STOCK)
    del other.events[0][0]["result"]["start"]
    assert differences(CASE, "on", STOCK, other)


def test_hosts_may_answer_in_any_order_but_each_in_its_own() -> None:
    assert not differences(CASE, "on", STOCK, changed(events=[STOCK.events[0][::-1]]))
    swapped = STOCK.stdout[0].replace("ok: [t1]\nchanged: [t2]", "changed: [t2]\nok: [t1]")
    assert not differences(CASE, "on", STOCK, changed(stdout=[swapped]))
    twice = [{**STOCK.events[0][0], "task": name} for name in ("one", "two")]
    assert differences(CASE, "on", changed(events=[twice]), changed(events=[twice[::-1]]))


def test_an_include_s_hosts_may_answer_in_any_order_but_are_the_same() -> None:
    line = "included: /play/a.yml for {} => (item=1)\n"
    one, other, less = (changed(stdout=[line.format(hosts)]) for hosts in ("t1, t2", "t2, t1", "t1"))
    assert not differences(CASE, "on", one, other)
    assert differences(CASE, "on", one, less)
    apart = changed(stdout=[one.stdout[0].replace("t1, t2", "t1") + one.stdout[0].replace("t1, t2", "t2")])
    assert differences(CASE, "on", one, apart)
    assert not differences(dataclasses.replace(CASE, order="any"), "on", one, apart)


def test_a_case_takes_out_what_its_header_says() -> None:
    case = dataclasses.replace(
        CASE, volatile={"rc": "for the test"}, replace=(("out|other", "X", "for the test"),)
    )
    assert not differences(case, "on", STOCK, with_result(rc=7, stdout="other"))
    assert differences(case, "on", STOCK, with_result(rc="7", stdout="other"))


def test_every_case_can_be_read_and_says_what_it_shows() -> None:
    cases = list(every_case())
    assert len({case.name for case in cases}) == len(cases) >= 150
    for case in cases:
        assert not KEYS.keys() & case.volatile, f"{case.name}: these are volatile anyway"


def test_an_unknown_word_in_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.yml"
    path.write_text("# What it shows.\n#: {speed: 1}\n- hosts: all\n")
    with pytest.raises(CaseError, match="speed"):
        load(path)
