# SPDX-License-Identifier: BSD-3-Clause
"""What a peer may not send: the decode limits of the controller."""

from __future__ import annotations

import struct
import zlib

import msgpack
import pytest

from fatline import codec


@pytest.mark.parametrize(
    "value", [None, True, -1, 2**63, 1.5, "ü", b"\xff", [], {}, [[1, [2]], {"a": {"b": []}}]]
)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert codec.unpack(codec.pack(value)) == value


def test_depth_is_limited() -> None:
    """Decode limits: depth 64 (systems fact 29)."""
    value: list[object] = []
    for _ in range(codec.DEPTH_MAX - 1):
        value = [value]
    assert codec.unpack(codec.pack(value)) == value
    with pytest.raises(codec.Malformed, match="nested deeper"):
        codec.unpack(codec.pack([[value]]))


def test_endless_nesting_is_no_crash() -> None:
    with pytest.raises(codec.Malformed):
        codec.unpack(b"\x91" * 100_000)


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb(msgpack.ExtType(5, b"x")),
        msgpack.packb(msgpack.Timestamp(1)),
        b"",
        b"\xc1",
        msgpack.packb("x") + b"trailing",
        b"\xa2\xff\xfe",
        b"\xdd\xff\xff\xff\xff",
        bytes(codec.INFLATED_MAX + 1),
    ],
    ids=[
        "extension",
        "timestamp",
        "empty",
        "reserved",
        "trailing",
        "not UTF-8",
        "huge array",
        "huge message",
    ],
)
def test_what_the_protocol_does_not_allow_is_malformed(data: bytes) -> None:
    """No extension types but ours, of which there are none (systems fact 29)."""
    with pytest.raises(codec.Malformed):
        codec.unpack(data)


def test_items_are_limited_across_containers() -> None:
    # Each inner list costs one byte on the wire and far more in memory.
    inner = [[] for _ in range(codec.ITEMS_MAX // 4)]
    with pytest.raises(codec.Malformed, match="items"):
        codec.unpack(codec.pack([inner] * 5))


def test_a_map_must_be_one_with_text_keys() -> None:
    assert codec.unpack_map(codec.pack({"rc": 0})) == {"rc": 0}
    for value in ([], {1: 2}, {b"rc": 0}):
        with pytest.raises(codec.Malformed, match="text keys"):
            codec.unpack_map(codec.pack(value))


def compressed(data: bytes, announced: int | None = None) -> bytes:
    return struct.pack("!I", len(data) if announced is None else announced) + zlib.compress(data)


def test_inflate_gives_the_announced_bytes() -> None:
    assert codec.inflate(compressed(b"x" * 100_000)) == b"x" * 100_000
    assert codec.inflate(compressed(b"")) == b""


@pytest.mark.parametrize(
    "payload",
    [
        b"\0\0",
        compressed(b"x" * 100, 99),
        compressed(b"x" * 100, 101),
        compressed(b"x", codec.INFLATED_MAX + 1),
        compressed(b"x" * 100)[:-1],
        compressed(b"x" * 100) + b"y",
        struct.pack("!I", 4) + b"not zlib",
        compressed(bytes(64 * 1024 * 1024), 10),
    ],
    ids=["no size", "too small", "too large", "over the limit", "truncated", "trailing", "no stream", "bomb"],
)
def test_a_lie_about_the_inflated_size_is_malformed(payload: bytes) -> None:
    """Inflate limit per frame with the declared size checked (systems fact 7)."""
    with pytest.raises(codec.Malformed):
        codec.inflate(payload)


def test_control_characters_are_escaped() -> None:
    """Control characters escaped in what a target says (systems fact 7)."""
    assert codec.printable("ok\x1b[2J\r\nü\u202e\tx\udcff") == "ok\\x1b[2J\\r\\nü\\u202e\tx\\udcff"
