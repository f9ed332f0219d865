# SPDX-License-Identifier: BSD-3-Clause
"""What travels to the target: the launcher line, the stage and the agent.

The other files beside this one are never imported here: they are read as text, stripped of comments and
docstrings with every line kept in its place (so that a traceback from a target names a line of the file in
the repository) and compressed. An installation holds the result, made when it was built, because stripping
takes longer than all the rest of a boot on this side.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import pathlib
import shlex
import zlib
from collections.abc import Sequence
from typing import Literal

_HERE = pathlib.Path(__file__).resolve().parent

#: Bytes that no login shell of sh, bash, tcsh, fish, zsh and mksh treats specially between single quotes.
#: Absent on purpose: newline (tcsh), backslash (fish), "!" (csh history), the single quote itself.
LAUNCHER_ALPHABET = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '\"$&()*+,-./:;<=>@[]_{|}~%?"
)

# No exec, here or in front: the login shell and sh do with this line what they do with stock's
# (`/bin/sh -c "python3 && sleep 0"`), so SHLVL, _, ignored signals and the session come out the same.
_SEARCH = (
    'for p in "$@"; do command -v "$p" >/dev/null 2>&1 && { "$p" -c "$0" "$p"; exit $?; }; done; '
    "echo NOPY >&2; exit 127"
)


# Without a dollar sign: sudo -i escapes what its login shell would treat specially, but not that.
_BECOME = "command -v {0} >/dev/null 2>&1 || {{ echo NOPY >&2; exit 127; }}; exec {0} -c '{1}' {0}"


# In front of it goes an addition: agent.py keeps its line numbers, and starts when all is defined.
_START = "\nif __name__"

Addition = Literal["", "privileged", "functions"]
"""What an agent has besides agent.py: nothing, or the file of that name."""

KINDS: dict[str, Addition] = {"agent": "", "privileged": "privileged", "functions": "functions"}
"""What the build prepares (``NAME.z``), by name."""


@functools.lru_cache(maxsize=len(KINDS))
def agent_source(addition: Addition = "") -> bytes:
    """Return the agent as the stage expects it after READY: one zlib stream."""
    return _prepared(addition or "agent") or make_agent(addition)


@functools.lru_cache(maxsize=1)
def stage_source() -> bytes:
    """Return the stage's text, stripped: one zlib stream."""
    return _prepared("stage") or make_stage()


def make_agent(addition: Addition = "") -> bytes:
    """Strip and compress the agent with that addition; the build keeps the results beside it."""
    text = minify((_HERE / "agent.py").read_text("utf-8"))
    if addition:
        before, start, after = text.rpartition(_START)
        if not start:
            raise ValueError("agent.py does not end with its start")
        text = before + "\n" + minify((_HERE / f"{addition}.py").read_text("utf-8")) + start + after
    return zlib.compress(text.encode("utf-8"), 9)


def make_stage() -> bytes:
    """Strip and compress the stage; the build keeps the result as ``stage.z`` beside it."""
    lines = minify((_HERE / "stage.py").read_text("utf-8")).split("\n")
    return zlib.compress("\n".join(line for line in lines if line).encode("utf-8"), 9)


def _prepared(name: str) -> bytes | None:
    """Return what the build has prepared; None in a checkout."""
    with contextlib.suppress(FileNotFoundError):
        return (_HERE / f"{name}.z").read_bytes()
    return None


def launcher(interpreters: Sequence[str], nonce: str, size: int, *, privileged: bool = False) -> str:
    """Return the command line that starts the stage under any login shell.

    interpreters are tried in order; nonce is repeated in the READY line; size is the number of bytes
    the caller sends after it (the length of agent_source()). With privileged it is a line for a become plugin
    to wrap, with one interpreter. Raises ValueError for a word that some shell would not take literally.
    """
    stage = base64.b64encode(stage_source()).decode("ascii")
    # Only built-in modules before the empty entry is gone: sys is one, zlib and base64 may be files
    # that a base64.py in the login directory would replace.
    program = (
        "import sys;sys.path[:]=[p for p in sys.path if p];"
        f'NONCE="{nonce}";SIZE={size:d};'
        f'import zlib,base64;exec(zlib.decompress(base64.b64decode("{stage}")))'
    )
    if not nonce.isalnum():
        raise ValueError(f"nonce must be alphanumeric, not {nonce!r}")
    words = [shlex.quote(name) for name in interpreters]
    if privileged:
        (word,) = words
        line, quotes = _BECOME.format(word, program), 2
    else:
        line, quotes = " ".join(["/bin/sh -c", f"'{_SEARCH}'", f"'{program}'", *words]), 4
    if not words or line.count("'") != quotes + sum(word.count("'") for word in words):
        raise ValueError("the launcher needs interpreters, and no single quote of its own")
    odd = set(line) - LAUNCHER_ALPHABET
    if odd or any(name.count("'") for name in interpreters):
        raise ValueError(
            f"an interpreter's name has characters that not every login shell takes: {sorted(odd)}"
        )
    return line


def minify(source: str) -> str:
    """Strip comments, docstrings and most indentation; each remaining statement keeps its line number."""
    # Imported here because an installation that boots agents never needs them.
    import ast
    import io
    import tokenize

    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    for node in ast.walk(ast.parse(source)):
        if (
            not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            or ast.get_docstring(node) is None
        ):
            continue
        text = node.body[0]
        assert text.end_lineno is not None
        indent = lines[text.lineno - 1][: text.col_offset]
        # A body must not become empty, so a function that is only a docstring keeps a statement.
        lines[text.lineno - 1] = indent + ("0" if len(node.body) == 1 else "")
        for row in range(text.lineno, text.end_lineno):
            lines[row] = ""
    return "\n".join(_tight([line.rstrip() for line in lines]))


def _tight(lines: list[str]) -> list[str]:
    """Leave out spaces that tokens do not need: one a level stays in front."""
    import io
    import tokenize

    gaps: list[tuple[int, int, int, str]] = []
    level, row, column, last, is_first = 0, 0, 0, "", True
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
        level += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        is_first = is_first or token.type == tokenize.NEWLINE
        if not token.string.strip() or token.type == tokenize.DEDENT:
            continue
        if token.start[0] != row:
            gaps.append((token.start[0], 0, token.start[1], " " * level if is_first else ""))
        elif not (_may_grow(last[-1]) and _may_grow(token.string[0])):
            gaps.append((row, column, token.start[1], ""))
        (row, column), last, is_first = token.end, token.string, False
    for row, start, end, gap in reversed(gaps):
        lines[row - 1] = lines[row - 1][:start] + gap + lines[row - 1][end:]
    return lines


def _may_grow(character: str) -> bool:
    """Say whether a character of a name, number or string could become one with its neighbour."""
    return character.isalnum() or character in "_'\""
