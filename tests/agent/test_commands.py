# SPDX-License-Identifier: BSD-3-Clause
"""EXEC in command mode: streams, status, terminal, credit, CANCEL, many at once."""

from __future__ import annotations

import errno
import os
import pathlib
import struct
import subprocess
import time

import harness
import pytest
from harness import CANCEL, CREDIT, DATA, EXEC, EXIT, GRANT, LAST, REFUSED, STARTED, STDOUT, AgentProcess

WINDOW = 256 * 1024


def wait_gone(pid: int) -> None:
    """Return once there is no such process, or fail."""
    deadline = time.monotonic() + harness.DEADLINE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except OSError as error:
            assert error.errno == errno.ESRCH
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


def signal_masks(status: bytes) -> list[int]:
    """The masks in lines of /proc/PID/status, without signals 32 and 33: those are the C library's own, and
    a program inherits them as they are and cannot change them."""
    return [int(line.split()[1], 16) & ~(1 << 31 | 1 << 32) for line in status.splitlines()]


def test_streams_and_status_apart(agent: AgentProcess) -> None:
    done = agent.command(b"cat; echo err >&2; exit 3", stdin=b"in\x00put")
    assert (done.rc, done.stdout, done.stderr, done.started) == (3, b"in\x00put", b"err\n", True)
    assert done.exit["warm"] is False


def test_without_stdin_the_command_reads_the_end(agent: AgentProcess) -> None:
    assert agent.command(b"cat; echo end").stdout == b"end\n"


def test_death_by_signal_is_128_plus_n(agent: AgentProcess) -> None:
    # Ansible fact 2.
    done = agent.command(b"kill -9 $$")
    assert (done.rc, done.exit["signal"]) == (137, 9), "ssh has no status of a login shell that was killed"
    assert "signal" not in agent.command(b"sh -c 'kill -9 $$'; exit 137").exit


def test_a_terminal_stays_until_its_command_has_ended(agent: AgentProcess) -> None:
    # As in sshd. A program that closes its streams before it ends, as coreutils do, would be hung up on.
    done = agent.command(b"exec <&- >&- 2>&-; sleep 0.2; exit 5", pty=True, term="xterm")
    assert (done.rc, done.exit.get("signal")) == (5, None)


