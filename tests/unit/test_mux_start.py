# SPDX-License-Identifier: BSD-3-Clause
"""Finding and starting the mux: with real processes and the real mux."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit_support import children_of_this_process

from fatline import _native, mux
from fatline.errors import MuxError

DEADLINE = 20.0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own; what runs in it is ended afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="fatline-test-"))
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(directory))
    yield directory
    for pid in muxes(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


def muxes(directory: Path) -> list[int]:
    """The mux processes that serve a socket in `directory`."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit():
                words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(os.fsencode(directory / "mux-")) for word in words):
                    found.append(int(entry))
    return found


def ask(client: _native.Client, question: str) -> bytes:
    """One question to the mux itself."""
    handle = client.handle()
    client.send(0, _native.HANDLES[question], reply_to=handle)
    answer = client.recv(handle, DEADLINE)
    client.release(handle)
    assert answer.reply_to != _native.HANDLES["IS_DEAD"], answer.payload
    return answer.payload


def status(client: _native.Client) -> dict[str, str]:
    """STATUS as a dictionary."""
    lines = ask(client, "STATUS").decode().splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def mux_pid(client: _native.Client) -> int:
    return int(status(client)["pid"])


def is_gone(pid: int) -> bool:
    """Ended; that init has yet to notice does not matter."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def in_python(code: str, **environment: str) -> subprocess.Popen[str]:
    """Start a Python that imports what this one imports."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )


# --- the runtime directory -------------------------------------------------------------------------------


