# SPDX-License-Identifier: BSD-3-Clause
"""The zip of an AnsiballZ payload as blobs.

What two payloads of one module have in common are the files inside the zip (ansible fact 4: the zip itself
differs in its time stamps), so these become blobs, still compressed, and a manifest lists them.

Every task of a run brings its module's zip again, mostly to a worker that has just been forked. Taking it
apart costs 1 ms, so the workers leave each other a note in a directory of the run: the manifest of each zip,
which is all that is needed as long as no agent asks for the files themselves.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import os
import struct
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack

BLOB_MAX = 16 * 1024 * 1024
"""No file of a zip may be larger; the protocol's limit for one blob."""

CACHED_ZIPS = 32
"""Zips kept per process: the modules of a run's loops, about 100 KiB each."""

_NOTE_MAX = 1024 * 1024

Date = tuple[int, int, int, int, int, int]
Warmable = Callable[[str, int], bool]


class Unreadable(Exception):
    """The zip is not exactly as ansible-core writes one."""


class Zip(NamedTuple):
    """One zip as blobs."""

    date: Date
    manifest: bytes
    """Name of the manifest's blob."""
    blobs: Mapping[bytes, bytes]
    """The manifest and every file, by SHA-256 of what they hold."""


_cache: OrderedDict[tuple[bytes, Warmable], Zip] = OrderedDict()
_cache_lock = threading.Lock()


def read(text: bytes, warmable: Warmable, shared: Path | None = None) -> Zip:
    """Take a zip in base64 apart, or remember it: every item of a loop brings the same one.

    warmable(name, crc32) says of a file whether an agent's warm parent may import it. `shared` is a directory
    of this run, always used with the same `warmable`.

    :raises Unreadable: the zip is not exactly as ansible-core writes one.
    """
    with _cache_lock:
        found = _cache.get((text, warmable))
        if found is not None:
            _cache.move_to_end((text, warmable))
            return found
    found = _noted(text, shared)
    if found is None:
        found = _decode(text, warmable)
        _note(text, found, shared)
    with _cache_lock:
        _cache[text, warmable] = found
        while len(_cache) > CACHED_ZIPS:
            _cache.popitem(last=False)
    return found


def _decode(text: bytes, warmable: Warmable) -> Zip:
    entries = _whole_zip(text)
    date = _unpack_date(entries[0].when)
    blobs: dict[bytes, bytes] = {}
    rows = []
    for entry in entries:
        name = hashlib.sha256(entry.data).digest()
        blobs[name] = entry.data
        own_date = None if entry.when == entries[0].when else _unpack_date(entry.when)
        sizes = (entry.crc, len(entry.data), entry.inflated)
        warm = warmable(entry.name, entry.crc)
        rows.append((entry.name, name, *sizes, entry.method, entry.external, own_date, warm))
    listing: bytes = msgpack.packb(rows)
    manifest = hashlib.sha256(listing).digest()
    blobs[manifest] = listing
    return Zip(date, manifest, blobs)


def _whole_zip(text: bytes) -> list[_Entry]:
    """Decode a zip, and prove that the agent can rebuild it from the manifest by doing that here first."""
    try:
        data = base64.b64decode(text, validate=True)
        entries = list(_entries(data))
    except (binascii.Error, struct.error, UnicodeError) as error:
        raise Unreadable("not a zip in base64") from error
    _require(bool(entries) and _rebuild(entries) == data)
    return entries


def _require(condition: bool) -> None:
    if not condition:
        raise Unreadable("a zip that ansible-core would not write")


# ---- what the processes of a run tell each other ---------------------------------------------------------


