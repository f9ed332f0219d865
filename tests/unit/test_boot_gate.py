# SPDX-License-Identifier: BSD-3-Clause
"""The gate of a boot: nothing is sent while it is shut, whatever the program prints meanwhile."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import pytest

from fatline import boot
from fatline.errors import BootError

SECONDS = 20.0
NONCE = "0123456789abcdef"
SOURCE = b"the source"
READY = f"FATLINE-READY {NONCE} 30b0000"

# Tells on stderr what has come to it within a moment, before it says anything of its own.
LISTENS = 'read -t 0.2 early <&0; echo "early: $early" >&2; '
REPEATS = 'read -r line; echo "given: $line" >&2'


class Refused(Exception):
    """What a gate says that does not open."""


@dataclass
class MarkGate:
    """Opens at a mark on stdout; answers a prompt on either stream."""

    quiet_seconds: float = SECONDS
    is_open: bool = False
    said: dict[str, bytes] = field(default_factory=lambda: {"stdout": b"", "stderr": b""})

    def enter(self, wire: boot.Wire) -> bytes:
        return b""

    def take(self, source: str, data: bytes, wire: boot.Wire) -> None:
        self.said[source] += data
        if self.said[source].endswith(b"prompt:"):
            os.write(wire.stdin_fd, b"answer\n")
        if b"no entry" in self.said[source]:
            raise Refused
        self.is_open |= b"MARK\n" in self.said["stdout"]

    def silent(self) -> None:
        raise Refused


class ReadsAhead(MarkGate):
    """Does all of its work at once, as core's own loop for local commands does."""

    def enter(self, wire: boot.Wire) -> bytes:
        os.set_blocking(wire.stdout_fd, True)
        seen = b""
        while not seen.endswith(READY.encode() + b"\n"):
            seen += os.read(wire.stdout_fd, 1)
        os.set_blocking(wire.stdout_fd, False)
        self.is_open = b"MARK\n" in seen
        return seen


def handshake(gate: boot.Gate, script: str, seconds: float = SECONDS) -> tuple[boot.Ready, bytes]:
    """See a shell script through the handshake; also returns all that it says on stderr until its end."""
    wire = boot.spawn(["/bin/bash", "-c", script])
    said = bytearray()
    launched = boot.Launcher("", NONCE, SOURCE + b"\n")
    ready = boot.handshake(wire, launched, time.monotonic() + seconds, said.extend, gate=gate)
    os.set_blocking(wire.stderr_fd, True)
    while piece := os.read(wire.stderr_fd, 4096):
        said += piece
    wire.end()
    return ready, bytes(said)


def test_the_source_is_sent_once_the_gate_is_open_and_ready_has_come() -> None:
    ready, said = handshake(MarkGate(), f"{LISTENS} echo MARK; {LISTENS} echo {READY}; {REPEATS}")
    assert said == b"early: \nearly: \ngiven: the source\n"
    assert (ready.hexversion, ready.noise) == (0x30B0000, b"MARK\n")


@pytest.mark.parametrize("stream", ["1", "2"])
def test_what_the_gate_writes_is_all_that_is_sent_while_it_is_shut(stream: str) -> None:
    asks = f"printf prompt: >&{stream}; {REPEATS}; {LISTENS}"
    _, said = handshake(MarkGate(), f"{asks} echo MARK; echo {READY}; {REPEATS}")
    assert said.removeprefix(b"prompt:") == b"given: answer\nearly: \ngiven: the source\n"


def test_ready_behind_a_shut_gate_is_nobody_s() -> None:
    """A login shell that prints what it was given looks like this."""
    with pytest.raises(BootError, match="before the become plugin's success mark"):
        handshake(MarkGate(), f"echo {READY}; {REPEATS}")


def test_a_gate_that_refuses_ends_the_program() -> None:
    script = "echo no entry; exec sleep 600"
    wire = boot.spawn(["/bin/bash", "-c", script])
    with pytest.raises(Refused):
        boot.handshake(wire, boot.Launcher("", NONCE, SOURCE), time.monotonic() + SECONDS, gate=MarkGate())
    assert wire.stdin_fd == -1
    with pytest.raises(ProcessLookupError):
        os.kill(wire.pid, 0)


def test_silence_is_the_gate_s_to_judge_and_only_while_it_is_shut() -> None:
    with pytest.raises(Refused):
        handshake(MarkGate(quiet_seconds=0.2), "exec sleep 600")
    with pytest.raises(BootError, match="deadline"):
        handshake(MarkGate(quiet_seconds=0.2, is_open=True), "exec sleep 600", seconds=1.0)


def test_what_a_gate_has_read_ahead_counts() -> None:
    _, said = handshake(ReadsAhead(), f"echo MARK; echo {READY}; {REPEATS}")
    assert said == b"given: the source\n"
    with pytest.raises(BootError, match="before the become plugin's success mark"):
        handshake(ReadsAhead(), f"echo {READY}; {REPEATS}")


def test_a_program_that_ends_behind_a_shut_gate_has_failed() -> None:
    with pytest.raises(BootError, match="output ended without READY") as caught:
        handshake(MarkGate(), "echo not you >&2; exit 3")
    assert caught.value.rc == 3
    assert caught.value.stderr == b"not you\n"
