# SPDX-License-Identifier: GPL-3.0-or-later
"""What core's ssh plugin parses for every connection is parsed once, with core's own result."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from ansible.playbook.play_context import PlayContext
from ansible.plugins.connection import ssh as stock_ssh
from ansible.plugins.loader import connection_loader

from fatline.ansible import parsers, ssh

pytestmark = pytest.mark.skipif(
    not hasattr(stock_ssh, "argparse"), reason="this ansible-core's ssh plugin parses no arguments"
)

TEXTS = [
    "",
    "-C -o ControlMaster=auto",
    "-tt",
    "-o RequestTTY=force",
    "-o 'RequestTTY no'",
    "-o requesttty=YES -4",
]


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_ssh, "argparse", argparse)
    parsers.install()


def connection(kind: type, **options: str) -> Any:
    made = connection_loader.get("ssh", PlayContext(), "/dev/null")
    made.__class__ = kind
    made.set_options(direct=options)
    return made


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.usefixtures("lazy")
def test_the_answer_is_core_s(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        genuine = connection(stock_ssh.Connection, **{option: text})
        expected = genuine._is_tty_requested()
        for _ in range(2):
            ours = connection(ssh.Connection, **{option: text})
            assert ours._is_tty_requested() is expected
            assert ours._split_ssh_args(text) == genuine._split_ssh_args(text)
            monkeypatch.setattr(stock_ssh.Connection, "_is_tty_requested", None)
        monkeypatch.undo()


@pytest.mark.usefixtures("lazy")
def test_equal_parsers_are_one_and_built_when_used() -> None:
    parsers._built.cache_clear()
    first, second = (connection(stock_ssh.Connection)._tty_parser for _ in range(2))
    assert isinstance(first, parsers.LazyParser)
    assert parsers._built.cache_info().misses == 0
    for made in (first, second):
        for words, count in ((["-t", "-x"], 1), (["-tt"], 2), ([], None)):
            assert vars(made.parse_known_args(words)[0]) == {"t": count, "o": None}
    assert parsers._built.cache_info().misses == 1
    assert stock_ssh.argparse.ArgumentError is argparse.ArgumentError


def test_what_was_split_can_be_changed() -> None:
    first = ssh.Connection._split_ssh_args("-o A=b")
    first.clear()
    assert ssh.Connection._split_ssh_args("-o A=b") == ["-o", "A=b"]
    with pytest.raises(ValueError, match="quotation"):
        ssh.Connection._split_ssh_args("-o 'A")
