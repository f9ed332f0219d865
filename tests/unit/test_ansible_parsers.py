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
def test_a_parser_is_built_when_it_is_used() -> None:
    made = connection(stock_ssh.Connection)._tty_parser
    assert isinstance(made, parsers.LazyParser)
    assert "_parser" not in vars(made)
    assert vars(made.parse_known_args(["-t", "-x"])[0]) == {"t": 1, "o": None}
    assert isinstance(vars(made)["_parser"], argparse.ArgumentParser)
    assert stock_ssh.argparse.ArgumentError is argparse.ArgumentError


def test_what_was_split_can_be_changed() -> None:
    first = ssh.Connection._split_ssh_args("-o A=b")
    first.clear()
    assert ssh.Connection._split_ssh_args("-o A=b") == ["-o", "A=b"]
    with pytest.raises(ValueError, match="quotation"):
        ssh.Connection._split_ssh_args("-o 'A")
