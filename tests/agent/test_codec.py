# SPDX-License-Identifier: BSD-3-Clause
"""The agent's framer, MessagePack codec and protocol numbers, held to the contract."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import harness
import msgpack
import pytest

from fatline import codec

AGENT: dict[str, Any] = {"__name__": "agent_under_test"}
exec(compile((harness.ROOT / "bootstrap" / "agent.py").read_text(), "agent.py", "exec"), AGENT)
VECTORS = json.loads((harness.ROOT / "tests" / "vectors" / "frames.json").read_text())["vectors"]


def outcome(pieces: list[bytes]) -> Any:
    """Feed pieces to a new framer: the frames, or the name of the error."""
    framer = AGENT["Framer"]()
    frames = []
    try:
        for piece in pieces:
            frames += framer.feed(piece)
    except AGENT["BadFrame"] as error:
        return error.args[0]
    return [
        {
            "flags": frame.flags,
            "dst_id": frame.dst,
            "src_id": frame.src,
            "auth_id": frame.auth,
            "handle": frame.handle,
            "reply_to": frame.reply_to,
            "stream": frame.stream,
            "payload": frame.payload.hex(),
        }
        for frame in frames
    ]


def expected(vector: dict[str, Any]) -> Any:
    """What outcome() must give for a vector."""
    if vector["result"] == "frame":
        return [vector["frame"]]
    return [] if vector["result"] == "more" else vector["result"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_frame_vectors(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    assert outcome([data]) == expected(vector)
    for cut in range(len(data)):
        assert outcome([data[:cut], data[cut:]]) == expected(vector), f"cut at byte {cut}"
    assert outcome([data[index : index + 1] for index in range(len(data))]) == expected(vector)
    if vector["result"] == "frame":
        assert outcome([data * 3 + data[:5]]) == expected(vector) * 3
        for cut in range(len(data)):
            assert outcome([data[:cut]]) == []


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_every_bit_flipped_gives_frames_or_words(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        result = outcome([bytes(flipped)])
        assert isinstance(result, list) or result.startswith("FL_E")


def test_numbers_are_those_of_the_protocol() -> None:
    assert AGENT["INFLATED_MAX"] == codec.INFLATED_MAX, "what one side compresses the other must take"
    table = (harness.ROOT / "csrc" / "core" / "protocol.def").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"^FL_\w+\((\w+), (\d+)\)", table, re.M)}
    ours = {name: AGENT[name] for name in numbers if name in AGENT}
    assert ours == {name: numbers[name] for name in ours}
    assert {"EXEC", "STARTED", "EXIT", "REFUSED", "STALE", "LAST", "WANT_MODULE", "PONG"} <= set(ours)


SAMPLES = [
    None,
    True,
    False,
    0,
    1,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    2**64 - 1,
    -1,
    -32,
    -33,
    -128,
    -129,
    -32769,
    -(2**31),
    -(2**31) - 1,
    -(2**63),
    0.0,
    -1.5,
    math.inf,
    "",
    "x" * 31,
    "x" * 32,
    "x" * 255,
    "x" * 256,
    "x" * 65536,
    "é€😀",
    b"",
    b"x" * 255,
    b"x" * 256,
    b"x" * 65536,
    [],
    list(range(15)),
    list(range(16)),
    list(range(65536)),
    {},
    {str(n): n for n in range(16)},
    {b"k": [None, {"a": b"\xff"}]},
]


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: repr(value)[:20])
def test_msgpack_both_ways(value: Any) -> None:
    assert msgpack.unpackb(AGENT["pack"](value), strict_map_key=False) == value
    encoded = msgpack.packb(value)
    assert AGENT["unpack"](encoded) == value
    if len(encoded) < 1000:
        for cut in range(len(encoded)):
            with pytest.raises(ValueError):
                AGENT["unpack"](encoded[:cut])
    with pytest.raises(ValueError):
        AGENT["unpack"](encoded + b"\x00")


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\xd4\x00\x00",
        b"\xc7\x00\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x80\x00\x00\x00",
        b"\x81\x90\x00",
        b"\x91" * 65 + b"\x00",
        b"\xa1\xff",
        b"\xdb\xff\xff\xff\xffab",
    ],
)
def test_msgpack_refuses(data: bytes) -> None:
    # Systems fact 29: depth 64, sizes bounded by the data, no extension types.
    with pytest.raises(ValueError):
        AGENT["unpack"](data)


def test_inflate_is_limited() -> None:
    # Systems fact 7: inflate limit per frame with the declared size checked.
    import struct
    import zlib

    inflate = AGENT["inflate"]
    assert inflate(struct.pack(">I", 5) + zlib.compress(b"hello")) == b"hello"
    bomb = zlib.compress(bytes(1 << 20))
    for payload in (
        b"",
        struct.pack(">I", 10) + bomb,
        struct.pack(">I", 1 << 25) + bomb,
        struct.pack(">I", 3) + b"xyz",
    ):
        with pytest.raises(ValueError):
            inflate(payload)
