# SPDX-License-Identifier: BSD-3-Clause
"""Progress on stderr: a bar where rich is installed and stderr is a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator

Step = Callable[[str], None]


@contextlib.contextmanager
def progress(total: int) -> Iterator[Step]:
    """Yield a function to be called with a text at the start of each of `total` steps."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar(total) as step:
            yield step
    else:
        yield _Lines(total)


class _Lines:
    """One line a step."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def __call__(self, text: str) -> None:
        self._done += 1
        print(f"[{self._done}/{self._total}] {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)

        def step(text: str) -> None:
            bar.update(task, advance=1, description=text)

        yield step
