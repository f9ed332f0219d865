# SPDX-License-Identifier: BSD-3-Clause
"""Start an agent: spawn ssh (or a local shell), wait for READY, send the source, hand the wire to the mux.

Nothing is sent before READY, because shells, sudo and password prompts would eat it; what was printed
before it is noise, kept for the error message of a boot that fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from fatline import _native, bootstrap, forks
from fatline.client import Client
from fatline.errors import BootError

# What is kept of a noisy login; a boot is not failed by noise, only by silence.
NOISE_MAX = 1024 * 1024
READ_BYTES = 64 * 1024

# Rule 4: of a READY line, after its mark. It holds one hexadecimal number.
READY_MAX = 256

# A program whose output has ended, or that was told to end, gets this long to be gone.
END_SECONDS = 2.0

PROBE_SECONDS = 10.0

NO_INTERPRETER = b"NOPY"
NO_INTERPRETER_RC = 127
SSH_FAILED_RC = 255

STAGE_START = "start"
"""The program could not be executed at all."""
STAGE_CONNECT = "connect"
"""ssh itself gave up: name, network, host key, authentication."""
STAGE_INTERPRETER = "interpreter"
"""The target has none of the interpreters asked for."""
STAGE_READY = "ready"
"""The login worked, or may have, but the stage's READY did not come."""
STAGE_SOURCE = "source"
"""READY came, and the agent's source could not be sent."""

OnStderr = Callable[[bytes], None]


@dataclasses.dataclass
class Wire:
    """A started program and this side's ends of its standard streams (-1: none).

    stdin and stdout are one socket, so `stdin_fd` and `stdout_fd` are the same number.
    """

    pid: int
    pidfd: int
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int

    def close(self) -> None:
        """Close this side's descriptors; the program sees the end of its input."""
        for fd in {self.stdin_fd, self.stdout_fd, self.stderr_fd, self.pidfd} - {-1}:
            forks.close(fd)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = self.pidfd = -1

    def end(self) -> int | None:
        """Close, then see the program off: SIGTERM, and SIGKILL if it stays. Its exit status, if known."""
        self.close()
        for signum in (signal.SIGTERM, signal.SIGKILL):
            # Only a child that was not waited for yet, by any thread, surely still has its number.
            with forks.prevented():
                if self.pid not in _children:
                    return None
                with contextlib.suppress(PermissionError):
                    # sudo on this machine is somebody else's; it ends with its input.
                    os.kill(self.pid, signum)
            status = reap(self.pid, END_SECONDS)
            if status is not None:
                return status
        return None


class Gate(Protocol):
    """What must open before the agent's source may be sent: a password prompt, a success mark.

    Its exceptions end the boot and are passed on.
    """

    is_open: bool
    quiet_seconds: float
    """How long the program may say nothing while the gate is shut."""

    def enter(self, wire: Wire) -> bytes:
        """See the program as soon as it runs; return what was read of its stdout on the way."""

    def take(self, source: str, data: bytes, wire: Wire) -> None:
        """See what the program says on `source` (stdout or stderr); answer on the wire."""

    def silent(self) -> None:
        """Raise: nothing was said for `quiet_seconds`."""


@dataclasses.dataclass(frozen=True)
class Launcher:
    """One boot's command line for the target, the word its READY will carry, and what is sent then."""

    command: str
    nonce: str
    source: bytes = dataclasses.field(repr=False)


class Ready(NamedTuple):
    """A stage that waits no longer: its source is on the way."""

    hexversion: int
    """`sys.hexversion` of the interpreter that was found."""
    noise: bytes
    """What start-up files printed before READY."""
    seconds: float
    """From the call of `handshake` to READY."""


class Booted(NamedTuple):
    """An agent that the mux holds now."""

    context_id: int
    pid: int
    """The program that is its wire, still a child of this process (see `reap`)."""
    ready: Ready


def launcher(interpreters: Sequence[str], addition: bootstrap.Addition = "") -> Launcher:
    """A launcher that runs the first of `interpreters` the target has. ValueError for an unusable name.

    `addition` is what the agent can do besides commands, modules and files.
    """
    nonce = secrets.token_hex(8)
    source = bootstrap.agent_source(addition)
    line = bootstrap.launcher(interpreters, nonce, len(source), privileged=addition == "privileged")
    return Launcher(line, nonce, source)


def spawn(
    argv: Sequence[str | bytes],
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: str | None = None,
    new_session: bool = False,
) -> Wire:
    """Start a program with one socket as its stdin and stdout, and a pipe as its stderr.

    `pass_fds` keep their numbers in the program (sshpass reads its password from one). OSError if the program
    cannot be executed.
    """
    _reap_ended()
    near, far = forks.socketpair()
    stderr_read, stderr_write = forks.pipe()
    try:
        with forks.prevented():
            pid, pidfd = _native.spawn(
                argv,
                env=None if env is None else [os.fsencode(f"{name}={value}") for name, value in env.items()],
                stdin_fd=far,
                stdout_fd=far,
                stderr_fd=stderr_write,
                pass_fds=tuple(pass_fds),
                cwd=cwd,
                new_session=new_session,
            )
            forks.own(pidfd)
    except BaseException:
        forks.close(near)
        forks.close(stderr_read)
        raise
    finally:
        forks.close(far)
        forks.close(stderr_write)
    os.set_blocking(near, False)
    os.set_blocking(stderr_read, False)
    _children.add(pid)
    return Wire(pid, pidfd, near, near, stderr_read)


