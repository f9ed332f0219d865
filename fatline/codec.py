# SPDX-License-Identifier: BSD-3-Clause
"""MessagePack with the limits that a peer is held to.

Whatever an agent sends is decoded here and nowhere else: bounded in size, depth and number of items, and
made of plain values only (rules 4 and 6).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgpack

from fatline.errors import FatlineError
from fatline.protocol import PAYLOAD_MAX

DEPTH_MAX = 64
ITEMS_MAX = 262_144

# Four frames' worth: what a compressed payload may become. Larger things travel as streams.
INFLATED_MAX = 4 * PAYLOAD_MAX

_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_INFLATED_SIZE = struct.Struct("!I")


class Malformed(FatlineError):
    """A peer sent bytes that are not what the protocol allows there."""


def pack(value: object) -> bytes:
    """`value` as MessagePack; TypeError or ValueError in words for what cannot travel."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes) -> Any:
    """The value in `data`. Malformed if it breaks a limit or holds anything but plain values."""
    if len(data) > INFLATED_MAX:
        raise Malformed(f"a message of {len(data)} bytes is over the limit of {INFLATED_MAX}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_array_len=ITEMS_MAX,
            max_map_len=ITEMS_MAX,
            max_ext_len=0,
        )
    except Exception as error:  # the library raises ValueError, its own classes and RecursionError
        raise Malformed(f"not MessagePack: {type(error).__name__}: {error}") from error
    _check(value)
    return value


def unpack_map(data: bytes) -> dict[str, Any]:
    """The map with text keys in `data`. Malformed if it is anything else."""
    value = unpack(data)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Malformed("expected a map with text keys")
    return value


def inflate(payload: bytes) -> bytes:
    """The bytes of a payload flagged COMPRESSED: inflated size as u32, then one zlib stream."""
    if len(payload) < _INFLATED_SIZE.size:
        raise Malformed("a compressed payload without its size")
    (size,) = _INFLATED_SIZE.unpack_from(payload)
    if size > INFLATED_MAX:
        raise Malformed(f"a payload that inflates to {size} bytes is over the limit of {INFLATED_MAX}")
    inflater = zlib.decompressobj()
    try:
        # One byte more than announced: enough to notice the lie, not enough to suffer from it.
        data = inflater.decompress(payload[_INFLATED_SIZE.size :], size + 1)
    except zlib.error as error:
        raise Malformed(f"not a zlib stream: {error}") from error
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise Malformed(f"a payload announced as {size} bytes inflates to something else")
    return data


def printable(text: str) -> str:
    """`text` with its control characters escaped, so that a target cannot drive a terminal or fake a line."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def _check(value: object) -> None:
    """Walk the value level by level; the library itself allows deeper nesting and extension types."""
    level = [value]
    items = 0
    for _ in range(DEPTH_MAX + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif type(item) not in _PLAIN:
                raise Malformed(f"a value of type {type(item).__name__}")
        items += len(below)
        if items > ITEMS_MAX:
            raise Malformed(f"more than {ITEMS_MAX} items in a message")
        if not below:
            return
        level = below
    raise Malformed(f"nested deeper than {DEPTH_MAX} levels")
