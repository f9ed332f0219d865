# SPDX-License-Identifier: BSD-3-Clause
"""What makes two connections the same connection, and two agents the same agent.

The stock plugin keys its ControlPath on host, port and user. An agent outlives more than one run, so its
key takes in everything that decides who is reached, as whom and with what: ssh's arguments, its
configuration files, the user's ssh-agent, the environment ssh would send (systems fact 13). What changes
from run to run without changing the connection stays out (ansible fact 18).
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fatline import mux
from fatline.errors import FatlineError

_SENT_BY_DEFAULT = ("LANG", "LC_")
_CONFIGURATION = ("~/.ssh/config", "/etc/ssh/ssh_config")
_CONFIGURATION_FIELDS = ("st_mtime_ns", "st_size", "st_ino")


def connection_key(
    arguments: Sequence[bytes],
    host: str,
    *,
    environ: Mapping[str, str],
    password: str | None = None,
    secret: bytes = b"",
    scratch: str | None = None,
) -> bytes:
    """Name the connection that these ssh arguments make.

    :param arguments: ssh's own arguments, executable first, without host and remote command.
    :param password: the password in use, if any; only a keyed hash of it enters, with `secret`.
    :param scratch: a directory of this run alone; paths below it are left out.
    """
    parts = list(_parts(arguments, host, environ, scratch))
    if password is not None:
        parts.append(hmac.digest(secret, os.fsencode(password), "sha256"))
    return digest(parts)


def digest(parts: Iterable[bytes]) -> bytes:
    """Make a key of parts, none of which can take another's place."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(4, "big"))
        whole.update(part)
    return whole.digest()


def agent_key(connection: bytes, interpreter: str) -> bytes:
    """Name the agent of one interpreter on a connection.

    The path counts as it is spelled: a virtual environment's python is a symbolic link with another
    prefix (systems fact 15).
    """
    return hashlib.sha256(connection + os.fsencode(interpreter)).digest()


def control_path(connection: bytes) -> str | None:
    """Return the path of this connection's ssh master, or None if there is no safe directory for it.

    Every build has a mux of its own, and so masters of its own: when a mux ends, the ssh processes of its
    agents end too, whoever rides them.
    """
    try:
        directory = mux.runtime_directory()
        name = hashlib.sha256(connection + _mux_name()).hexdigest()
    except (FatlineError, OSError):
        return None
    return str(directory / f"cp-{name[:16]}")


@functools.cache
def _mux_name() -> bytes:
    return os.fsencode(mux.socket_path().name)


@functools.cache
def secret() -> bytes:
    """Return this user's key for hashes of passwords: made once, kept beside the mux's socket."""
    path = mux.runtime_directory() / "key"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    fresh = path.with_name(f"key.{secrets.token_hex(8)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
    try:
        # The first of several processes wins, and all of them read what it wrote.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    return path.read_bytes()


def stable_arguments(arguments: Sequence[bytes], scratch: str | None = None) -> list[bytes]:
    """Return ssh's arguments without those that differ between runs over the same connection."""
    below = os.fsencode(scratch) if scratch else None
    kept: list[bytes] = []
    iterator = iter(arguments)
    for argument in iterator:
        if argument == b"-o":
            value = next(iterator, b"")
            if not _is_volatile(value, below):
                kept += [argument, value]
        elif not _is_verbosity(argument):
            kept.append(argument)
    return kept


class _Settings(NamedTuple):
    """What ssh's arguments say, whatever else is the case."""

    stable: Sequence[bytes]
    sent: Sequence[str]
    """Patterns of the variables that it may send, besides the usual ones."""
    files: Sequence[str]
    """Its configuration files."""


@functools.lru_cache(256)
def _settings(arguments: tuple[bytes, ...], scratch: str | None) -> _Settings:
    """Read arguments, which are the same for every command of a host."""
    return _Settings(
        stable_arguments(arguments, scratch),
        list(_send_env_patterns(arguments)),
        _configuration_files(arguments),
    )


def _parts(
    arguments: Sequence[bytes], host: str, environ: Mapping[str, str], scratch: str | None
) -> Iterator[bytes]:
    settings = _settings(tuple(arguments), scratch)
    yield from settings.stable
    yield os.fsencode(host)
    for name in _sent_environment(settings.sent, environ):
        yield os.fsencode(f"{name}={environ[name]}")
    for name in ("HOME", "KRB5CCNAME"):
        yield os.fsencode(environ.get(name, ""))
    # Its time as well: the number of a socket that is gone is soon given to another.
    yield _identity(environ.get("SSH_AUTH_SOCK", ""), ("st_dev", "st_ino", "st_ctime_ns"))
    for path in settings.files:
        yield _identity(os.path.expanduser(path), _CONFIGURATION_FIELDS)


def _sent_environment(patterns: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that ssh may send."""
    return sorted(
        name
        for name in environ
        if name.startswith(_SENT_BY_DEFAULT) or any(fnmatch.fnmatchcase(name, p) for p in patterns)
    )


def _configuration_files(arguments: Sequence[bytes]) -> Sequence[str]:
    """Return the files that ssh reads: the usual two, or the one that ``-F`` names instead."""
    for index, argument in enumerate(arguments):
        if argument.startswith(b"-F"):
            following = arguments[index + 1] if index + 1 < len(arguments) else b""
            return (os.fsdecode(argument[2:] or following),)
    return _CONFIGURATION


def _identity(path: str, fields: Iterable[str]) -> bytes:
    """Say which file a path leads to just now; a missing file has an identity too."""
    if not path:
        return b"-"
    try:
        status = os.stat(path)
    except OSError:
        return b"-"
    return ",".join(str(getattr(status, field)) for field in fields).encode()


def _is_verbosity(argument: bytes) -> bool:
    return argument.startswith(b"-v") and not argument.strip(b"-v")


def _is_volatile(option: bytes, scratch: bytes | None) -> bool:
    name = option.replace(b"=", b" ").split(None, 1)[0].lower() if option.strip() else b""
    if name in (b"connecttimeout", b"controlpath", b"loglevel", b"numberofpasswordprompts"):
        return True
    return name == b"identityfile" and scratch is not None and scratch in option


def _send_env_patterns(arguments: Sequence[bytes]) -> Iterator[str]:
    for option in arguments:
        words = option.removeprefix(b"-o").lstrip()
        if words[:7].lower() == b"sendenv":
            yield from os.fsdecode(words[7:]).replace("=", " ", 1).split()
