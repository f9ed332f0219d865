# SPDX-License-Identifier: BSD-3-Clause
"""The extension's spawn: what a program started by it sees."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from unit_support import children_of_this_process

from fatline import _native

DEADLINE = 20.0

LOOK = """
import json, os, resource, sys
names = os.listdir("/proc/self/fd")
json.dump({
    "fds": sorted(int(name) for name in names if os.path.exists("/proc/self/fd/" + name)),
    "stdin": os.readlink("/proc/self/fd/0"),
    "sid": os.getsid(0), "pid": os.getpid(), "cwd": os.getcwd(),
    "env": dict(os.environ), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}, sys.stdout)
"""


def run(argv: list[str], **arguments: Any) -> tuple[int, bytes]:
    """Spawn with stdout on a pipe; returns the wait status and what was written."""
    read_fd, write_fd = os.pipe()
    try:
        pid, pidfd = _native.spawn(argv, stdout_fd=write_fd, **arguments)
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        output = file.read()
    assert select.select([pidfd], [], [], DEADLINE)[0], "the pidfd does not tell that the program ended"
    os.close(pidfd)
    _pid, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output


def look(**arguments: Any) -> dict[str, Any]:
    """What a program started by spawn sees of its surroundings."""
    rc, output = run([sys.executable, "-I", "-S", "-c", LOOK], **arguments)
    assert rc == 0
    seen: dict[str, Any] = json.loads(output)
    return seen


def signals_of(status: str, name: str) -> set[int]:
    """The signals in one mask of /proc/self/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    mask = int(fields[name], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_exit_status_and_output() -> None:
    assert run(["/bin/sh", "-c", "echo hello; exit 7"]) == (7, b"hello\n")


def test_the_program_is_looked_for_in_the_path_it_will_have(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    assert run(["tool"], env=[b"PATH=/nonexistent:%s:/bin" % os.fsencode(tmp_path)]) == (0, b"mine\n")
    assert run(["sh", "-c", "echo ours"], env=[]) == (0, b"ours\n")


@pytest.mark.parametrize("path", ["/nonexistent", "", ":", "/etc/passwd"])
def test_a_missing_program(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        _native.spawn(["no-such-program"], env=[os.fsencode(f"PATH={path}")])


def test_an_unusable_program_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("not executable")
    with pytest.raises(PermissionError):
        _native.spawn(["tool"], env=[os.fsencode(f"PATH={tmp_path}:/nonexistent")])


def test_another_thread_may_change_the_environment_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program gets what the environment was when the call began, whole."""
    monkeypatch.setenv("FIXED", "1")
    enough = threading.Event()

    def change() -> None:
        while not enough.is_set():
            for number in range(200):
                os.putenv(f"CHANGING_{number}", "x" * number)
            for number in range(200):
                os.unsetenv(f"CHANGING_{number}")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            assert run(["/bin/sh", "-c", "echo $FIXED"]) == (0, b"1\n")
    finally:
        enough.set()
        thread.join()


def test_a_failure_leaves_no_child_and_no_descriptor() -> None:
    before, children = set(os.listdir("/proc/self/fd")), children_of_this_process()
    for _ in range(5):
        with pytest.raises(OSError):
            _native.spawn(["/nonexistent/program"])
    assert set(os.listdir("/proc/self/fd")) == before
    assert children_of_this_process() == children


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"cwd": "/nonexistent"}, FileNotFoundError),
        ({"stdin_fd": 9999}, OSError),
        ({"pass_fds": [9999]}, OSError),
        ({"env": ["A=\0"]}, ValueError),
        ({"env": [5]}, TypeError),
        ({"pass_fds": ["x"]}, TypeError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        _native.spawn(["/bin/true"], **arguments)


def test_an_empty_command_line() -> None:
    with pytest.raises(ValueError, match="argv is empty"):
        _native.spawn([])


def test_only_the_listed_descriptors_are_open() -> None:
    """Inheritable ones too: a library of the process may have left any."""
    read_fd, write_fd = os.pipe()
    stray = os.dup(read_fd)
    os.set_inheritable(stray, True)
    try:
        seen = look(pass_fds=[write_fd])
    finally:
        for fd in (read_fd, write_fd, stray):
            os.close(fd)
    assert seen["fds"] == [0, 1, 2, write_fd]
    assert seen["stdin"] == "/dev/null"


def test_standard_descriptors_may_be_any_numbers(tmp_path: Path) -> None:
    """Crossed over: 0 from 1's place and the other way round, in a process that lacks all three."""
    script = (
        "import os, sys\n"
        "from fatline import _native\n"
        "r, w = os.pipe(); r2, w2 = os.pipe()\n"
        "os.write(w, b'in'); os.close(w)\n"
        "os.dup2(w2, 0); os.dup2(r, 1); os.close(r); os.close(w2); os.close(2)\n"
        "pid, _ = _native.spawn(['/bin/sh', '-c', 'cat; echo err >&2'], None, 1, 0, 0)\n"
        "os.waitpid(pid, 0); os.close(0)\n"
        "sys.exit(0 if os.read(r2, 100) == b'inerr\\n' else 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    # With a standard input, or its first pipe would have that number.
    subprocess.run(
        command, check=True, env=environment, cwd=tmp_path, timeout=DEADLINE, stdin=subprocess.DEVNULL
    )


def test_signals_are_as_for_a_fresh_program() -> None:
    """Systems fact 34: SIGPIPE, which Python ignores, is at its default. What the user ignores stays so."""
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        rc, output = run(["/bin/cat", "/proc/self/status"], env=[])
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR1, previous)
        signal.signal(signal.SIGHUP, ignored)
    assert rc == 0
    seen = output.decode()
    # Signals 32 and 33 are the C library's own: a program inherits them as they are and cannot change them.
    assert signals_of(seen, "SigIgn") - {32, 33} == {signal.SIGHUP}
    assert signals_of(seen, "SigBlk") == set()
    assert signals_of(seen, "SigCgt") == set()


def test_a_session_of_its_own() -> None:
    assert look(new_session=False)["sid"] == os.getsid(0)
    seen = look(new_session=True)
    assert seen["sid"] == seen["pid"]


def test_directory_and_environment(tmp_path: Path) -> None:
    seen = look(cwd=tmp_path, env=[b"NAME=value", b"OTHER=a=b"])
    assert seen["cwd"] == str(tmp_path)
    assert {name: seen["env"].get(name) for name in ("NAME", "OTHER")} == {"NAME": "value", "OTHER": "a=b"}
    assert "PATH" not in seen["env"]


def test_the_environment_is_ours_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATLINE_TEST_MARK", "inherited")
    assert look()["env"]["FATLINE_TEST_MARK"] == "inherited"


def test_the_limit_of_descriptors_is_the_one_we_started_with() -> None:
    """Systems fact 34: raised for ourselves, restored in what we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert look()["nofile"] == soft
        assert look(nofile=100)["nofile"] == 100
        assert look(nofile=-1)["nofile"] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_threads_may_spawn_at_once() -> None:
    results: list[tuple[int, bytes]] = []

    def spawn_some(number: int) -> None:
        for _ in range(10):
            results.append(run(["/bin/sh", "-c", f"echo {number}; exit {number}"]))

    threads = [threading.Thread(target=spawn_some, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(results) == sorted((number, b"%d\n" % number) for number in range(8) for _ in range(10))
