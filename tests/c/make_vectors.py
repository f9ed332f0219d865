# SPDX-License-Identifier: BSD-3-Clause
"""Turns tests/vectors/*.json into a C header, or into seed files for the fuzzers.

Called by meson: ``make_vectors.py header|frame|messages|yaml VECTORS_JSON OUTPUT``.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

FIELDS = ("dst_id", "src_id", "auth_id", "handle", "reply_to", "stream")


def c_bytes(data: bytes) -> str:
    """Write bytes as a C array initialiser, never empty."""
    return "{" + ", ".join(str(byte) for byte in data or b"\0") + "}"


def c_vector(number: int, vector: dict[str, Any]) -> tuple[str, str]:
    """Return the declarations for one vector and its entry in the table."""
    data = bytes.fromhex(vector["hex"])
    frame = vector.get("frame", {})
    result = {"frame": "1", "more": "0"}.get(vector["result"], vector["result"])
    fields = ", ".join(f".{name} = {frame.get(name, 0)}u" for name in FIELDS)
    payload = len(bytes.fromhex(frame.get("payload", "")))
    declaration = f"static const unsigned char vector_{number}[] = {c_bytes(data)};"
    entry = (
        f"    {{{json.dumps(vector['name'])}, vector_{number}, {len(data)}, {result}, "
        f"{{.flags = {frame.get('flags', 0)}, {fields}, .length = {payload}u}}}},"
    )
    return declaration, entry


def header(vectors: list[dict[str, Any]]) -> str:
    """Return the text of vectors.h."""
    pairs = [c_vector(number, vector) for number, vector in enumerate(vectors)]
    return "\n".join(
        [
            '#include "err.h"',
            '#include "frame.h"',
            "struct vector {",
            "    const char *name;",
            "    const unsigned char *data;",
            "    size_t size;",
            "    int result;",
            "    struct fl_frame frame;",
            "};",
            *(declaration for declaration, _ in pairs),
            "static const struct vector vectors[] = {",
            *(entry for _, entry in pairs),
            "};",
            "",
        ]
    )


def encode(handle: int, payload: bytes = b"", flags: int = 0, **fields: int) -> bytes:
    """Return one frame."""
    values = [{**fields, "handle": handle}.get(name, 0) for name in FIELDS]
    return struct.pack(">BBBB7I", 0xFA, 0x71, 1, flags, *values, len(payload)) + payload


def conversations() -> dict[str, bytes]:
    """Return seeds for the message fuzzer: what a client and an agent say in good order.

    The first byte chooses who speaks (see fuzz_messages.c); ids are those that a fresh mux gives.
    """
    name = bytes(range(32))
    call = struct.pack(">H", 1) + name + b"body"
    client = [
        encode(210, b"k" * 32 + b"\1", src_id=1, reply_to=1000),
        encode(212, b"k" * 32, src_id=1, reply_to=1001),
        encode(204, call, flags=4, dst_id=2, src_id=1, reply_to=1002, stream=5),
        encode(201, name + struct.pack(">II", 4, 0) + b"blob", src_id=1),
        encode(205, dst_id=2, src_id=1, stream=5),
        encode(209, b"ping", dst_id=2, src_id=1, reply_to=1003),
        encode(213, struct.pack(">I", 2), src_id=1, reply_to=1004),
        encode(214, src_id=1, reply_to=1005),
    ]
    agent = [
        encode(200, struct.pack(">H", 1) + b"n" * 16 + b"facts", src_id=2, auth_id=2),
        encode(105, struct.pack(">I", 3), src_id=2, auth_id=2, reply_to=1000),
        encode(103, struct.pack(">I", 3), src_id=2, auth_id=2),
        encode(202, struct.pack(">II", 1, 7) + name, src_id=2, auth_id=2),
        encode(1999, b"\1", dst_id=1, src_id=2, auth_id=2, stream=7),
        encode(104, struct.pack(">I", 3), src_id=2, auth_id=2),
        encode(1999, b"\4", flags=2, dst_id=1, src_id=2, auth_id=2, stream=7),
    ]
    seeds = {f"client_{number}": b"\0" + frame for number, frame in enumerate(client)}
    seeds |= {f"agent_{number}": b"\1" + frame for number, frame in enumerate(agent)}
    seeds["client_all"] = b"\0" + b"".join(client)
    seeds["agent_all"] = b"\1" + b"".join(agent)
    return seeds


def documents(groups: dict[str, dict[str, str]]) -> dict[str, bytes]:
    """Return seeds for the YAML fuzzer."""
    texts = {name: text for group in groups.values() for name, text in group.items()}
    return {name.replace(" ", "_"): text.encode() for name, text in texts.items()}


def seeds(what: str, content: dict[str, Any]) -> dict[str, bytes]:
    """Return the seed files of a fuzzer by name."""
    if what == "messages":
        return conversations()
    if what == "yaml":
        return documents(content)
    return {f"vector_{i}": bytes.fromhex(vector["hex"]) for i, vector in enumerate(content["vectors"])}


def main() -> None:
    """Write what was asked for."""
    what, source, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    content = json.loads(source.read_text(encoding="utf-8"))
    if what == "header":
        output.write_text(header(content["vectors"]), encoding="utf-8")
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(what, content).items():
        (output / name).write_bytes(data)


if __name__ == "__main__":
    main()
