# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that run on roots: an sshd on a loopback port, in process, mount and name spaces of its own.

A host lives in one ``unshare`` whose end takes every process and every mount with it, and whose parent is a
shell that waits on a pipe from this process. So a host ends with this process, kill -9 included, and what it
changed ends too: it writes to a tmpfs above the root.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import roots
from places import LabError

from fatline.cli.sandbox import Keys

START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05

_KEEPER = '"$@" </dev/null & pid=$!; read -r _; kill -9 "$pid" 2>/dev/null; wait "$pid" 2>/dev/null'

# The shell that runs it stays as process 1 and collects orphans.
_SSHD = """
hostname "$HOSTNAME"
echo "$HOSTNAME" >"$root/etc/hostname"
echo "127.0.1.1 $HOSTNAME" >>"$root/etc/hosts"
install -m 600 "$HOST_KEY" "$root/etc/ssh/lab_host_key"
install -m 644 "$LOGIN_KEYS" "$root/etc/ssh/lab_keys"
chroot "$root" /bin/sh -ec "$PREPARE"
unset HOST_KEY LOGIN_KEYS STATE PREPARE
chroot "$root" /usr/sbin/sshd -D -e -p "$PORT" -o "ListenAddress=$ADDRESS" -h /etc/ssh/lab_host_key &
wait "$!"
"""


class Host:
    """One host. A context manager."""

    def __init__(
        self,
        root: roots.Root,
        directory: Path,
        keys: Keys,
        *,
        name: str = "",
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Plan a host that keeps its few files in `directory`; without `port` a free one is taken."""
        self.root = root
        self.name = name or root.name
        self.address = address
        self.directory = directory
        self.port = port
        self.log = directory / "log"
        self._keys = keys
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Host:
        base = roots.build(self.root)
        if base != Path("/"):
            roots.connect(base)
        state = self.directory / "state"
        state.mkdir(parents=True, exist_ok=True)
        login_keys = self.directory / "login_keys"
        login_keys.write_text(self._keys.public(self._keys.identity) + "\n")
        self.port = self.port or _free_port(self.address)
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME": self.name,
            "ADDRESS": self.address,
            "PORT": str(self.port),
            "PREPARE": self.root.prepare,
            "STATE": str(state),
            "HOST_KEY": str(self._keys.host_key),
            "LOGIN_KEYS": str(login_keys),
        }
        command = roots.entered(base, _SSHD, before=roots.OVERLAY)
        with open(self.log, "wb") as log:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "lab-keeper", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        try:
            self._wait_until_listening()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def files(self) -> Path:
        """The host's root folder as this process can see it, through /proc."""
        return Path(f"/proc/{self.sshd_pid()}/root")

    def sshd_pid(self) -> int:
        """The pid of the listening sshd, in this process's numbering."""
        assert self._keeper is not None
        unshare = _child(self._keeper.pid)
        return _child(_child(unshare))

    def inside(self, script: str) -> list[str]:
        """A command that runs a shell script as root within the host."""
        return ["nsenter", "--target", str(self.sshd_pid()), "--mount", "--pid", "--uts", "--ipc", "--root",
                "--wd=/", "/bin/sh", "-c", script]  # fmt: skip

    def ssh_config(self) -> Path:
        """A client configuration that knows this host's key and nothing of the user's."""
        known = self.directory / "known_hosts"
        known.write_text(f"fatline-lab {self._keys.public(self._keys.host_key)}\n")
        config = self.directory / "ssh_config"
        config.write_text(
            "Host *\n"
            f"    IdentityFile {self._keys.identity}\n"
            "    IdentitiesOnly yes\n"
            "    IdentityAgent none\n"
            f"    UserKnownHostsFile {known}\n"
            "    GlobalKnownHostsFile none\n"
            "    HostKeyAlias fatline-lab\n"
            "    StrictHostKeyChecking yes\n"
            "    UpdateHostKeys no\n"
        )
        return config

    def variables(self, user: str = roots.LOGIN) -> dict[str, str | int]:
        """What an inventory needs to reach this host."""
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": user,
            "ansible_ssh_common_args": f"-F {shlex.quote(str(self.ssh_config()))}",
        }

    def _wait_until_listening(self) -> None:
        assert self._keeper is not None
        deadline, seen = time.monotonic() + START_SECONDS, False
        while time.monotonic() < deadline and self._keeper.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.address, self.port), 1) as probe,
            ):
                probe.settimeout(START_SECONDS)
                if probe.recv(4) == b"SSH-":
                    return
            runs = bool(_children(self._keeper.pid))
            if seen and not runs:
                break
            seen = runs
            time.sleep(POLL_SECONDS)
        words = self.log.read_text(errors="replace").strip()
        raise LabError(f"{self.name} does not listen; its log says:\n{words}")

    def _stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        shutil.rmtree(self.directory / "state", ignore_errors=True)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _child(pid: int) -> int:
    children = _children(pid)
    if not children:
        raise LabError(f"process {pid} of the lab has no child")
    return children[0]


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
