# SPDX-License-Identifier: BSD-3-Clause
"""Find the user's mux, or start it.

There is one mux for each user, boot, PID namespace and build of Fatline. It listens on a socket in a private
directory; whoever needs it connects, and only where nobody answers takes a lock, *connects again* (another
process may have won meanwhile) and starts it. The listening socket exists before the mux does, so the first
client is connected at once and its HELLO waits until the mux is there to read it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import secrets
import select
import signal
import socket
import stat
import struct
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from fatline import _native, forks
from fatline.errors import MuxError

_own_directory: Path | None = None

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 10
"""How long a mux without clients waits for the next one; agents that persist keep it longer."""

# One that ends of old age just as we connect is possible; several in a row are broken.
_ATTEMPTS = 5
_BACKLOG = 1024
_SOCKET_PATH_MAX = 107
_WORDS_MAX = 4000
_LOCK_POLL_SECONDS = 0.005
_LAST_WORDS_SECONDS = 1.0

# What the mux's interpreter may need to load at all; everything else, secrets included, is not its business.
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS")


def runtime_directory() -> Path:
    """The private directory of the mux's socket and ssh's control sockets, made if it is not there.

    MuxError if it cannot be trusted: the socket gives whoever holds it our ssh connections.
    """
    return Path(_directory())


# From here on to the connected socket without pathlib: a forked worker pays for every page of memory that it
# is the first to touch, and that is most of what connecting costs it.


def _directory() -> str:
    directory = _choose_directory()
    try:
        status = _lstat_made(directory)
    except OSError as error:
        raise MuxError(f"cannot make the runtime directory {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise MuxError(f"{directory} is not a directory (a link is not followed); set FATLINE_RUNTIME_DIR")
    if status.st_uid != os.geteuid():
        raise MuxError(f"{directory} belongs to another user (uid {status.st_uid}); set FATLINE_RUNTIME_DIR")
    if status.st_mode & 0o077:
        raise MuxError(f"{directory} is open to other users; chmod 0700 it or set FATLINE_RUNTIME_DIR")
    return directory


def use_directory(directory: Path) -> None:
    """Have this process and its forks use a mux of their own, in a directory that ends with them."""
    global _own_directory
    _own_directory = directory


def has_own_directory() -> bool:
    """Say whether the mux is this process's and its forks' alone."""
    return _own_directory is not None


def _lstat_made(directory: str) -> os.stat_result:
    """The status of a directory, which is made if it is not there."""
    try:
        return os.lstat(directory)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        return os.lstat(directory)


def _choose_directory() -> str:
    """Systems fact 33: not below HOME, which may be on NFS or shared with a container."""
    if _own_directory is not None:
        return str(_own_directory)
    chosen = os.environ.get("FATLINE_RUNTIME_DIR")
    if chosen:
        return _absolute(chosen)
    session = os.environ.get("XDG_RUNTIME_DIR")
    # sudo -E keeps the variable of another user, who could then move our directory away.
    if session and _belongs_to_us(session):
        return _absolute(session) + "/fatline"
    return f"/tmp/fatline-{os.geteuid()}"


def _absolute(path: str) -> str:
    return path if path.startswith("/") else str(Path(path).absolute())


def _belongs_to_us(directory: str) -> bool:
    try:
        return os.stat(directory).st_uid == os.geteuid()
    except OSError:
        return False


def socket_path() -> Path:
    """Where this build's mux listens, whether or not it runs."""
    return Path(_socket_name())


def _socket_name() -> str:
    return f"{_directory()}/mux-{_identity(os.geteuid())}"


@functools.cache
def _build_id() -> str:
    """Tells builds apart: client and mux of one run must be the same code."""
    extension = Path(_extension_path())
    status = extension.stat()
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} {extension}".encode()).hexdigest()


def _extension_path() -> str:
    path = _native.__file__
    if not path:
        raise MuxError("the extension was not loaded from a file, so no mux can be started from it")
    return os.path.abspath(path)