def handshake(
    wire: Wire,
    launched: Launcher,
    deadline: float,
    on_stderr: OnStderr | None = None,
    *,
    label: str = "the target",
    gate: Gate | None = None,
) -> Ready:
    """Wait for READY until `deadline` (of `time.monotonic`), then send the agent's source.

    `on_stderr` is given what the program says meanwhile, as it comes; nothing is sent while `gate` is shut.
    On any failure the program is ended, `wire` is closed, and BootError tells what the program printed and
    how it ended.
    """
    watch = _Handshake(wire, launched, deadline, on_stderr, label, gate)
    try:
        ready = watch.wait_ready()
        watch.send_source()
        return ready
    except BaseException:
        wire.end()
        raise


def start_agent(
    client: Client,
    key: bytes,
    argv: Sequence[str | bytes],
    launched: Launcher,
    *,
    label: str,
    deadline: float,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: str | None = None,
    new_session: bool = False,
    alias: bytes | None = None,
    bound: bool = False,
    persist: int = 0,
    owner_pidfd: int = -1,
    on_stderr: OnStderr | None = None,
    gate: Gate | None = None,
) -> Booted:
    """Boot the agent that a lease on `key` was given for, and hand it to the mux.

    `argv` already ends with the launcher's command. Success ends the lease. After a failure (BootError, or
    MuxError when it is the mux that failed) the caller still holds it: to try again, or to abandon it.
    """
    try:
        wire = spawn(argv, env, pass_fds, cwd, new_session)
    except OSError as error:
        reason = f"cannot execute {os.fsdecode(argv[0])}: {error.strerror}"
        raise BootError(label, STAGE_START, 0.0, reason=reason) from error
    ready = handshake(wire, launched, deadline, on_stderr, label=label, gate=gate)
    try:
        context_id = client.open(
            key, wire, label=label, alias=alias, bound=bound, persist=persist, owner_pidfd=owner_pidfd
        )
    except BaseException:
        wire.end()
        raise
    wire.close()
    return Booted(context_id, wire.pid, ready)


@functools.cache
def wire_options(ssh: str = "ssh") -> tuple[str, ...]:
    """Options to put in front of an ssh command line, against a user's settings that would break a wire.

    First option wins in ssh. RequestTTY=force would rewrite line ends, StdinNull would give no input and
    RemoteCommand no launcher; each is overridden only where this ssh knows it (systems fact 12), and
    StdinNull is the younger.
    """
    both = ("-o", "RemoteCommand=none", "-o", "StdinNull=no")
    for options in (both, both[:2]):
        if _knows(ssh, options):
            return "-T", *options
    return ("-T",)


def reap(pid: int, timeout: float) -> int | None:
    """Wait for a program of this process to end; its exit status, or None if that is not known in time."""
    for _ in _attempts(timeout):
        with forks.prevented():
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                _children.discard(pid)
                return None
            if ended:
                _children.discard(pid)
                return os.waitstatus_to_exitcode(status)
    return None


def _knows(ssh: str, options: Sequence[str]) -> bool:
    argv = [ssh, "-F", "none", *options, "-G", "localhost"]
    try:
        probe = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        # Starting it in earnest will tell what is wrong with it.
        return False
    return probe.returncode == 0


