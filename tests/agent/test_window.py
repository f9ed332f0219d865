# SPDX-License-Identifier: BSD-3-Clause
"""Systems fact 27 with a window of 4 KiB: everything streams, and nothing waits for its own answer."""

from __future__ import annotations

import os
import pathlib
import re
import struct
import zlib
from collections.abc import Iterator

import harness
import payloads
import pytest
from harness import (
    CANCEL,
    CREDIT,
    DATA,
    EXIT,
    GRANT,
    LAST,
    RESULT,
    STARTED,
    STDERR,
    STDOUT,
    AgentProcess,
    fetch,
    put,
)

WINDOW = 4096
DATA_100K = os.urandom(100_000)


def source() -> bytes:
    """The real agent but for one number."""
    text = zlib.decompress(harness.bootstrap.agent_source())
    text, count = re.subn(rb"(?m)^(WINDOW ?= ?)262144$", rb"\g<1>%d" % WINDOW, text)
    assert count == 1
    return zlib.compress(text)


@pytest.fixture
def small(interpreter: str) -> Iterator[AgentProcess]:
    """An agent with a small window on each interpreter."""
    with AgentProcess(interpreter, source=source()) as process:
        yield process


def test_both_outputs_and_the_input_of_one_command(small: AgentProcess) -> None:
    """Each way waits for the other side of its own: a command that copies its input to both outputs."""
    body = {"mode": "command", "command": b"tee /dev/stderr", "stdin": b"", "stdin_more": True}
    handle = small.start(body)
    output: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    rest = DATA_100K
    while (frame := small.receive(handle)).kind != EXIT:
        if frame.kind == GRANT and rest:
            (granted,) = struct.unpack(">I", frame.payload[1:])
            assert granted <= WINDOW
            piece, rest = rest[:granted], rest[granted:]
            small.send(DATA, piece, stream=handle, flags=0 if rest else LAST)
        elif frame.kind in output:
            output[frame.kind].append(frame.payload[1:])
            small.send(CREDIT, struct.pack(">I", len(frame.payload) - 1), stream=handle)
    assert b"".join(output[STDOUT]) == b"".join(output[STDERR]) == DATA_100K


def test_files_of_many_windows(small: AgentProcess, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    assert put(small, path, DATA_100K, inline=10).kind == RESULT
    assert path.read_bytes() == DATA_100K
    _opened, got, frame = fetch(small, path)
    assert (got, frame.kind) == (DATA_100K, RESULT)


def test_control_passes_a_window_that_is_full(small: AgentProcess) -> None:
    handle = small.start({"mode": "command", "command": b"cat /dev/zero"})
    assert small.receive(handle).kind == STARTED
    got = 0
    while got < WINDOW:
        frame = small.receive(handle)
        assert frame.kind == STDOUT
        got += len(frame.payload) - 1
    assert got == WINDOW
    small.ping()
    assert small.command(b"echo other").stdout == b"other\n"
    small.send(CANCEL, stream=handle)
    assert small.receive(handle).kind == EXIT


@pytest.mark.skipif(payloads.core_version() is None, reason="no ansible-core beside the tests")
def test_blobs_larger_than_the_window_stream() -> None:
    with AgentProcess(source=source()) as own:
        parsed = payloads.parsed("ping", {}, own.interpreter)
        assert max(len(data) for data in parsed.blobs.values()) > WINDOW
        assert own.module(parsed).rc == 0
