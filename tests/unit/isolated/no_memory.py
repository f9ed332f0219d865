# SPDX-License-Identifier: BSD-3-Clause
"""Every allocation of the YAML loader's Python half fails once; run in a process of its own.

Only interpreters that come with their test modules can do this: ``no_memory.py`` ends with 77 on others.
"""

from __future__ import annotations

import gc
import sys

from leaks import YAML, Items, Mapping, Origin, TaggedItems, TaggedMapping, TaggedText, Tags, Text

from fatline import _native

try:
    import _testcapi
except ImportError:
    sys.exit(77)

ROUNDS_MAX = 20000
# Of thousands of rounds: something forgotten in one kind of failure would be in many of them.
LEFT_MAX = 50


def fails_at(number: int, loader: _native.YamlLoader, source: object) -> bool:
    """Let the allocation of that number fail; False if the load did not get so far."""

    def other(*arguments: object) -> object:
        return arguments

    _testcapi.set_nomemory(number, number + 1)
    try:
        loader.load(YAML, source, other)
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()
    return False


def main() -> int:
    """Fail the first allocation, the second, and so on, until a load comes to its end."""
    origin = Origin()
    origin.path = "/x"
    positions = _native.YamlLoader((Text, None, None, Items, Mapping), attributes=("s", "l", "c"))
    tagged = _native.YamlLoader(
        (TaggedText, None, None, TaggedItems, TaggedMapping),
        tags=("tags", Tags, Origin, ("path",), "line", "column"),
    )
    for loader, source in ((positions, "/x"), (tagged, origin)):
        number = 0
        fails_at(number, loader, source)
        gc.collect()
        blocks = sys.getallocatedblocks()
        while fails_at(number, loader, source) and number < ROUNDS_MAX:
            number += 1
        gc.collect()
        left = sys.getallocatedblocks() - blocks
        if not 1000 < number < ROUNDS_MAX or left > LEFT_MAX or not gc.isenabled():
            print(f"{number} failures left {left} blocks; the collector is on: {gc.isenabled()}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
