# SPDX-License-Identifier: BSD-3-Clause
"""FILE: put and fetch with credit, and what stays behind when they fail."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
import struct

import pytest
from harness import (
    CANCEL,
    CHUNK,
    CREDIT,
    ERROR,
    FILE,
    GRANT,
    OPENED,
    RESULT,
    STARTED,
    AgentProcess,
    fetch,
    put,
)

WINDOW = 256 * 1024
BIG = os.urandom(1024) * 3000


@pytest.mark.parametrize("data", [b"", b"x", BIG[:WINDOW], BIG], ids=["empty", "byte", "window", "big"])
def test_put_and_fetch(agent: AgentProcess, tmp_path: pathlib.Path, data: bytes) -> None:
    path = tmp_path / "file \xff".encode("latin-1").decode("utf-8", "surrogateescape")
    frame = put(agent, path, data)
    assert (frame.kind, frame.body) == (RESULT, {"size": len(data)})
    assert path.read_bytes() == data
    opened, got, frame = fetch(agent, path)
    assert (got, frame.kind, frame.body) == (data, RESULT, {"size": len(data)})
    assert opened == {"size": len(data) or None, "mode": stat.S_IMODE(path.stat().st_mode)}


def test_put_has_the_modes_of_sftp(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    new, old = tmp_path / "new", tmp_path / "old"
    put(agent, new, b"1", 0o4777)
    assert stat.S_IMODE(new.stat().st_mode) == 0o777 & ~umask
    old.write_bytes(b"longer than before")
    old.chmod(0o640)
    put(agent, old, b"2", 0o777)
    assert (old.read_bytes(), stat.S_IMODE(old.stat().st_mode)) == (b"2", 0o640)


@pytest.mark.parametrize("operation", ["put", "fetch"])
def test_errors_name_themselves(agent: AgentProcess, tmp_path: pathlib.Path, operation: str) -> None:
    missing = tmp_path / "no" / "such"
    for path, number in ((missing, errno.ENOENT), (tmp_path, errno.EISDIR)):
        frame = put(agent, path, b"x") if operation == "put" else fetch(agent, path)[2]
        assert frame.kind == ERROR
        assert (frame.body["errno"], frame.body["message"]) == (number, os.strerror(number))


def test_fetch_announces_no_size_for_proc(agent: AgentProcess) -> None:
    opened, got, frame = fetch(agent, pathlib.Path("/proc/version"))
    assert opened["size"] is None and got == pathlib.Path("/proc/version").read_bytes()
    assert frame.body == {"size": len(got)}


def test_fetch_waits_for_credit(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Systems fact 27.
    path = tmp_path / "big"
    path.write_bytes(BIG)
    handle = agent.start({"op": "fetch", "path": os.fsencode(path)}, FILE)
    assert agent.receive(handle).kind == OPENED
    got = 0
    while got < WINDOW:
        got += len(agent.receive(handle).payload) - 1
    assert got == WINDOW and agent.silent(0.2)
    agent.ping()
    agent.send(CANCEL, stream=handle)
    assert agent.receive(handle).kind == ERROR


def test_fetch_of_a_growing_file_keeps_to_the_announced_size(
    agent: AgentProcess, tmp_path: pathlib.Path
) -> None:
    # Systems fact 7: data beyond the announced size is an error at the other end.
    path = tmp_path / "growing"
    path.write_bytes(BIG)
    handle = agent.start({"op": "fetch", "path": os.fsencode(path)}, FILE)
    assert agent.receive(handle).body["size"] == len(BIG)
    with path.open("ab") as file:
        file.write(b"more" * 1000)
    agent.send(CREDIT, struct.pack(">I", 2 * len(BIG)), stream=handle)
    got = 0
    while (frame := agent.receive(handle)).kind == CHUNK:
        got += len(frame.payload) - 1
    assert got == len(BIG) == frame.body["size"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_put_cut_short_leaves_nothing_of_its_own(
    agent: AgentProcess, tmp_path: pathlib.Path, existed: bool
) -> None:
    path = tmp_path / "partial"
    if existed:
        path.write_bytes(b"old")
    body = {"op": "put", "path": os.fsencode(path), "mode": 0o600, "data": b"half", "more": True}
    handle = agent.start(body, FILE)
    assert agent.receive(handle).kind == STARTED
    agent.send(CANCEL, stream=handle)
    while (frame := agent.receive(handle)).kind != ERROR:
        assert frame.kind == GRANT
    assert path.exists() is existed


def test_full_disk_is_an_error(agent: AgentProcess) -> None:
    frame = put(agent, pathlib.Path("/dev/full"), b"x" * 1000)
    assert (frame.kind, frame.body["errno"]) == (ERROR, errno.ENOSPC)


def test_fifo_without_a_writer_does_not_stop_the_agent(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opened, got, frame = fetch(agent, fifo)
    assert (opened["size"], got, frame.kind) == (None, b"", RESULT)
    assert put(agent, fifo, b"x").body["errno"] == errno.ENXIO
    agent.ping()
