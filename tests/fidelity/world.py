# SPDX-License-Identifier: BSD-3-Clause
"""A world: a controller and its targets on one machine that nobody else sees and that has no past.

Mount, pid, network, uts and ipc namespaces of their own, and over the machine's root an empty layer that
takes every write. So each variant of a case finds the same users, paths, port and clean directories,
several run at the same time, whatever a playbook changes anywhere is found by reading the layer, and nothing
outlives the world. Every address of 127.0.0.0/8 is a target, all served by one real sshd with PAM.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fatline.cli.sandbox import Keys

INIT = Path(__file__).with_name("world_init.py")

START_SECONDS = 60.0
QUIET_SECONDS = 20.0

CONTROL = 4400
"""The uid and gid of `control`, who runs ansible."""

USERS = {"control": CONTROL, "worker": 4401, "member": 4402}
"""Who exists besides the machine's own accounts. `worker` logs in; `member` is somebody else to become."""

PASSWORD = "correct horse"
"""The password of every one of them."""

# Of PASSWORD, made by: openssl passwd -6 -salt fatline
_HASH = "$6$fatline$FDgiD4PtCDDTPJrlXRlbJqoEgnBhHgol9jNlzsrIhHUq2M1RgzZ.uiJjhlsMbIc73My4e4WJ72lqm7au2PKHf1"

_SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/world_host_key
UsePAM yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
PrintMotd no
PrintLastLog no
UseDNS no
MaxStartups 200
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
PidFile none
"""

_SSH_CONFIG = """\
Host *
    UserKnownHostsFile ~/.ssh/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    UpdateHostKeys no
    HostKeyAlias world
    IdentityFile ~/.ssh/identity
    IdentitiesOnly yes
    SendEnv LANG LC_*
