# SPDX-License-Identifier: BSD-3-Clause
"""Accounts to log in to and to become, with real sudo; all is undone afterwards."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from e2e_support import wait_for

from fatline.cli.sandbox import Keys, PrivateSshd

MakeServer = Callable[..., PrivateSshd]


@dataclass
class Accounts:
    """Users of this test process alone, and what sudo permits them."""

    prefix: str
    log: Path
    """Where sudo notes every command and every refusal."""
    made: list[str] = field(default_factory=list)

    @property
    def sudoers(self) -> Path:
        """The file that says what they may."""
        return Path(f"/etc/sudoers.d/{self.prefix}")

    def name(self, role: str) -> str:
        """Return the login name of a role."""
        return f"{self.prefix}{role}"

    def password(self, role: str) -> str:
        """Return the password of a role's account."""
        return f"secret-of-{self.name(role)}"

    def add(self, role: str) -> str:
        """Make an account with a home and a password."""
        name = self.name(role)
        _run("useradd", "--create-home", "--shell", "/bin/bash", name)
        self.made.append(name)
        _run("chpasswd", text=f"{name}:{self.password(role)}\n")
        return name

    def permit(self, *lines: str) -> None:
        """Write the sudoers file: `{role}` stands for the name of a role's account."""
        roles = {name.removeprefix(self.prefix): name for name in self.made}
        text = "".join(line.format(**roles) + "\n" for line in lines)
        logged = "".join(f"Defaults:{name} logfile={self.log}\n" for name in self.made)
        fresh = self.sudoers.with_name(f".{self.prefix}.new")
        fresh.write_text(logged + text)
        fresh.chmod(0o440)
        _run("visudo", "-cqf", str(fresh))
        # A name with a dot is not read, and the new file takes the place of the old one whole.
        fresh.rename(self.sudoers)

    def log_text(self) -> str:
        """Return what sudo has noted, one entry a line."""
        text = self.log.read_text() if self.log.exists() else ""
        return text.replace("\n    ", " ")

    def remove(self) -> None:
        """Undo everything."""
        self.sudoers.unlink(missing_ok=True)
        for name in self.made:
            uid = _uid(name)
            if uid is not None:
                wait_for(f"the last process of {name}", lambda uid=uid: not processes_of(uid))  # type: ignore[misc]
                _run("userdel", "--remove", name)


def accounts(roles: tuple[str, ...]) -> Iterator[Accounts]:
    """Make accounts for a test session."""
    with tempfile.TemporaryDirectory(prefix="fatline-sudo-") as directory:
        made = Accounts(f"fl{os.getpid()}", Path(directory) / "sudo.log")
        try:
            for role in roles:
                made.add(role)
            yield made
        finally:
            made.remove()


def server(directory: Path, public: Path, keys: Keys) -> PrivateSshd:
    """Plan a server that lets every account in with the login key; `public` is a directory all may read."""
    authorized = public / "authorized_keys"
    authorized.write_text(keys.public(keys.identity) + "\n")
    authorized.chmod(0o644)
    options = [f"AuthorizedKeysFile {authorized}", "SetEnv SHLVL=1"]
    return PrivateSshd(directory, keys=keys, options=options, max_startups="200")


def processes_of(uid: int) -> list[int]:
    """Return the processes that run as a user."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == uid and (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def agents_by_sudo(login: str) -> list[int]:
    """Return the agents that sudo has started for an account, wherever they are."""
    found = {pid for pid in _pids() if _is_agent_by_sudo(pid, login.encode())}
    # What an agent has forked looks the same.
    return [pid for pid in found if _parent(pid) not in found]


def _is_agent_by_sudo(pid: int, login: bytes) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    is_agent = b"python" in words[0] and any(b"NONCE=" in word for word in words)
    return is_agent and b"SUDO_USER=" + login in environment


def processes_above(pid: int) -> set[int]:
    """Return the process that started this one, the one that started that, and so on."""
    found = set()
    while pid := _parent(pid):
        found.add(pid)
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
