# SPDX-License-Identifier: BSD-3-Clause
"""The documents with which Fatline's YAML loader is compared with ansible-core's own.

Written by hand for this purpose, to cover every production of YAML 1.1 and what people write for Ansible.
Those that a text file can hold are in ``corpus/``, each below a line ``#### name``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
MARK = "#### "

# Separated by " | ".
_PLAIN_SCALARS = """\
0 | 1 | -1 | +1 | 12345678901234567890 | 1_000 | _1 | 1_ | -0 | +0 | 00 | 007 | 08 | 0b101 | -0b11 | 0b
0b2 | 0x1F | 0xfg | -0x_f | 0o17 | 017 | -017 | 0_7 | 1:30 | 1:30:45 | -1:30 | 01:30 | 1:60 | 190:20:30
1__0 | 0x | 1 000 | 1,000 | --1 | +-1 | 1- | 0o8 | 1.0 | 1. | .5 | -.5 | +.5 | 1e3 | 1.0e3 | 1.0e+3
1.0E-3 | 1.e+3 | 1_0.5_0 | .inf | -.inf | +.inf | .Inf | .INF | .iNF | .nan | .NaN | .NAN | -.nan | nan
inf | 1:30.5 | 190:20:30.15 | 1.5.2 | . | .. | 1e | 1.0e | 1.0e3.5 | ._1 | 1._ | 0.1e+400 | -1.5e-400
1e400 | 6.02e+23 | true | True | TRUE | tRUE | false | False | FALSE | yes | Yes | YES | yEs | no | No
NO | on | On | ON | oN | off | Off | OFF | oFF | y | Y | n | N | null | Null | NULL | nULL | ~ | ~~
none | None | t | f | 2026-01-02 | 2026-1-2 | 2026-01-02T03:04:05 | 2026-01-02 03:04:05
2026-01-02T03:04:05Z | 2026-01-02T03:04:05.678Z | 2026-01-02 03:04:05.6789012 +01:30
2026-01-02 03:04:05 -5 | 2026-01-02t3:04:05z | 2026-01 | 20260102 | 2026-01-02x | 2026-01-02T03:04
0000-01-01 | 9999-12-31 | 2026-02-30 | << | = | <<< | == | - | ? | : | a:b | a :b | :: | -a | ?a | :a
a#b | a #b | ! | a! | a&b | a*b | a|b | a>b | a%b | a@b | a,b | a[b | a]b | a{b | a}b | (a) | $a | \\a
/a | ^a
"""
PLAIN_SCALARS = [text for line in _PLAIN_SCALARS.splitlines() for text in line.split(" | ")]

# Line breaks, byte order marks, control characters and what is not UTF-8.
BYTES: dict[str, bytes] = {
    "carriage return and line feed": b"a: 1\r\nb: |\r\n  x\r\n  y\r\nc: >\r\n  x\r\n  y\r\n",
    "carriage return alone": b"a: 1\rb: 2\r",
    "mixed line breaks": b"a: |\r\n  x\n  y\r  z\n",
    "next line": "a: |\n  x\u0085  y\n".encode(),
    "line separator": "a: |\n  x\u2028  y\n".encode(),
    "paragraph separator": "a: \"x\u2029y\"\n".encode(),
    "no line break at the end": b"a: 1",
    "literal without line break at the end": b"a: |\n  x",
    "folded without line break at the end": b"a: >\n  x\n  y",
    "byte order mark": "\ufeffa: 1\n".encode(),
    "byte order mark before a marker": "\ufeff---\na: 1\n".encode(),
    "byte order mark inside": "a: \ufeffb\n".encode(),
    "byte order mark before JSON": "\ufeff{\"a\": 1}".encode(),
    "UTF-16, little-endian": "a: 1\n".encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + "a: 1\n".encode("utf-16-be"),
    "not UTF-8": b"a: \xff\xfe\n",
    "Latin 1": b"a: caf\xe9\n",
    "overlong": b"a: \xc0\xaf\n",
    "truncated": b"a: \xe2\x82",
    "an encoded surrogate": b"a: \xed\xa0\x80\n",
    "beyond Unicode": b"a: \xf4\x90\x80\x80\n",
    "null byte": b"a: \x00b\n",
    "null byte at the end": b"a: b\n\x00",
    "bell": b"a: \x07\n",
    "escape": b"a: \"\x1b[0m\"\n",
    "delete": b"a: \x7f\n",
    "C1 control": "a: \u0080\n".encode(),
    "no character": "a: \uffff\n".encode(),
    "private use": "a: \ue000\n".encode(),
    "beyond the first plane": "\U0001f600: \U00010000\n".encode(),
    "columns after wide characters": "\u4f60\u597d: [\u597d, x, \U0001f600, y]\n".encode(),
    "combining characters": "e\u0301: n\u0303\n".encode(),
    "right to left": "\u05d0: \u05d1 # \u05d2\n".encode(),
    "form feed": b"a: 1\x0c\n",
    "vertical tab": b"a: 1\x0b\n",
    "nothing at all": b"",
    "only a line break": b"\n",
    "only spaces": b"   ",
    "only a tab": b"\t",
    "many blank lines": b"\n" * 50 + b"a: 1\n",
}  # fmt: skip

SIZES: dict[str, str] = {
    "a key of 1,023 characters": f"{'k' * 1023}: v\n",
    "a key of 1,025 characters": f"{'k' * 1025}: v\n",
    "a quoted key of 2,000 characters": f'"{"k" * 2000}": v\n',
    "an explicit key of 2,000 characters": f"? {'k' * 2000}\n: v\n",
    "a flow key of 2,000 characters": f"{{{'k' * 2000}: v}}\n",
    "a value of 100,000 characters": f"a: {'v' * 100_000}\n",
    "a value of many lines": "a: |\n" + "  line\n" * 5000,
    "5,000 items": "".join(f"- {number}\n" for number in range(5000)),
    "5,000 keys": "".join(f"key{number}: {number}\n" for number in range(5000)),
    "5,000 aliases": "a: &a [1]\nb:\n" + "- *a\n" * 5000,
    "100 levels in flow": "[" * 100 + "]" * 100,
    "100 levels in block": "".join(f"{' ' * level}a:\n" for level in range(100)) + " " * 100 + "x\n",
    "100 levels of dashes": "- " * 100 + "x\n",
    "1,000 levels in flow": "[" * 1000 + "]" * 1000,
    "20,000 levels in flow": "[" * 20_000 + "]" * 20_000,
    "a long comment": f"a: 1 # {'c' * 5000}\n",
    "1,000 anchors": "".join(f"- &a{number} x\n- *a{number}\n" for number in range(1000)),
    "an integer of 5,000 digits": f"a: {'9' * 5000}\n",
}


def from_corpus(name: str) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of one file of the corpus."""
    title, lines = "", []
    for line in (CORPUS / f"{name}.txt").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith(MARK):
            if title:
                yield title, "".join(lines)
            title, lines = line.removeprefix(MARK).strip(), []
        else:
            lines.append(line)
    yield title, "".join(lines)


def all_documents() -> dict[str, bytes]:
    """Return every document by its name."""
    found = {
        f"{path.stem}: {title}": text.encode()
        for path in sorted(CORPUS.glob("*.txt"))
        for title, text in from_corpus(path.stem)
    }
    for text in PLAIN_SCALARS:
        # As an item, as a key and in a flow collection: what surrounds it must not matter.
        found[f"plain: {text!r}"] = f"- {text}\n- {{k: x}}\n".encode()
        found[f"plain key: {text!r}"] = f"{text}: {text}\n".encode()
    found |= {f"bytes: {name}": content for name, content in BYTES.items()}
    found |= {f"size: {name}": text.encode() for name, text in SIZES.items()}
    return found


ERRORS = "errors: "
"""How the names of documents begin that are wrong on purpose."""