@functools.cache
def _identity(uid: int) -> str:
    """Names what may share a mux (systems fact 33). The same in every fork of this process."""
    parts = (
        _read_text("/proc/sys/kernel/random/boot_id"),
        _pid_namespace(),
        str(uid),
        str(_native.PROTOCOL_VERSION),
        _build_id(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def connect(timeout: float = CONNECT_SECONDS, *, idle_seconds: int = IDLE_SECONDS) -> _native.Client:
    """Connect to the mux, starting it if there is none; HELLO is done. MuxError if that cannot be."""
    deadline = time.monotonic() + timeout
    path = _socket_name()
    for _ in range(_ATTEMPTS):
        client = _try_connect(path, deadline) or _start_and_connect(Path(path), deadline, idle_seconds)
        if client is not None:
            return client
    raise MuxError(f"{_ATTEMPTS} times in a row the mux on {path} ended before it answered")


def find(timeout: float = CONNECT_SECONDS) -> _native.Client | None:
    """Connect to the mux if one runs; never starts one."""
    return _try_connect(_socket_name(), time.monotonic() + timeout)


class Starting:
    """A mux on its way: whoever connects is served once it is there. It is to be waited for, or polled."""

    def __init__(self, pid: int, pidfd: int, words_fd: int) -> None:
        """Take over the process, and the pipe on which it says what went wrong."""
        self._pid = pid
        self._pidfd = pidfd
        self._words_fd = words_fd

    def words(self, deadline: float) -> str:
        """Wait until it serves or has ended; return what it said, which is nothing if it serves.

        :raises MuxError: it has done neither by then.
        """
        try:
            return _read_words(self._words_fd, deadline)
        except BaseException:
            # It is unreaped and leads its own group, so this reaches it and what it forked, and nobody else.
            os.killpg(self._pid, signal.SIGKILL)
            raise
        finally:
            forks.close(self._words_fd)
            _reap(self._pid, self._pidfd)

    def poll(self) -> bool:
        """Say whether it serves or has ended, without waiting; then nothing of it is left here."""
        poller = select.poll()
        # Its end, not its words: a loader that complains is no mux that serves.
        poller.register(self._words_fd, 0)
        if not poller.poll(0):
            return False
        with contextlib.suppress(MuxError):
            self.words(time.monotonic() + _LAST_WORDS_SECONDS)
        return True


def start(timeout: float = CONNECT_SECONDS, *, idle_seconds: int = IDLE_SECONDS) -> Starting | None:
    """Start the mux without waiting until it serves; None if there is one. MuxError if that cannot be."""
    deadline = time.monotonic() + timeout
    path = Path(_socket_name())
    with _locked(path.with_name(path.name + ".lock"), deadline):
        found = _connect_socket(str(path), deadline)
        if found is None:
            return _start(path, idle_seconds)
    forks.close(found)
    return None


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _try_connect(path: str, deadline: float) -> _native.Client | None:
    """None if nobody listens, or the mux was just ending; MuxError if there is one that does not answer."""
    fd = _connect_socket(path, deadline)
    if fd is None:
        return None
    client = _native.Client(fd)
    _clients.add(client)
    forks.release(fd)
    try:
        client.hello(_left(deadline))
    except _native.Closed:
        client.close()
        return None
    except _native.Timeout as error:
        client.close()
        raise MuxError(f"the mux on {path} does not answer; `fatline mux stop` or kill it") from error
    except _native.Error as error:
        client.close()
        raise MuxError(f"the mux on {path} does not understand us: {error}") from error
    except BaseException:
        client.close()
        raise
    return client


def _connect_socket(path: str, deadline: float) -> int | None:
    fd = forks.unix_socket()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    try:
        # A full backlog makes a blocking connect wait, up to this; a non-blocking one would fail at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_left(deadline)))
        with _short_name(path) as name:
            sock.connect(name)
        _check_peer(sock, path)
    except (FileNotFoundError, ConnectionRefusedError):
        forks.close(fd)
        return None
    except OSError as error:
        forks.close(fd)
        if error.errno == errno.EAGAIN:
            raise MuxError(f"the mux on {path} accepts nobody; `fatline mux stop` or kill it") from error
        raise MuxError(f"cannot connect to the mux on {path}: {error.strerror}") from error
    except BaseException:
        forks.close(fd)
        raise
    finally:
        sock.detach()
    return fd


def _timeval(seconds: float) -> bytes:
    """A struct timeval that is never zero, which would mean no limit."""
    microseconds = max(1, int(seconds * 1_000_000))
    return struct.pack("@ll", microseconds // 1_000_000, microseconds % 1_000_000)


def _check_peer(sock: socket.socket, path: str) -> None:
    """Rule 7. The mux checks us in the same way."""
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid != os.geteuid():
        raise MuxError(f"the process that listens on {path} belongs to another user (uid {uid})")


@contextlib.contextmanager
def _short_name(path: str) -> Iterator[str]:
    """A name of `path` that fits into a socket address (systems fact 33)."""
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        yield path
        return
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


def _start_and_connect(path: Path, deadline: float, idle_seconds: int) -> _native.Client | None:
    """Start the mux, unless another process did so while we waited for the lock."""
    with _locked(path.with_name(path.name + ".lock"), deadline):
        client = _try_connect(str(path), deadline)
        if client is not None:
            return client
        words = _start(path, idle_seconds).words(deadline)
        client = _try_connect(str(path), deadline)
        if client is None and words:
            raise MuxError(f"the mux ended as it started: {words}")
        return client


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold a lock that ends with its holder, however that ends."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MuxError(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        while not _try_lock(fd):
            if _left(deadline) == 0:
                raise MuxError(f"another process holds {path} and does not get the mux started")
            time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(path: Path, idle_seconds: int) -> Starting:
    """Start the mux on a new socket at `path`."""
    listener = _listen(path)
    try:
        return _launch(listener, path, idle_seconds)
    except OSError as error:
        raise MuxError(f"cannot start the mux with {sys.executable!r}: {error.strerror}") from error
    finally:
        forks.close(listener)


def _listen(path: Path) -> int:
    """Listen under a temporary name and move it into place, so that nobody finds a socket not yet ready.

    The rename replaces what a killed mux left. It is safe because the caller holds the lock and has just seen
    that nobody listens there.
    """
    fd = forks.unix_socket()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with _short_name(str(temporary)) as name:
            listener.bind(name)
        # Not by umask, which every thread of this process would feel; the directory is closed to others.
        temporary.chmod(0o600)
        listener.listen(_BACKLOG)
        temporary.rename(path)
    except OSError as error:
        forks.close(fd)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise MuxError(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        listener.detach()
    return fd


def _launch(listen_fd: int, path: Path, idle_seconds: int) -> Starting:
    """Run the mux's interpreter, in a session of its own."""
    if not sys.executable:
        raise MuxError("this Python does not know its own path, so it cannot start the mux")
    script = str(Path(__file__).with_name("mux_process.py").absolute())
    settings = (_extension_path(), str(path), str(listen_fd), str(idle_seconds))
    environment = [f"{name}={os.environ[name]}" for name in _KEPT_ENVIRONMENT if name in os.environ]
    read_fd, write_fd = forks.pipe()
    try:
        with forks.prevented():
            pid, pidfd = _native.spawn(
                [sys.executable, "-I", "-S", script, *settings],
                env=[os.fsencode(setting) for setting in environment],
                stderr_fd=write_fd,
                pass_fds=[listen_fd],
                new_session=True,
                nofile=-1,
            )
    except BaseException:
        forks.close(read_fd)
        raise
    finally:
        forks.close(write_fd)
    return Starting(pid, pidfd, read_fd)


def _read_words(fd: int, deadline: float) -> str:
    """The last line before the end of the pipe, which the mux closes when it begins to serve."""
    words = b""
    os.set_blocking(fd, False)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(_left(deadline) * 1000):
        chunk = os.read(fd, _WORDS_MAX)
        if not chunk:
            return words.decode(errors="replace").strip().rpartition("\n")[2]
        words = (words + chunk)[-_WORDS_MAX:]
    raise MuxError("the mux did not start in time")


def _reap(pid: int, pidfd: int) -> None:
    """Wait for the interpreter's first process, which has forked the mux and ends at once."""
    if pidfd >= 0:
        os.close(pidfd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


# A forked child gives back its copies of these: it must not speak on its parent's connections, nor keep the
# mux from seeing that the parent is gone.
_clients: weakref.WeakSet[_native.Client] = weakref.WeakSet()


def _close_inherited() -> None:
    for client in list(_clients):
        client.close()
    _clients.clear()


os.register_at_fork(after_in_child=_close_inherited)
