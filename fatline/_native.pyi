# SPDX-License-Identifier: BSD-3-Clause
"""Types of the extension module; its sources are in ``csrc/ext``."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from typing_extensions import Buffer

VERSION: Final[str]
BUILD: Final[str]
LIBYAML: Final[str]
PAYLOAD_MAX: Final[int]
CHUNK_SIZE: Final[int]
PROTOCOL_VERSION: Final[int]
HANDLES: Final[dict[str, int]]
KINDS: Final[dict[str, int]]
FLAGS: Final[dict[str, int]]
REFUSALS: Final[dict[str, int]]
DEATHS: Final[dict[str, int]]
ATTACH_STATES: Final[dict[str, int]]

class Error(Exception):
    code: int
    sent: bool

class Timeout(Error, TimeoutError): ...
class Closed(Error): ...
class ProtocolError(Error): ...

class YamlError(ValueError):
    line: int
    column: int

class Message:
    src_id: Final[int]
    handle: Final[int]
    reply_to: Final[int]
    stream: Final[int]
    flags: Final[int]
    payload: Final[bytes]

class Client:
    def __init__(self, fd: int) -> None: ...
    @property
    def context_id(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def broken(self) -> bool: ...
    def fileno(self) -> int: ...
    def hello(self, timeout: float = ...) -> int: ...
    def handle(self, number: int = ..., /) -> int: ...
    def release(self, handle: int, /) -> None: ...
    def send(
        self,
        dst_id: int,
        handle: int,
        payload: Buffer | Sequence[Buffer] = ...,
        *,
        reply_to: int = ...,
        stream: int = ...,
        flags: int = ...,
        fds: Sequence[int] = ...,
        more: bool = ...,
        timeout: float | None = ...,
    ) -> None: ...
    def recv(self, handle: int, timeout: float | None) -> Message: ...
    def close(self) -> None: ...

def serve(listen_fd: int, socket_path: str, idle_seconds: int, /) -> None: ...
def spawn(
    argv: Sequence[str | bytes],
    env: Sequence[bytes] | None = ...,
    stdin_fd: int = ...,
    stdout_fd: int = ...,
    stderr_fd: int = ...,
    pass_fds: Sequence[int] = ...,
    cwd: str | bytes | None = ...,
    new_session: bool = ...,
    *,
    nofile: int = ...,
) -> tuple[int, int]: ...

class YamlLoader:
    def __init__(
        self,
        types: tuple[type[str], type[int] | None, type[float] | None, type[list[Any]], type[dict[Any, Any]]],
        *,
        attributes: tuple[str, str, str] | None = ...,
        tags: tuple[str, type[dict[Any, Any]], type, tuple[str, ...], str, str] | None = ...,
    ) -> None: ...
    def load(
        self,
        data: str | bytes,
        source: object,
        other: Callable[[str, str, int, int], object],
        /,
        *,
        first_line: int = ...,
        extra_tags: tuple[object, ...] = ...,
        max_bytes: int = ...,
        max_nodes: int = ...,
        max_depth: int = ...,
    ) -> tuple[Any, list[tuple[Any, Any]]]: ...
