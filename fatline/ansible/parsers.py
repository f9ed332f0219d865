# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the argument parser of core's ssh plugin when it is used, not with every connection.

From 2.19 on each connection object builds an `argparse.ArgumentParser` to look for ``-t`` among the user's
ssh arguments. That takes 0.2 ms, a loop makes a connection for every item, and Fatline remembers the answer.
"""

from __future__ import annotations

import argparse
import functools
import types
from typing import Any

from ansible.plugins.connection import ssh as stock_ssh

_Step = tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]


def install() -> None:
    """Let core's ssh plugin make its parsers so; nothing, where it makes none."""
    if getattr(stock_ssh, "argparse", None) is argparse:
        lazy = types.SimpleNamespace(**vars(argparse))
        lazy.ArgumentParser = LazyParser
        stock_ssh.argparse = lazy


class LazyParser:
    """An `argparse.ArgumentParser` that is built when more than its arguments is asked of it.

    Equal ones are one: parsing leaves nothing behind in a parser, and what the main process has built its
    forked workers have too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Note with what to build it."""
        self._steps: tuple[_Step, ...] = (_step(args, kwargs),)

    def add_argument(self, *args: Any, **kwargs: Any) -> None:
        """Note an argument for later."""
        self._steps += (_step(args, kwargs),)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the parser's own."""
        return getattr(_built(self._steps), name)


def _step(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Step:
    return args, tuple(kwargs.items())


@functools.cache
def _built(steps: tuple[_Step, ...]) -> argparse.ArgumentParser:
    (args, kwargs), *added = steps
    parser = argparse.ArgumentParser(*args, **dict(kwargs))
    for more, named in added:
        parser.add_argument(*more, **dict(named))
    return parser
