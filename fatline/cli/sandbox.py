# SPDX-License-Identifier: BSD-3-Clause
"""A private sshd on loopback: a real OpenSSH target that needs no set-up and leaves nothing behind.

``fatline demo`` and ``fatline bench`` measure against it and the end-to-end tests run on it. It works as
root and as any user with a login shell, always logging in as the user that started it, and uses no key,
configuration file or home directory of that user.

What a login shell reads when sshd starts it for a command, and how each file is kept out:

- ``~/.bashrc``, ``~/.zshenv``, ``~/.tcshrc``, ``~/.config/fish``: HOME points to an empty directory.
- ``/etc/bash.bashrc``: bash reads it only where SHLVL says that it is the outermost shell. SHLVL is 1.
- ``~/.ssh/rc``, ``~/.ssh/environment``: turned off in the configuration.
- ``/etc/environment``: read by PAM. PAM is off, unless the account is locked for everything else.

Not kept out: system-wide files of other shells, such as ``/etc/zsh/zshenv``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

START_SECONDS = 10.0
STOP_SECONDS = 5.0
PORT_ATTEMPTS = 20
POLL_SECONDS = 0.01

# The shell holds the listener: when the pipe on its stdin closes, for whatever reason, kill -9 of this
# process included, the listener goes too.
_KEEPER = '"$@" </dev/null & pid=$!; read -r _; kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null'


class SandboxError(Exception):
    """A private sshd cannot run here. The message says what to do about it."""


@dataclass(frozen=True)
class Keys:
    """A host key and a login key, shared by the servers of one sandbox."""

    host_key: Path
    identity: Path

    @classmethod
    def generate(cls, directory: Path) -> Keys:
        """Make both keys in `directory`, or take the ones already there."""
        keys = cls(directory / "host_key", directory / "identity")
        for path in (keys.host_key, keys.identity):
            if not path.exists():
                _ssh_keygen(path)
        return keys

    def public(self, private: Path) -> str:
        """The public half of `private`: type and base64, without the comment."""
        return " ".join(private.with_suffix(".pub").read_text().split()[:2])


class PrivateSshd:
    """One sshd on a free loopback port. A context manager; `start` and `stop` do the same by hand.

    After `start`, an ssh client needs only `ssh_config` (as ``ssh -F``), or the single values below.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        *,
        keys: Keys | None = None,
        max_startups: str = "10:30:100",
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Plan a server that keeps all its files in `directory`, which must be private to the user.

        `environment` is added to that of every session and `options` are lines for sshd_config; both win
        over this class's own.
        """
        self.directory = directory
        self.user = login_name()
        self.port = 0
        self.pid = 0
        self.home = directory / "home"
        self.log = directory / "sshd.log"
        self.known_hosts = directory / "known_hosts"
        self.ssh_config = directory / "ssh_config"
        self._keys = keys
        self._max_startups = max_startups
        self._environment = {"HOME": str(self.home), "SHLVL": "1", **(environment or {})}
        self._options = tuple(options)
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def keys(self) -> Keys:
        """The keys in use; made on first need."""
        if self._keys is None:
            self._keys = Keys.generate(self.directory)
        return self._keys

    @property
    def identity(self) -> Path:
        """The private key that logs in."""
        return self.keys.identity

    def start(self) -> None:
        """Start the server; it takes connections when this returns. SandboxError where it cannot run."""
        sshd = find_sshd()
        check_login_shell()
        make_privilege_separation_directory()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.directory / "authorized_keys").write_text(self.keys.public(self.identity) + "\n")
        for _ in range(PORT_ATTEMPTS):
            self.port = _free_port(self.host)
            if self._launch(sshd):
                self._write_client_files()
                return
        raise SandboxError(f"no free port for a private sshd after {PORT_ATTEMPTS} attempts; see {self.log}")

    def stop(self) -> None:
        """Stop the server and its sessions; what runs in them is given a moment to notice and end.

        Harmless when it is not running.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        sessions = self.session_pids()
        within = list(_descendants(self.pid))
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for _ in _until(STOP_SECONDS):
            if not any(map(_runs, within)):
                break
        self.pid = 0

    def session_pids(self) -> list[int]:
        """The processes that serve connections now, one or two each; empty where /proc does not tell."""
        return _children(self.pid)

    def __enter__(self) -> PrivateSshd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ssh_arguments(self, port: int | None = None) -> list[str]:
        """Arguments for an ssh command that reaches this server, directly or through a relay on `port`."""
        return [
            "-F",
            str(self.ssh_config),
            "-p",
            str(port or self.port),
            "-l",
            self.user,
            self.host,
        ]

    def inventory_variables(self, port: int | None = None) -> dict[str, str | int]:
        """What an Ansible inventory needs to reach this server, directly or through a relay on `port`."""
        return {
            "ansible_host": self.host,
            "ansible_port": port or self.port,
            "ansible_user": self.user,
            "ansible_ssh_common_args": f"-F {shlex.quote(str(self.ssh_config))}",
        }

    def _launch(self, sshd: str) -> bool:
        """Start sshd on the chosen port. False if another process took the port first."""
        config = self.directory / "sshd_config"
        config.write_text("\n".join(self._server_config()) + "\n")
        self.log.unlink(missing_ok=True)
        command = [sshd, "-D", "-f", str(config), "-E", str(self.log)]
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sshd-keeper", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self._wait_until_listening():
            return True
        self.stop()
        log = self._read_log()
        if "Address already in use" in log:
            return False
        raise SandboxError(f"sshd did not start within {START_SECONDS:.0f} s; its log says:\n{log.strip()}")

    def _wait_until_listening(self) -> bool:
        assert self._keeper is not None
        pid_file = self.directory / "sshd.pid"
        for _ in _until(START_SECONDS):
            log = self._read_log()
            if "Server listening on" in log and pid_file.exists():
                text = pid_file.read_text().strip()
                if text:
                    self.pid = int(text)
                    return True
            if "Cannot bind any address" in log or "fatal:" in log or "terminating" in log:
                return False
        return False

    def _read_log(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _server_config(self) -> Iterator[str]:
        yield from self._options
        yield f"ListenAddress {self.host}:{self.port}"
        yield f"HostKey {self.keys.host_key}"
        yield f"PidFile {self.directory / 'sshd.pid'}"
        yield f"AuthorizedKeysFile {self.directory / 'authorized_keys'}"
        yield f"MaxStartups {self._max_startups}"
        yield f"UsePAM {'yes' if account_is_locked(self.user) else 'no'}"
        # sshd takes the first SetEnv line only, and PAM or AcceptEnv cannot override it.
        yield "SetEnv " + " ".join(f'"{name}={value}"' for name, value in self._environment.items())
        yield from (
            "StrictModes no",
            "PermitRootLogin yes",
            "PubkeyAuthentication yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitUserRC no",
            "PermitUserEnvironment no",
            "PrintMotd no",
            "PrintLastLog no",
            "UseDNS no",
            "AcceptEnv LANG LC_*",
            "Subsystem sftp internal-sftp",
        )

    def _write_client_files(self) -> None:
        host_key = self.keys.public(self.keys.host_key)
        # One alias for every port, so that a relay in front of the server shows the same name and key.
        self.known_hosts.write_text(f"fatline-sandbox {host_key}\n")
        self.ssh_config.write_text(
            "Host *\n"
            f"    IdentityFile {self.identity}\n"
            "    IdentitiesOnly yes\n"
            "    IdentityAgent none\n"
            f"    UserKnownHostsFile {self.known_hosts}\n"
            "    GlobalKnownHostsFile none\n"
            "    HostKeyAlias fatline-sandbox\n"
            "    StrictHostKeyChecking yes\n"
            "    UpdateHostKeys no\n"
            "    SendEnv LANG LC_*\n"
        )


def find_sshd() -> str:
    """The absolute path of sshd, which insists on being started by it. SandboxError if there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    sshd = shutil.which("sshd", path=path)
    if sshd is None:
        raise SandboxError(
            "no sshd found; install the OpenSSH server (Debian: apt-get install openssh-server)"
        )
    return os.path.abspath(sshd)


def check_login_shell() -> None:
    """Refuse, in words, an account that sshd would refuse."""
    entry = pwd.getpwuid(os.getuid())
    shell = entry.pw_shell or "/bin/sh"
    if os.path.basename(shell) in ("nologin", "false") or not os.access(shell, os.X_OK):
        raise SandboxError(f"{entry.pw_name} has no usable login shell ({shell}); run this as another user")


def make_privilege_separation_directory() -> None:
    """Give root's sshd its empty directory: Debian makes it when the system's own sshd is started."""
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


def account_is_locked(user: str) -> bool:
    """Whether sshd without PAM would refuse `user` because of a ``!`` in the shadow file.

    Only root's sshd can read that file, so for everybody else the answer is no.
    """
    if os.getuid() != 0:
        return False
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user}:!") for line in lines)


def login_name() -> str:
    """The login name of the real uid, whatever LOGNAME says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise SandboxError(f"uid {os.getuid()} is not in the password file") from None


def _ssh_keygen(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fatline-sandbox", "-f", str(path)]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    except FileNotFoundError:
        raise SandboxError(
            "no ssh-keygen found; install the OpenSSH client (Debian: openssh-client)"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SandboxError(f"ssh-keygen failed: {error.stderr.decode(errors='replace').strip()}") from None


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    """The direct children of `pid`; empty where /proc does not tell."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _runs(pid: int) -> bool:
    """Whether `pid` is a process that is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _until(seconds: float) -> Iterator[None]:
    """Yield now and then until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(POLL_SECONDS)