def test_argv_environment_and_directory(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    handle = agent.start(
        {
            "mode": "command",
            "argv": [b"sh", b"-c", b'echo "$0|$FOO"; pwd', b"a  b"],
            "env": {b"FOO": b"\xff x"},
            "cwd": os.fsencode(tmp_path),
        }
    )
    assert agent.finish(handle).stdout == b"a  b|\xff x\n" + os.fsencode(tmp_path) + b"\n"


def test_environment_is_that_of_the_login(interpreter: str) -> None:
    # Python 3.7 and later put LC_CTYPE into their own environment in the C locale (PEP 538).
    env = {"PATH": os.defpath, "SHELL": "/bin/sh", "ONE": "1"}
    with AgentProcess(interpreter, env=env) as agent:
        lines = agent.command(b"env").stdout.splitlines()
        names = {line.partition(b"=")[0] for line in lines} - {b"PWD", b"OLDPWD", b"_", b"SHLVL"}
        assert names == {b"PATH", b"SHELL", b"ONE"}


def test_missing_program_is_127(agent: AgentProcess) -> None:
    done = agent.finish(agent.start({"mode": "command", "argv": [b"/nonexistent/program"]}))
    assert (done.rc, done.stdout) == (127, b"")
    assert b"No such file" in done.stderr


def test_command_goes_through_the_login_shell(interpreter: str) -> None:
    with AgentProcess(interpreter, env={"SHELL": "/bin/bash", "PATH": os.defpath}) as agent:
        assert agent.command(b'echo "${BASH_VERSION:+bash} $0"').stdout == b"bash bash\n"


def test_pseudo_terminal(agent: AgentProcess) -> None:
    # Ansible fact 1: a tty, TERM, stderr merged into stdout, SIGHUP for what stays behind.
    done = agent.command(
        b'tty; echo "$TERM $SSH_TTY"; echo err >&2; test -t 0 && test -t 2', pty=True, term=b"vt100"
    )
    lines = done.stdout.split(b"\r\n")
    assert done.rc == 0
    assert lines[1] == b"vt100 " + lines[0] and lines[0].startswith(b"/dev/")
    assert lines[2] == b"err" and done.stderr == b""


def test_pseudo_terminal_takes_input(agent: AgentProcess) -> None:
    done = agent.command(b"stty -echo; echo ready; read line; echo got $line", pty=True, stdin=b"typed\n")
    assert done.stdout.endswith(b"got typed\r\n")


def test_terminal_held_by_a_daemon_ends_a_second_later(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Systems fact 23: a run on a terminal is over at exit and one second.
    pidfile = tmp_path / "pid"
    began = time.monotonic()
    done = agent.command(
        b"trap '' HUP; sleep 60 & echo $! > " + os.fsencode(pidfile) + b"; echo started", pty=True
    )
    assert done.stdout == b"started\r\n"
    assert 0.9 < time.monotonic() - began < 20
    os.kill(int(pidfile.read_text()), 9)


def test_pipe_held_by_a_daemon_keeps_the_run(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Systems fact 23: with pipes a run is over at exit and EOF, as in stock.
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    handle = agent.start(
        {"mode": "command", "command": b"(read x < " + os.fsencode(fifo) + b"; echo later) & exit 0"}
    )
    assert agent.receive(handle).kind == STARTED
    assert agent.silent(0.3)
    fifo.write_text("\n")
    assert agent.finish(handle).stdout == b"later\n"


def test_children_hold_no_descriptor_of_the_agent(agent: AgentProcess) -> None:
    # Systems fact 18.
    fifo = agent.start({"mode": "command", "command": b"read line; exit 0", "stdin_more": True})
    done = agent.command(b"ls /proc/self/fd | sort -n | tr '\\n' ' '")
    assert done.stdout.split()[:3] == [b"0", b"1", b"2"] and len(done.stdout.split()) == 4
    agent.send(DATA, b"\n", stream=fifo, flags=LAST)
    while agent.receive(fifo).kind != EXIT:
        pass


def test_signals_are_as_a_new_process_has_them(agent: AgentProcess) -> None:
    # Not "none is ignored": a shell's background job, as this test run may be, hands ignored signals down.
    command = b"grep -E '^Sig(Ign|Blk)' /proc/self/status"
    new_process = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, check=True)
    assert signal_masks(agent.command(command).stdout) == signal_masks(new_process.stdout)


def test_output_needs_credit(agent: AgentProcess) -> None:
    # Systems fact 27: one window, then nothing until the reader consumed something; control still flows.
    handle = agent.start({"mode": "command", "command": b"head -c 1000000 /dev/zero"})
    assert agent.receive(handle).kind == STARTED
    got = 0
    while got < WINDOW:
        frame = agent.receive(handle)
        assert frame.kind == STDOUT and len(frame.payload) <= 128 * 1024 + 1
        got += len(frame.payload) - 1
    assert got == WINDOW
    assert agent.silent(0.2)
    agent.ping()
    agent.send(CREDIT, struct.pack(">I", 1), stream=handle)
    assert agent.receive(handle).payload == bytes([STDOUT, 0])
    agent.send(CREDIT, struct.pack(">I", 2000000), stream=handle)
    got += 1
    while (frame := agent.receive(handle)).kind == STDOUT:
        got += len(frame.payload) - 1
    assert got == 1000000 and frame.kind == EXIT


def test_input_needs_grants(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    body = {
        "mode": "command",
        "command": b"read x < " + os.fsencode(fifo) + b"; wc -c",
        "stdin": b"abc",
        "stdin_more": True,
    }
    handle = agent.start(body)
    granted = sent = 0
    assert agent.receive(handle).kind == STARTED
    while sent < WINDOW:
        frame = agent.receive(handle)
        assert frame.kind == GRANT
        granted += struct.unpack(">I", frame.payload[1:])[0]
        agent.send(DATA, bytes(granted - sent), stream=handle)
        sent = granted
        if sent >= WINDOW + 3:
            break
    while not agent.silent(0.2):
        frame = agent.receive(handle)
        granted += struct.unpack(">I", frame.payload[1:])[0]
    assert granted <= WINDOW + 3 + 65536, "the child reads nothing yet, a pipe holds 64 KiB"
    fifo.write_text("\n")
    agent.send(DATA, b"end", stream=handle, flags=LAST)
    while (frame := agent.receive(handle)).kind == GRANT:
        pass
    assert (frame.kind, frame.payload[1:].strip()) == (STDOUT, str(3 + sent + 3).encode())
    assert agent.receive(handle).kind == EXIT


def test_cancel_closes_the_pipes_and_kills_nobody(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Systems fact 17: a blip must not kill dpkg half-way.
    done_file = tmp_path / "done"
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    command = b"read x < %s; echo gone; touch %s; exit 5" % (os.fsencode(fifo), os.fsencode(done_file))
    handle = agent.start({"mode": "command", "command": b"trap '' PIPE; " + command})
    assert agent.receive(handle).kind == STARTED
    agent.send(CANCEL, stream=handle)
    agent.ping()
    fifo.write_text("\n")
    assert agent.receive(handle).body["rc"] == 5
    assert done_file.exists()


def test_cancel_hangs_up_a_terminal(agent: AgentProcess) -> None:
    handle = agent.start({"mode": "command", "command": b"echo $$; exec sleep 60", "pty": True})
    assert agent.receive(handle).kind == STARTED
    pid = int(agent.receive(handle).payload[1:])
    agent.send(CANCEL, stream=handle)
    assert agent.receive(handle).body["rc"] == 128 + 1
    wait_gone(pid)


def test_end_of_the_wire_lets_a_run_finish(agent: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Systems fact 17: EOF takes nobody along.
    done_file, fifo = tmp_path / "done", tmp_path / "gate"
    os.mkfifo(fifo)
    handle = agent.start(
        {"mode": "command", "command": b"read x < %s; touch %s" % (os.fsencode(fifo), os.fsencode(done_file))}
    )
    assert agent.receive(handle).kind == STARTED
    agent.wire.close()
    assert agent.end() == 0
    fifo.write_text("\n")
    deadline = time.monotonic() + harness.DEADLINE
    while not done_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_runs_at_once(agent: AgentProcess) -> None:
    handles = [
        agent.start({"mode": "command", "command": b"read x; echo $x", "stdin_more": True}) for _ in range(20)
    ]
    for number, handle in reversed(list(enumerate(handles))):
        agent.send(DATA, b"%d\n" % number, stream=handle, flags=LAST)
    for number, handle in enumerate(handles):
        text = b""
        while (frame := agent.receive(handle)).kind != EXIT:
            if frame.kind == STDOUT:
                text += frame.payload[1:]
        assert text == b"%d\n" % number


def test_control_overtakes_bulk(agent: AgentProcess) -> None:
    # Systems fact 27: an agent with a full out-queue keeps reading its wire.
    for _ in range(8):
        agent.start({"mode": "command", "command": b"head -c 260000 /dev/zero"})
    agent.ping()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00\x00",
        b"\x00\x00\xc1",
        b"\x00\x00\x90",
        b"\x00\x01" + bytes(31),
        b"\x00\x00\x81\xa4mode",
        b"\x00\x00" + b"\x91" * 70 + b"\xc0",
    ],
    ids=["nothing", "no body", "reserved type", "a list", "names cut", "map cut", "too deep"],
)
def test_malformed_exec_is_refused(own_agent: AgentProcess, payload: bytes) -> None:
    own_agent.send(EXEC, payload, reply_to=1000, stream=5)
    frame = own_agent.receive(1000)
    assert frame.kind == REFUSED and frame.flags & LAST and struct.unpack(">H", frame.payload[1:3]) == (4,)
    own_agent.ping()
