# SPDX-License-Identifier: BSD-3-Clause
"""Documents made by hypothesis from a grammar of YAML: `texts` yields mostly valid ones, and broken ones.

Nodes are drawn together with the way they are written: block or flow, plain, quoted or folded, with anchors,
aliases, tags and comments. In the end some documents are damaged.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

WORDS = [
    "a", "b", "name", "{{ x }}", "x y", "1", "0x1f", "017", "1.5", "-1e3", "true", "no", "null", "~", "12:30",
    "2026-01-02", "2026-01-02 03:04:05", "<<", "=", ".inf", "-", "a:b", "a#b", "it's", "é", "日本", "😀",
]  # fmt: skip
PLAIN = [word for word in WORDS if word not in ("{{ x }}", "-")]
FLOW_PLAIN = PLAIN
TAGS = ["!!str", "!!int", "!!float", "!!bool", "!!null", "!!seq", "!!map", "!unsafe", "!vault", "!", "!other"]
ANCHORS = ["a", "b", "c"]
COMMENTS = [" # comment", "  #x", ""]
MAX_DEPTH = 4


@st.composite
def texts(draw: DrawFn) -> str:
    """A document, one in eight of them damaged."""
    start = draw(st.sampled_from(["", "", "", "---\n", "# comment\n---\n", "%YAML 1.1\n---\n"]))
    text = start + draw(block_nodes(0, 0))
    if draw(st.integers(0, 7)) == 0:
        text = draw(damaged(text))
    return text


@st.composite
def damaged(draw: DrawFn, text: str) -> str:
    """The text with a piece cut out, put in twice, or replaced."""
    begin = draw(st.integers(0, max(len(text) - 1, 0)))
    end = min(len(text), begin + draw(st.integers(0, 3)))
    piece = draw(
        st.sampled_from(["", "\t", " ", ":", "- ", "\n", "'", '"', "]", "}", "*a ", "&a ", "{", "#", "|"])
    )
    return text[:begin] + piece + text[end:]


@st.composite
def block_nodes(draw: DrawFn, indent: int, depth: int) -> str:
    """A node on lines of its own, the first not indented yet by its parent."""
    kinds = ["mapping", "mapping", "sequence", "scalar"] if depth < MAX_DEPTH else ["scalar"]
    kind = draw(st.sampled_from(kinds))
    if kind == "scalar":
        return " " * indent + draw(inline_nodes(indent, depth)) + draw(st.sampled_from(COMMENTS)) + "\n"
    count = draw(st.integers(1, 4))
    lines = []
    for _ in range(count):
        before = draw(st.sampled_from(["", "", "", "\n", "# comment\n"]))
        head = draw(keys()) + ":" if kind == "mapping" else "-"
        lines.append(before + " " * indent + head + draw(children(indent, depth, kind)))
    return "".join(lines)


@st.composite
def children(draw: DrawFn, indent: int, depth: int, kind: str) -> str:
    """What stands after a key's colon or an item's dash, to the end of the line or of the lines below."""
    form = draw(st.sampled_from(["inline", "inline", "inline", "below", "nothing", "literal"]))
    if form == "nothing":
        return draw(st.sampled_from(COMMENTS)) + "\n"
    if form == "literal":
        return " " + draw(block_scalars(indent + 2))
    if form == "below" and depth < MAX_DEPTH:
        step = draw(st.integers(1, 3))
        properties = draw(st.sampled_from(["", "", " &a", " &b", " !!map", " !unsafe"]))
        return properties + "\n" + draw(block_nodes(indent + step, depth + 1))
    return " " + draw(inline_nodes(indent, depth)) + draw(st.sampled_from(COMMENTS)) + "\n"


@st.composite
def inline_nodes(draw: DrawFn, indent: int, depth: int) -> str:
    """A node that fits between others: scalar, alias or flow collection, perhaps with properties."""
    kind = draw(st.sampled_from(["plain"] * 4 + ["quoted"] * 3 + ["alias", "flow"]))
    if kind == "alias":
        return f"*{draw(st.sampled_from(ANCHORS))} "
    properties = draw(st.sampled_from(["", "", "", "&a ", "&b ", "&c ", *(f"{tag} " for tag in TAGS)]))
    if kind == "plain":
        return properties + draw(st.sampled_from(PLAIN))
    if kind == "quoted":
        return properties + draw(quoted(indent))
    return properties + draw(flow(indent, depth + 1))


@st.composite
def quoted(draw: DrawFn, indent: int) -> str:
    """A quoted scalar, now and then over two lines."""
    text = draw(st.sampled_from(WORDS)) + draw(
        st.sampled_from(["", " ", f"\n{' ' * (indent + 1)}x", f"\n\n{' ' * (indent + 1)}"])
    )
    if draw(st.booleans()):
        return "'" + text.replace("'", "''") + "'"
    return '"' + text + draw(st.sampled_from(["", "\\n", "\\u00e9", "\\x41", "\\\\", '\\"', "\\ "])) + '"'


@st.composite
def block_scalars(draw: DrawFn, indent: int) -> str:
    """A literal or folded scalar with its header."""
    header = draw(st.sampled_from("|>")) + draw(st.sampled_from(["", "-", "+"]))
    lines = draw(
        st.lists(
            st.sampled_from(["", "x", "  y", "z ", "# no comment", "k: v", "- i"]), min_size=1, max_size=4
        )
    )
    return header + "\n" + "".join(f"{' ' * indent}{line}\n" if line else "\n" for line in ["x", *lines])


@st.composite
def flow(draw: DrawFn, indent: int, depth: int) -> str:
    """A flow collection."""
    gap = draw(st.sampled_from([" ", " ", f"\n{' ' * (indent + 1)}"]))
    count = draw(st.integers(0, 3))
    if depth >= MAX_DEPTH:
        count = 0
    if draw(st.booleans()):
        return "[" + f",{gap}".join(draw(inline_nodes(indent, depth)) for _ in range(count)) + "]"
    pairs = [f"{draw(keys())}: {draw(inline_nodes(indent, depth))}" for _ in range(count)]
    return "{" + f",{gap}".join(pairs) + "}"


@st.composite
def keys(draw: DrawFn) -> str:
    """A key, seldom one that is special."""
    key = draw(
        st.sampled_from(["a", "b", "c", "d", "name", "k 1", '"q"', "'s'", "1", "true", "<<", "~", "1.5", "é"])
    )
    return draw(st.sampled_from(["", "", "", "", "", "&a ", "!!str "])) + key