def test_the_directory_is_made_private(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 7."""
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(runtime / "new"))
    directory = mux.runtime_directory()
    assert directory == runtime / "new"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert mux.runtime_directory() == directory


def test_the_session_directory_comes_next(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FATLINE_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert mux.runtime_directory() == runtime / "fatline"


def test_another_users_session_directory_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems fact 33: after `sudo -E` the variable is that of another user."""
    monkeypatch.delenv("FATLINE_RUNTIME_DIR")
    foreign = runtime / "foreign"
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, pwd.getpwnam("nobody").pw_uid, -1)
    else:
        foreign = Path("/")
    for value in (str(foreign), str(runtime / "absent"), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert mux._choose_directory() == f"/tmp/fatline-{os.geteuid()}"


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.write_text(""), "not a directory"),
        (make_link, "not a directory"),
        (lambda path: path.mkdir(mode=0o755), "open to other users"),
    ],
    ids=["file", "link", "mode"],
)
def test_a_directory_that_cannot_be_trusted(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], words: str
) -> None:
    """Systems fact 33."""
    previous = os.umask(0)
    try:
        make(runtime / "bad")
    finally:
        os.umask(previous)
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(runtime / "bad"))
    with pytest.raises(MuxError, match=words):
        mux.connect(DEADLINE)
    assert muxes(runtime / "bad") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory(runtime: Path) -> None:
    os.chown(runtime, pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(MuxError, match="belongs to another user"):
        mux.connect(DEADLINE)


def test_a_directory_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", "/nonexistent/fatline")
    with pytest.raises(MuxError, match="cannot make"):
        mux.runtime_directory()


def test_a_lock_that_cannot_be_opened_is_told_in_words(runtime: Path) -> None:
    path = mux.socket_path()
    path.with_name(path.name + ".lock").symlink_to(runtime / "elsewhere")
    with pytest.raises(MuxError, match="cannot open the lock"):
        mux.connect(DEADLINE)


# --- starting --------------------------------------------------------------------------------------------


def test_the_first_client_starts_the_mux_and_the_next_finds_it(runtime: Path) -> None:
    assert mux.find(DEADLINE) is None
    first = mux.connect(DEADLINE)
    second = mux.connect(DEADLINE)
    third = mux.find(DEADLINE)
    assert third is not None
    assert first.context_id != second.context_id
    assert mux_pid(first) == mux_pid(second) == mux_pid(third)
    assert status(first)["version"] == _native.VERSION
    assert muxes(runtime) == [mux_pid(first)]


def test_the_socket_is_private_and_nothing_else_is_left(runtime: Path) -> None:
    """Rule 7, and no temporary names."""
    client = mux.connect(DEADLINE)
    path = mux.socket_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {entry.name for entry in runtime.iterdir()} == {path.name, path.name + ".lock"}
    client.close()


def test_many_processes_start_exactly_one(runtime: Path) -> None:
    """Connect, lock, connect again, start."""
    code = (
        "import sys\n"
        "from fatline import _native, mux\n"
        "sys.stdin.readline()\n"
        "client = mux.connect(20)\n"
        "handle = client.handle()\n"
        "client.send(0, _native.HANDLES['STATUS'], reply_to=handle)\n"
        "print(dict(l.split(' ', 1) for l in client.recv(handle, 20).payload.decode().splitlines())['pid'])\n"
        "sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(12)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    pids = set()
    for process in processes:
        assert process.stdout is not None
        pids.add(int(process.stdout.readline()))
    assert pids == set(muxes(runtime))
    assert len(pids) == 1
    for process in processes:
        process.communicate("\n", timeout=DEADLINE)
        assert process.returncode == 0


def test_a_killed_mux_is_replaced(runtime: Path) -> None:
    first = mux.connect(DEADLINE)
    pid = mux_pid(first)
    os.kill(pid, signal.SIGKILL)
    handle = first.handle()
    with pytest.raises(_native.Closed):
        first.recv(handle, DEADLINE)
    assert mux.socket_path().exists(), "a killed mux leaves its socket"
    assert mux.find(DEADLINE) is None
    second = mux.connect(DEADLINE)
    assert mux_pid(second) != pid
    assert muxes(runtime) == [mux_pid(second)]


def test_a_stopped_mux_takes_its_socket_along(runtime: Path) -> None:
    client = mux.connect(DEADLINE)
    pid = mux_pid(client)
    ask(client, "STOP")
    wait_for(lambda: is_gone(pid), "the mux to end")
    assert not mux.socket_path().exists()
    assert mux_pid(mux.connect(DEADLINE)) != pid


def test_an_idle_mux_ends(runtime: Path) -> None:
    """Rule 3."""
    client = mux.connect(DEADLINE, idle_seconds=1)
    pid = mux_pid(client)
    client.close()
    wait_for(lambda: is_gone(pid), "the idle mux to end")
    assert not mux.socket_path().exists()


def test_connecting_while_muxes_come_and_go(runtime: Path) -> None:
    """A mux that ends between connect and HELLO is no error: the next one is started."""
    for _ in range(20):
        client = mux.connect(DEADLINE)
        handle = client.handle()
        client.send(0, _native.HANDLES["STOP"], reply_to=handle)
        assert mux.connect(DEADLINE).context_id > 0


def test_a_path_too_long_for_a_socket_address(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems fact 33: over 108 bytes go through /proc/self/fd."""
    deep = runtime / ("d" * 120)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(deep))
    client = mux.connect(DEADLINE)
    again = mux.connect(DEADLINE)
    assert mux_pid(client) == mux_pid(again)
    ask(client, "STOP")
    wait_for(lambda: not mux.socket_path().exists(), "the socket to go")


def test_the_name_tells_apart_what_must_not_be_shared(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems fact 33: boot, PID namespace, user, protocol and build."""
    name = fresh_name()
    assert name.startswith("mux-") and len(name) == len("mux-") + 16
    monkeypatch.setattr(mux, "_pid_namespace", lambda: "another")
    assert fresh_name() != name
    monkeypatch.undo()
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(mux, "_build_id", lambda: "another")
    assert fresh_name() != name
    monkeypatch.undo()
    assert fresh_name() == name


def fresh_name() -> str:
    """The socket's name, worked out anew: a process does that once."""
    mux._identity.cache_clear()
    return mux.socket_path().name


# --- failing ---------------------------------------------------------------------------------------------


def test_a_mux_that_dies_at_start_says_why(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = runtime / "broken.so"
    broken.write_bytes(b"this is no extension")
    monkeypatch.setattr(mux, "_extension_path", lambda: str(broken))
    with pytest.raises(MuxError, match=r"ended as it started: ImportError: .*broken\.so"):
        mux.connect(DEADLINE)
    assert muxes(runtime) == []


@pytest.mark.parametrize("executable", ["/nonexistent/python", ""])
def test_an_interpreter_that_cannot_be_run(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(MuxError, match="start the mux"):
        mux.connect(DEADLINE)


def test_a_mux_that_always_dies_is_not_started_for_ever(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quitting = runtime / "python"
    quitting.write_text(f"#!/bin/sh\necho started >>{runtime}/starts\n")
    quitting.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(quitting))
    with pytest.raises(MuxError, match="times in a row"):
        mux.connect(DEADLINE)
    assert len((runtime / "starts").read_text().splitlines()) == mux._ATTEMPTS


def test_a_start_that_hangs_is_given_up(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1; and what hangs is ended, so that the next client may try."""
    hanging = runtime / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(hanging))
    with pytest.raises(MuxError, match="in time"):
        mux.connect(0.3)
    monkeypatch.undo()
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(runtime))
    assert mux.connect(DEADLINE).context_id > 0


def test_a_mux_that_hangs_is_reported(runtime: Path) -> None:
    """Rule 1: words after the deadline, and no second mux beside it."""
    pid = mux_pid(mux.connect(DEADLINE))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(MuxError, match="does not answer"):
            mux.connect(0.3)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert muxes(runtime) == [pid]


def test_a_lock_that_is_never_released(runtime: Path) -> None:
    with open(str(mux.socket_path()) + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MuxError, match="does not get the mux started"):
            mux.connect(0.2)


def test_a_full_backlog_is_waited_for_with_a_deadline(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mux.socket_path()))
        listener.listen(0)
        fillers = []
        for _ in range(2):
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            with contextlib.suppress(BlockingIOError):
                filler.connect(str(mux.socket_path()))
        with pytest.raises(MuxError, match="accepts nobody"):
            mux.connect(0.3)
        for filler in fillers:
            filler.close()


def test_something_else_on_the_socket(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mux.socket_path()))
        listener.listen()
        code = "from fatline import mux\ntry: mux.connect(10)\nexcept mux.MuxError as error: print(error)"
        process = in_python(code)
        peer, _ = listener.accept()
        peer.sendall(b"220 mail.example.com ESMTP\r\n")
        output, _ = process.communicate(timeout=DEADLINE)
        peer.close()
    assert "does not understand us" in output
    assert "220 mail.example.com" in output


# --- what the mux's process is ---------------------------------------------------------------------------


only_root_looks_inside = pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user may not look inside an undumpable process"
)


def test_the_mux_belongs_to_nobody(runtime: Path) -> None:
    """Systems fact 34: a session of its own, and not even its leader."""
    pid = mux_pid(mux.connect(DEADLINE))
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    parent, _group, session = (int(field) for field in fields[1:4])
    assert parent != os.getpid()
    assert session != os.getsid(0)
    assert session != pid, "a session leader could get a controlling terminal"


@only_root_looks_inside
def test_the_mux_inherits_nothing(runtime: Path) -> None:
    """Systems fact 34: no descriptor and no directory of the process that happened to start it."""
    stray_fd, other_fd = os.pipe()
    os.set_inheritable(stray_fd, True)
    pid = mux_pid(mux.connect(DEADLINE))
    os.close(stray_fd)
    os.close(other_fd)
    proc = Path("/proc", str(pid))
    assert os.readlink(proc / "cwd") == "/"
    targets = {int(name): os.readlink(proc / "fd" / name) for name in os.listdir(proc / "fd")}
    assert [targets[fd] for fd in range(3)] == ["/dev/null"] * 3
    assert not [target for target in targets.values() if target.startswith("pipe:")]
    files = [target for fd, target in targets.items() if fd > 2 and target.startswith("/")]
    assert files == [], "it touches no disk (systems fact 25)"


@only_root_looks_inside
def test_the_mux_may_hold_many_descriptors(runtime: Path) -> None:
    """Systems fact 34: the soft limit of descriptors is raised."""
    pid = mux_pid(mux.connect(DEADLINE))
    (line,) = [
        line for line in Path("/proc", str(pid), "limits").read_text().splitlines() if "open files" in line
    ]
    soft, hard = line.split()[3:5]
    assert soft == hard


@only_root_looks_inside
def test_the_mux_loads_one_extension_and_little_else(runtime: Path) -> None:
    pid = mux_pid(mux.connect(DEADLINE))
    maps = Path("/proc", str(pid), "maps").read_text()
    modules = {line.split()[-1] for line in maps.splitlines() if "cpython" in line and ".so" in line}
    assert {Path(module).name for module in modules if "lib-dynload" not in module} == {
        Path(_native.__file__).name
    }
    assert not [module for module in modules if "lib-dynload" in module]


def test_the_mux_is_small(runtime: Path) -> None:
    """`python -I -S` alone is 7.7 MB (systems facts, "fine as designed")."""
    assert int(status(mux.connect(DEADLINE))["rss_kb"]) < 16 * 1024


def test_a_pipeline_ends_although_the_mux_lives_on(runtime: Path) -> None:
    """Systems fact 34: `ansible-playbook ... | cat` ends."""
    code = "import sys\nfrom fatline import mux\nmux.connect(20)\nprint('connected')"
    process = in_python(code)
    output, _ = process.communicate(timeout=DEADLINE)
    assert output == "connected\n"
    assert len(muxes(runtime)) == 1


def test_the_starter_may_be_killed_with_its_group(runtime: Path) -> None:
    """Systems fact 34: a worker's group or terminal takes the mux along in nothing."""
    code = (
        "import os, sys, signal\n"
        "os.setsid()\n"
        "from fatline import mux\n"
        "client = mux.connect(20)\n"
        "print('connected', flush=True)\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    process = in_python(code)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGKILL
    client = mux.find(DEADLINE)
    assert client is not None
    assert muxes(runtime) == [mux_pid(client)]


def test_starting_leaves_no_child_and_no_descriptor(runtime: Path) -> None:
    mux.connect(DEADLINE).close()
    for pid in muxes(runtime):
        os.kill(pid, signal.SIGKILL)
    before, children = set(os.listdir("/proc/self/fd")), children_of_this_process()
    client = mux.connect(DEADLINE)
    assert len(set(os.listdir("/proc/self/fd")) - before) == 1, "the connection itself"
    client.close()
    assert children_of_this_process() == children


def test_a_mux_may_be_started_without_waiting_for_it(runtime: Path) -> None:
    """Whoever connects meanwhile is served by that one, and nothing is left of its start."""
    before, children = set(os.listdir("/proc/self/fd")), children_of_this_process()
    starting = mux.start()
    assert starting is not None
    assert mux.start() is None, "its socket is there"
    client = mux.connect(DEADLINE)
    wait_for(starting.poll, "the mux serves")
    assert muxes(runtime) == [mux_pid(client)]
    client.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert children_of_this_process() == children


def test_who_may_not_wait_leaves_the_start_to_others(runtime: Path) -> None:
    lock = mux.socket_path().with_name(mux.socket_path().name + ".lock")
    with (
        mux._locked(lock, time.monotonic() + DEADLINE),
        pytest.raises(MuxError, match="another process holds"),
    ):
        mux.start(0.0)
    assert muxes(runtime) == []


def test_a_start_that_failed_unwatched_is_told_to_the_first_client(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = runtime / "broken.so"
    broken.write_bytes(b"this is no extension")
    monkeypatch.setattr(mux, "_extension_path", lambda: str(broken))
    starting = mux.start()
    assert starting is not None
    wait_for(starting.poll, "it has ended")
    with pytest.raises(MuxError, match=r"ended as it started: ImportError: .*broken\.so"):
        mux.connect(DEADLINE)


def test_a_start_that_hangs_unwatched_is_ended(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1: by who started it, at the latest at its own end."""
    hanging = runtime / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(hanging))
    children = children_of_this_process()
    starting = mux.start()
    assert starting is not None
    assert not starting.poll()
    with pytest.raises(MuxError, match="in time"):
        starting.words(time.monotonic())
    assert children_of_this_process() == children


def test_a_forked_child_gives_its_copies_back(runtime: Path) -> None:
    """The mux sees the end of the parent even while a child of it lives."""
    client = mux.connect(DEADLINE)
    fd = client.fileno()
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.fstat(fd)
            os.write(write_fd, b"open")
        except OSError:
            os.write(write_fd, b"closed")
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        assert file.read() == b"closed"
    os.waitpid(pid, 0)
    assert status(client)["clients"] == "1", "and the parent's connection goes on"


def test_the_peer_must_be_of_our_user(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 7, from the client's side."""
    near, far = socket.socketpair()
    with near, far:
        size = struct.calcsize("3i")
        assert (
            struct.unpack("3i", near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
            == os.geteuid()
        )
        mux._check_peer(near, "socket")
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(MuxError, match="belongs to another user"):
            mux._check_peer(near, "socket")
