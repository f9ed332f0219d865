# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile the template of a plain reference once per process, not once per item of a loop.

From 2.19 on core compiles every template each time it meets it: the label of a loop (``{{ item }}``) and the
arguments that name a part of the item cost a millisecond each, for each item. What such a template compiles
to depends on its text alone, so it is kept. Anything with a filter, a test, a call, a literal or a statement
is core's to compile: what becomes of those depends on plugins and on where the template was written.
"""

from __future__ import annotations

import functools
import re
from types import CodeType
from typing import Any

try:
    from ansible._internal._templating import _jinja_bits
except ImportError:  # before 2.19, which keeps nothing either, but is built in another way
    _jinja_bits = None

KEPT = 512
"""Templates kept; a process that meets more compiles them as before."""

_REFERENCE = re.compile(r"\{\{ *[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])* *\}\}")
# Words of Jinja's language that would otherwise look like a reference.
_WORDS = re.compile(r"\b(?:not|and|or|if|else|in|is|true|false|none|True|False|None)\b")


def install() -> None:
    """Let core's environment remember what it compiled; nothing, where core is not as we know it."""
    environment = getattr(_jinja_bits, "AnsibleEnvironment", None)
    if environment is None or hasattr(environment.compile, "fatline"):
        return
    environment.compile = _remembering(environment, environment.compile)


def _remembering(environment: type, compile_template: Any) -> Any:
    kept: dict[str, CodeType] = {}

    @functools.wraps(compile_template)
    def remember(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not _is_reference(environment, self, source):
            return compile_template(self, source, *args, **kwargs)
        # Not the tagged string: where the template was written is not kept with it.
        text = str.__str__(source)
        code = kept.get(text)
        if code is None:
            code = compile_template(self, source)
            if len(kept) < KEPT:
                kept[text] = code
        return code

    remember.fatline = True  # type: ignore[attr-defined]
    return remember


def _is_reference(environment: type, used: Any, source: Any) -> bool:
    """Say whether this template in this environment is nothing but a reference, in the usual brackets."""
    if not isinstance(source, str) or not _REFERENCE.fullmatch(source) or _WORDS.search(source):
        return False
    if used.overlayed or used._debuggable_template_source or used.variable_start_string != "{{":
        return False
    return used.variable_end_string == "}}" and bool(type(used) is environment)