class _Handshake:
    """The client's side of one boot."""

    def __init__(
        self,
        wire: Wire,
        launched: Launcher,
        deadline: float,
        on_stderr: OnStderr | None,
        label: str,
        gate: Gate | None,
    ) -> None:
        self._gate = gate
        self._wire = wire
        self._source = launched.source
        self._mark = f"FATLINE-READY {launched.nonce} ".encode()
        self._begun = time.monotonic()
        self._deadline = deadline
        self._on_stderr = on_stderr
        self._label = label
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._scanned = 0
        self._stderr_ended = False

    def wait_ready(self) -> Ready:
        """Read until the READY line has come."""
        if self._gate is not None:
            self._stdout += self._gate.enter(self._wire)
            found = self._find_ready()
            if found is not None:
                return found
        for ready in self._readable(STAGE_READY):
            if self._wire.stderr_fd in ready:
                self._take_stderr()
            if self._wire.stdout_fd in ready and not self._take_stdout():
                raise self._ended()
            found = self._find_ready()
            if found is not None:
                return found
        raise AssertionError("unreachable: the loop ends by return or raise")

    def send_source(self) -> None:
        """Write the agent's source; the wire's buffer takes nearly all of it at once."""
        left = memoryview(self._source)
        poller = select.poll()
        poller.register(self._wire.stdin_fd, select.POLLOUT)
        while left:
            if not poller.poll(self._milliseconds_left()):
                raise self._failed(STAGE_SOURCE, "the target does not read")
            try:
                left = left[os.write(self._wire.stdin_fd, left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._failed(STAGE_SOURCE, f"the wire closed: {error.strerror}") from error

    def _readable(self, stage: str) -> Iterator[set[int]]:
        """Yield the sets of descriptors with something to read; BootError at the deadline."""
        poller = select.poll()
        poller.register(self._wire.stdout_fd, select.POLLIN)
        poller.register(self._wire.stderr_fd, select.POLLIN)
        while True:
            events = poller.poll(self._milliseconds_to_wait())
            if not events and self._gate is not None and not self._gate.is_open:
                self._gate.silent()
            # Rule 1: a target that never stops printing always has something to read.
            if not events or time.monotonic() >= self._deadline:
                raise self._failed(stage, "the deadline has passed")
            ready = {fd for fd, _ in events}
            yield ready
            if self._wire.stderr_fd in ready and self._stderr_ended:
                poller.unregister(self._wire.stderr_fd)

    def _take_stdout(self) -> bool:
        """Read once; false at the end of the program's output."""
        try:
            data = os.read(self._wire.stdout_fd, READ_BYTES)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self._stdout += data
        if self._gate is not None and data:
            self._gate.take("stdout", data, self._wire)
        return bool(data)

    def _take_stderr(self) -> bool:
        """Read once; false when nothing is there."""
        try:
            data = os.read(self._wire.stderr_fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._stderr_ended = True
            return False
        self._stderr += data[: NOISE_MAX - len(self._stderr)]
        if self._on_stderr is not None:
            self._on_stderr(data)
        if self._gate is not None:
            self._gate.take("stderr", data, self._wire)
        return True

    def _find_ready(self) -> Ready | None:
        """The READY line, if it is there; otherwise forget the middle of endless noise."""
        at = self._stdout.find(self._mark, self._scanned)
        end = -1 if at < 0 else self._stdout.find(b"\n", at)
        if at < 0 or end < 0:
            if at >= 0 and len(self._stdout) - at > len(self._mark) + READY_MAX:
                raise self._failed(STAGE_READY, "READY came without its end")
            self._scanned = at if at >= 0 else max(0, len(self._stdout) - len(self._mark))
            if len(self._stdout) > NOISE_MAX and at < 0:
                del self._stdout[NOISE_MAX // 2 : -len(self._mark)]
                self._scanned = 0
            return None
        word = bytes(self._stdout[at + len(self._mark) : end])
        if self._gate is not None and not self._gate.is_open:
            raise self._failed(STAGE_READY, "READY came before the become plugin's success mark")
        if self._stdout[end + 1 :]:
            raise self._failed(STAGE_READY, "something else prints to the login's output after READY")
        try:
            hexversion = int(word, 16)
        except ValueError:
            raise self._failed(STAGE_READY, f"READY came with {word!r}") from None
        return Ready(hexversion, bytes(self._stdout[:at]), time.monotonic() - self._begun)

    def _ended(self) -> BootError:
        """The program closed its output without READY: collect how it ended and say which stage that was."""
        rc = self._collect_end()
        tail = _last_line(self._stderr)
        if rc == NO_INTERPRETER_RC and NO_INTERPRETER in self._stderr.split():
            return self._failed(STAGE_INTERPRETER, "no Python interpreter found", rc)
        if rc == SSH_FAILED_RC:
            return self._failed(STAGE_CONNECT, tail, rc)
        return self._failed(STAGE_READY, f"output ended without READY ({_how(rc)}) {tail}".strip(), rc)

    def _collect_end(self) -> int | None:
        """The exit status, and what stderr still holds once it is known.

        Not until the end of stderr: an ssh master that went to the background keeps it open.
        """
        rc = reap(self._wire.pid, END_SECONDS)
        while self._take_stderr():
            pass
        return rc

    def _failed(self, stage: str, reason: str, rc: int | None = None) -> BootError:
        return BootError(
            self._label,
            stage,
            time.monotonic() - self._begun,
            rc=rc,
            stdout=bytes(self._stdout[:NOISE_MAX]),
            stderr=bytes(self._stderr),
            reason=reason,
        )

    def _milliseconds_to_wait(self) -> int:
        if self._gate is None or self._gate.is_open:
            return self._milliseconds_left()
        return min(self._milliseconds_left(), int(self._gate.quiet_seconds * 1000))

    def _milliseconds_left(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))


# Programs started here that were not waited for yet. They are this process's children whoever holds their
# wire, and a long-lived process should not collect zombies.
_children: set[int] = set()


def _reap_ended() -> None:
    for pid in list(_children):
        reap(pid, 0.0)


def _attempts(timeout: float) -> Iterator[None]:
    """Yield at least once, then now and then until `timeout` has passed."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        yield
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.05)


def _how(rc: int | None) -> str:
    if rc is None:
        return "still running"
    return f"killed by signal {-rc}" if rc < 0 else f"exit status {rc}"


def _last_line(data: bytes | bytearray) -> str:
    lines = bytes(data).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


os.register_at_fork(after_in_child=_children.clear)