class _Files(Mapping[bytes, bytes]):
    """The blobs of a zip of which only the names are known; it is decoded when an agent wants one."""

    def __init__(self, text: bytes, names: Sequence[bytes], listing: bytes) -> None:
        self._text = text
        self._names = dict.fromkeys(names)
        self._listing = listing

    @functools.cached_property
    def _data(self) -> dict[bytes, bytes]:
        data = {hashlib.sha256(entry.data).digest(): entry.data for entry in _whole_zip(self._text)}
        data[hashlib.sha256(self._listing).digest()] = self._listing
        return data

    def __getitem__(self, name: bytes) -> bytes:
        return self._data[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _note_path(text: bytes, shared: Path) -> Path:
    return shared / f"fatline-zip-{hashlib.sha256(text).hexdigest()}"


def _note(text: bytes, archive: Zip, shared: Path | None) -> None:
    """Leave a note for the other processes; without it they take the zip apart themselves."""
    if shared is None:
        return
    with contextlib.suppress(OSError):
        descriptor, temporary = tempfile.mkstemp(prefix="fatline-zip-", dir=shared)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgpack.packb([archive.date, archive.blobs[archive.manifest]]))
        os.replace(temporary, _note_path(text, shared))


def _noted(text: bytes, shared: Path | None) -> Zip | None:
    """Read the note that another process of this run has left, if there is one."""
    if shared is None:
        return None
    try:
        with _note_path(text, shared).open("rb") as file:
            date, listing = msgpack.unpackb(file.read(_NOTE_MAX))
        manifest = hashlib.sha256(listing).digest()
        names = [row[1] for row in msgpack.unpackb(listing)]
        return Zip(tuple(date), manifest, _Files(text, [*names, manifest], listing))
    except (OSError, ValueError, TypeError):
        return None


# ---- the format ------------------------------------------------------------------------------------------

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_UNIX_20 = 3 << 8 | 20
_UTF8_NAME = 0x800


class _Entry(NamedTuple):
    """One file of a zip; data is still compressed."""

    name: str
    data: bytes
    crc: int
    inflated: int
    method: int
    external: int
    when: tuple[int, int]
    """Time and date as zip stores them."""

    @property
    def flags(self) -> int:
        return 0 if self.name.isascii() else _UTF8_NAME


def _entries(data: bytes) -> Iterator[_Entry]:
    """Read the central directory and cut each file's bytes out, without inflating any.

    Extra fields and comments are not looked for: ansible-core writes none, and rebuilding would show them.
    """
    _, _, _, count, _, _, at, _ = _END.unpack(data[-_END.size :])
    for _ in range(count):
        fields = _CENTRAL.unpack_from(data, at)
        method, clock, day, crc, compressed, inflated, name_size = fields[4:11]
        external, local = fields[15:]
        at += _CENTRAL.size
        name = data[at : at + name_size].decode("utf-8")
        at += name_size
        start = local + _LOCAL.size + name_size
        _require(compressed <= BLOB_MAX and inflated <= BLOB_MAX and method in (0, 8))
        yield _Entry(name, data[start : start + compressed], crc, inflated, method, external, (clock, day))


def _rebuild(entries: Sequence[_Entry]) -> bytes:
    """Write a zip as Python's zipfile does; bootstrap/agent.py has the same in its own subset."""
    body, directory, at = [], [], 0
    for entry in entries:
        name = entry.name.encode()
        clock, day = entry.when
        common = (entry.method, clock, day, entry.crc, len(entry.data), entry.inflated, len(name), 0)
        body += [_LOCAL.pack(b"PK\3\4", 20, entry.flags, *common), name, entry.data]
        directory += [
            _CENTRAL.pack(b"PK\1\2", _UNIX_20, 20, entry.flags, *common, 0, 0, 0, entry.external, at),
            name,
        ]
        at += _LOCAL.size + len(name) + len(entry.data)
    listing = b"".join(directory)
    end = _END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), len(listing), at, 0)
    return b"".join([*body, listing, end])


def _unpack_date(when: tuple[int, int]) -> Date:
    clock, day = when
    return (day >> 9) + 1980, day >> 5 & 15, day & 31, clock >> 11, clock >> 5 & 63, (clock & 31) * 2
