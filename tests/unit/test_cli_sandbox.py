# SPDX-License-Identifier: BSD-3-Clause
"""The private sshd: logs in, reads no start-up file, and is gone afterwards even if its owner was killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fatline.cli.sandbox import Keys, PrivateSshd, SandboxError, account_is_locked

DEADLINE_SECONDS = 10.0

OWNER = """
import sys, time
from pathlib import Path
from fatline.cli.sandbox import PrivateSshd
server = PrivateSshd(Path(sys.argv[1]))
server.start()
print(server.pid, server.port, flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether `condition` came true before the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def ssh(server: PrivateSshd, command: str) -> subprocess.CompletedProcess[str]:
    """Run `command` on `server` with the real client."""
    return subprocess.run(
        ["ssh", *server.ssh_arguments(), command], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateSshd]:
    """A running server."""
    with PrivateSshd(tmp_path / "sshd") as running:
        yield running


def test_command_runs_as_the_same_user_with_streams_and_status_apart(server: PrivateSshd) -> None:
    done = ssh(server, "id -u; echo complaint >&2; exit 7")
    assert (done.stdout, done.returncode) == (f"{os.getuid()}\n", 7)
    assert done.stderr == "complaint\n"


def test_no_shell_start_up_file_is_read(server: PrivateSshd) -> None:
    # bash reads this one, and /etc/bash.bashrc under the same condition, when it takes sshd for its parent.
    for name in (".bashrc", ".profile", ".zshenv", ".tcshrc", ".cshrc", ".ssh/rc"):
        path = server.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("echo start-up file was read\n")
    assert ssh(server, "echo $HOME").stdout == f"{server.home}\n"


def test_environment_argument_reaches_the_session_and_wins(tmp_path: Path) -> None:
    with PrivateSshd(tmp_path, environment={"FL_PROBE": "a b", "HOME": "/"}) as server:
        assert ssh(server, 'echo "$FL_PROBE $HOME"').stdout == "a b /\n"


def test_two_servers_share_keys_and_have_ports_of_their_own(tmp_path: Path) -> None:
    keys = Keys.generate(tmp_path)
    with PrivateSshd(tmp_path / "a", keys=keys) as one, PrivateSshd(tmp_path / "b", keys=keys) as two:
        assert one.port != two.port
        assert [ssh(each, "echo up").stdout for each in (one, two)] == ["up\n", "up\n"]


def test_stop_ends_listener_and_sessions(tmp_path: Path) -> None:
    with PrivateSshd(tmp_path) as server:
        client = subprocess.Popen(
            ["ssh", *server.ssh_arguments(), "echo up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert client.stdout is not None and client.stdout.readline() == b"up\n"
        pid, port = server.pid, server.port
    assert client.wait(DEADLINE_SECONDS) == 255
    client.communicate()
    assert not alive(pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, port), 1)


def test_killed_owner_leaves_no_listener(tmp_path: Path) -> None:
    # Not in the checkout, whose fatline/ has no extension in it.
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline().split()[0])
    assert alive(pid)
    owner.send_signal(signal.SIGKILL)
    owner.wait(DEADLINE_SECONDS)
    owner.stdout.close()
    assert wait_until(lambda: not alive(pid))


def test_refused_configuration_is_reported_in_words(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="NoSuchOption"):
        PrivateSshd(tmp_path, options=["NoSuchOption yes"]).start()


def test_running_account_is_not_reported_locked_to_ordinary_users() -> None:
    if os.getuid() == 0:
        assert not account_is_locked("no-such-account")
    else:
        assert not account_is_locked("root")
