# SPDX-License-Identifier: GPL-3.0-or-later
"""What the files of ``module_utils`` import, remembered from one payload to the next.

To build a payload core compiles each of the fifty or so files that go into it, only to see what they import;
that is most of the 0.2 s that every further module of a run costs, and lost with each worker. What core's own
finder said of a file is kept here under the digest of that file, so nothing can be stale, and anything that
is not known is asked from core's finder. The module itself is always compiled: core reads more in it.

The memory is one file in the runtime directory, which is private to the user and lives until the next boot.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import sys
import tempfile
from builtins import compile as compile_source
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
from ansible.executor import module_common

from fatline.errors import MuxError
from fatline.mux import runtime_directory

Names = frozenset[tuple[str, ...]]
Key = tuple[bytes, str, bool]
"""SHA-256 of a file's source, the name it is imported by, whether it is a package."""
Found = tuple[Names, Names]
"""What it imports of ``module_utils``; and which of that only where it is there."""

FILE_MAX = 4 * 1024 * 1024
_ENTRIES_MAX = 8192

# The finder takes what compile() made of the source up to 2.20, and the source itself later on.
_FORMS = (
    ["self", "module_fqn", "tree", "is_pkg_init", "args", "kwargs"],
    ["self", "module_fqn", "module_data", "is_pkg_init", "args", "kwargs"],
)


class Memory:
    """The findings that are known, and the file that keeps them."""

    def __init__(self, path: Path | None) -> None:
        """Know nothing yet; without a path nothing is kept beyond this process."""
        self._path = path
        self._found: dict[Key, Found] = {}
        self._digests: set[bytes] = set()
        self._seen: tuple[int, int] | None = None
        self._unsaved = False

    def knows(self, digest: bytes) -> bool:
        """Say whether a file of this digest has been looked at, whatever its name was."""
        return digest in self._digests

    def get(self, key: Key) -> Found | None:
        """Return what a file imports, if it is known."""
        return self._found.get(key)

    def add(self, key: Key, found: Found) -> None:
        """Remember what a file imports."""
        self._found[key] = found
        self._digests.add(key[0])
        self._unsaved = True

    def refresh(self) -> None:
        """Take up what other processes have saved since."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            status = self._path.stat()
            if self._seen == (status.st_mtime_ns, status.st_ino) or status.st_size > FILE_MAX:
                return
            self._seen = status.st_mtime_ns, status.st_ino
            for key, found in _unpack(self._path.read_bytes()):
                self._found[key] = found
                self._digests.add(key[0])

    def save(self) -> None:
        """Write the file anew if there is something new; what another process saves meanwhile may be lost."""
        if not self._unsaved or self._path is None:
            return
        self._unsaved = False
        self.refresh()
        if len(self._found) > _ENTRIES_MAX:
            return
        data = _pack(self._found)
        if len(data) <= FILE_MAX:
            with contextlib.suppress(OSError):
                _replace(self._path, data)


@functools.cache
def install() -> Memory:
    """Let core's payload builder ask the memory first; it is not asked where core is not as we know it."""
    memory = Memory(_memory_path())
    finder = module_common.ModuleDepFinder
    parameters = list(inspect.signature(finder.__init__).parameters)
    if parameters not in _FORMS:
        return memory
    if parameters == _FORMS[0]:
        module_common.compile = functools.partial(_compile, memory)
    finder.__init__ = _remembering(memory, finder.__init__)
    module_common.recursive_finder = _saving(memory, module_common.recursive_finder)
    return memory


def _saving(memory: Memory, recursive_finder: Any) -> Any:
    @functools.wraps(recursive_finder)
    def find_all(*args: Any, **kwargs: Any) -> Any:
        memory.refresh()
        try:
            return recursive_finder(*args, **kwargs)
        finally:
            memory.save()

    return find_all


class _Source:
    """Stands for the syntax tree of a known file, and becomes one if somebody looks at it after all."""

    def __init__(self, source: bytes | str, filename: str, flags: int) -> None:
        self.source = source
        self._filename = filename
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tree, name)

    @functools.cached_property
    def tree(self) -> Any:
        """The tree that compile() makes."""
        return compile_source(self.source, self._filename, "exec", self._flags)


def _compile(memory: Memory, source: bytes | str, filename: str, mode: str, flags: int = 0) -> Any:
    """Stand in for compile() in the payload builder, which calls it in this one way."""
    if memory.knows(_digest(source)):
        return _Source(source, filename, flags)
    tree: Any = compile_source(source, filename, mode, flags)
    # The finder is given the tree alone.
    tree.fatline_source = source
    return tree


def _remembering(memory: Memory, find: Any) -> Any:
    """Wrap ModuleDepFinder.__init__(), which finds; core uses nothing of the object but what it found.

    For a file of ``module_utils``, and for no other, core also says whether it is a package.
    """

    @functools.wraps(find)
    def remember(self: Any, module_fqn: str, given: Any, *args: Any, **kwargs: Any) -> None:
        source = given.source if isinstance(given, _Source) else getattr(given, "fatline_source", given)
        is_package = kwargs.get("is_pkg_init", args[0] if args else None)
        if not isinstance(is_package, bool) or not isinstance(source, (bytes, str)):
            find(self, module_fqn, given, *args, **kwargs)
            return
        key = _digest(source), module_fqn, is_package
        known = memory.get(key)
        if known is not None:
            self.submodules, self.optional_imports, self.embeds = set(known[0]), set(known[1]), set()
            return
        find(self, module_fqn, given.tree if isinstance(given, _Source) else given, *args, **kwargs)
        if not getattr(self, "embeds", None):
            memory.add(key, (frozenset(self.submodules), frozenset(self.optional_imports)))

    return remember


def _digest(source: bytes | str) -> bytes:
    data = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    return hashlib.sha256(data).digest()


def _memory_path() -> Path | None:
    """Name the file by all that decides what a finding is, besides the source: core's code and Python's."""
    try:
        code = Path(module_common.__file__).read_bytes()
        digest = hashlib.sha256(sys.version.encode() + b"\0" + code).hexdigest()[:16]
        return runtime_directory() / f"imports-{digest}"
    except (OSError, MuxError):
        return None


def _pack(found: dict[Key, Found]) -> bytes:
    rows = [(*key, sorted(imports), sorted(optional)) for key, (imports, optional) in found.items()]
    packed: bytes = msgpack.packb(rows)
    return packed


def _unpack(data: bytes) -> Iterator[tuple[Key, Found]]:
    """Yield what a file holds; the rest is passed over where it is not what _pack() writes."""
    with contextlib.suppress(ValueError, TypeError):
        for digest, name, is_package, imports, optional in msgpack.unpackb(data):
            yield (bytes(digest), str(name), bool(is_package)), (_names(imports), _names(optional))


def _names(rows: Any) -> Names:
    return frozenset(tuple(str(part) for part in row) for row in rows)


def _replace(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