"""


class WorldError(Exception):
    """A world cannot be made here. The message says why."""


@dataclass(frozen=True)
class Finished:
    """A command that was run in a world."""

    rc: int
    stdout: str
    stderr: str


def trouble() -> str:
    """Say in words why no world can be made on this machine, or return an empty string."""
    if os.getuid() != 0:
        return "needs root: every variant gets namespaces of its own"
    for program in ("unshare", "mount", "ip", "sudo", "sshd", "ssh-keygen"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"needs {program}"
    probe = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"]
    made = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "" if made.returncode == 0 else f"no namespaces here: {made.stderr.strip()}"


def make_seed(directory: Path) -> Path:
    """Write, once a session, the files that every world starts with."""
    seed = directory / "seed"
    keys = Keys.generate(directory / "keys")
    _write_accounts(seed)
    ssh = seed / "etc/ssh"
    ssh.mkdir(parents=True)
    (ssh / "sshd_config").write_text(_SSHD_CONFIG)
    shutil.copy(keys.host_key, ssh / "world_host_key")
    for name in USERS:
        folder = seed / "home" / name / ".ssh"
        folder.mkdir(parents=True, mode=0o700)
        (folder / "authorized_keys").write_text(keys.public(keys.identity) + "\n")
    own = seed / "home/control/.ssh"
    shutil.copy(keys.identity, own / "identity")
    (own / "known_hosts").write_text(f"world {keys.public(keys.host_key)}\n")
    (own / "config").write_text(_SSH_CONFIG)
    for name in ("run/sshd", "run/lock", "var/log", "play", "etc/sudoers.d"):
        (seed / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (seed / name).mkdir(parents=True)
        (seed / name).chmod(0o1777)
    (seed / "root").mkdir(mode=0o755)
    sudoers = seed / "etc/sudoers.d/world"
    sudoers.write_text("worker ALL=(ALL:ALL) NOPASSWD: ALL\ncontrol ALL=(ALL:ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    for name, uid in USERS.items():
        _give(seed / "home" / name, uid)
    _give(seed / "play", CONTROL)
    return seed


def _write_accounts(seed: Path) -> None:
    etc = seed / "etc"
    etc.mkdir(parents=True)
    lines = {
        "passwd": [f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash" for name, uid in USERS.items()],
        "group": [f"{name}:x:{uid}:" for name, uid in USERS.items()],
        "shadow": [f"{name}:{_HASH}:19000:0:99999:7:::" for name in USERS],
        "gshadow": [f"{name}:!::" for name in USERS],
    }
    for name, added in lines.items():
        shutil.copy2(f"/etc/{name}", etc / name)
        with open(etc / name, "a", encoding="utf-8") as file:
            file.write("\n".join(added) + "\n")
    # The name of the world itself, so that sudo need not ask anybody.
    (etc / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 world\n")


def _give(path: Path, uid: int) -> None:
    for folder, _, names in os.walk(path):
        os.chown(folder, uid, uid)
        for name in names:
            os.chown(os.path.join(folder, name), uid, uid)


class World:
    """One world. A context manager; leaving it ends every process in it."""

    def __init__(self, directory: Path, seed: Path, binds: Sequence[Path]) -> None:
        """Plan a world; `binds` are paths of the machine that are visible in it, read only."""
        self._directory = directory
        self._seed = seed
        self._binds = binds
        self._process: subprocess.Popen[str] | None = None
        self._init_pid = 0

    def __enter__(self) -> World:
        self._directory.mkdir(parents=True)
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
        arguments = map(str, (self._directory, self._seed, *self._binds))
        self._process = subprocess.Popen(
            ["unshare", *namespaces, sys.executable, "-I", "-S", str(INIT), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._answer(START_SECONDS) != "made":
            self.close()
            raise WorldError("the world was not made; standard error says why")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._init_pid = int(children.read_text().split()[0])
        return self

    def start_server(self) -> None:
        """Let targets be reached from now on."""
        if self._order({"server": True}, START_SECONDS) != "up":
            raise WorldError("sshd did not start")

    def _order(self, order: Mapping[str, Any], timeout: float) -> str:
        """Have the world's init do something; return its answer, which is empty if it is late."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer(timeout)

    def _answer(self, timeout: float) -> str:
        # One answer is read at a time, so nothing is left in the buffer when the descriptor is looked at.
        assert self._process is not None and self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        return self._process.stdout.readline().strip() if ready else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the world."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._directory.rmdir()

    def path(self, inside: str) -> Path:
        """Where a path of the world is found from outside."""
        return Path(f"/proc/{self._init_pid}/root{self._directory}/root{inside}")

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float,
        uid: int = 0,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: str | None = None,
    ) -> Finished:
        """Run a command in the world, without a terminal.

        :raises WorldError: it did not end in time; the world is then of no more use.
        """
        with contextlib.ExitStack() as stack:
            # Files, because a connection that outlives the command may hold its output open.
            given, output, errors = (stack.enter_context(tempfile.NamedTemporaryFile()) for _ in range(3))
            given.write((stdin or "").encode())
            given.flush()
            order = {
                "argv": list(command),
                "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})},
                "cwd": cwd,
                "uid": uid,
                "stdin": given.name,
                "stdout": output.name,
                "stderr": errors.name,
            }
            status = self._order(order, timeout)
            if not status:
                running = "\n".join(f"{_state(pid)} {_describe(pid)}" for pid in self._pids())
                said = f"{_text(output)}{_text(errors)}\nprocesses:\n{running}"
                raise WorldError(f"not within {timeout} s: {shlex.join(command)}\n{said}")
            return Finished(int(status), _text(output), _text(errors))

    def shell(self, text: str, *, timeout: float = 60.0) -> None:
        """Run a shell script as root; it must succeed."""
        done = self.run(["/bin/sh", "-euc", text], timeout=timeout)
        if done.rc != 0:
            raise WorldError(f"setup ended with {done.rc}: {done.stdout}{done.stderr}")

    def processes(self) -> list[str]:
        """Owner and command line of everything that runs here, but for the world's init and sshd listener."""
        return [line for line in map(_describe, self._pids()) if line]

    def _pids(self) -> Iterator[int]:
        own = os.stat(f"/proc/{self._init_pid}/ns/pid").st_ino
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != self._init_pid:
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{name}/ns/pid").st_ino == own:
                        yield int(name)

    def settle(self, programs: Sequence[str]) -> list[str]:
        """Wait until none of these programs runs any more, nor what starts agents; return what runs then."""
        deadline = time.monotonic() + QUIET_SECONDS
        while True:
            found = self.processes()
            commands = [line.split(" ", 1)[1] for line in found]
            if not any(words.startswith(tuple(programs)) or _starts_agent(words) for words in commands):
                return found
            if time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def tree(self) -> dict[str, str]:
        """Everything that was written since the world began: path -> type, mode, owner, content."""
        upper = Path(f"/proc/{self._init_pid}/root{self._directory}/upper")
        found = {}
        for folder, folders, names in os.walk(upper):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                found[path[len(str(upper)) :]] = _describe_file(path)
        return found


def _starts_agent(command: str) -> bool:
    """Say whether this is a shell, sudo or the like that waits for an agent; their end comes after ssh's."""
    return "sys.path[:]=[" in command and not command.split(" ", 1)[0].endswith("python3")


def _state(pid: int) -> str:
    """What a process does, for whoever wonders why it does not end."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (
            f"{pid} {stat[0]} ppid {stat[1]} pgrp {stat[2]} sid {stat[3]} in "
            + Path(f"/proc/{pid}/wchan").read_text()
        )
    except OSError:
        return f"{pid} gone"


def _describe(pid: int) -> str:
    """``USER COMMAND``; empty for what is dead or the listener."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    if "\nState:\tZ" in status or words == [b""]:
        return ""
    command = b" ".join(words).decode(errors="replace")
    if "[listener]" in command:
        return ""
    uid = status.split("\nUid:\t")[1].split()[0]
    return f"{uid} {command}"


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="surrogateescape")


def _describe_file(path: str) -> str:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return "gone while it was looked at"
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        return "deleted"
    words = [stat.filemode(info.st_mode), str(info.st_uid), str(info.st_gid)]
    if stat.S_ISLNK(info.st_mode):
        words.append("-> " + os.readlink(path))
    elif stat.S_ISREG(info.st_mode):
        words += [str(info.st_size), _digest(path)]
    return " ".join(words)


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]
