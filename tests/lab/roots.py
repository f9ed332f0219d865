# SPDX-License-Identifier: BSD-3-Clause
"""Root folders of Debian releases, made by debootstrap from the archive that this machine's apt uses.

A root is a real distribution: its own Python, sudo, PAM, sshd, users and package manager. It is made once and
then only read: each host that runs on it (`hosts`) has an overlay of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from places import LabError, building, cache, run, say

LOGIN = "deploy"
"""Logs in; becomes root without a password."""
LOGIN_ASKED = "asked"
"""Logs in; sudo asks for `PASSWORD`."""
APPLICATION = "app"
"""An account to become: no member of sudo, no key."""
PASSWORD = "known to everyone"

_PACKAGES = (
    *("python3", "python3-apt", "openssh-server", "sudo", "ca-certificates", "acl", "cron", "procps"),
    *("iproute2", "rsync", "unzip", "zip", "bzip2", "xz-utils", "git", "file", "locales", "less"),
    *("gnupg", "python3-debian", "python3-venv", "python3-pip", "openssl"),
)
_CONTROLLER_PACKAGES = (
    *("ansible-core", "python3-msgpack", "python3-dev", "python3-setuptools", "python3-wheel"),
    *("gcc", "libc6-dev", "libyaml-dev", "pkg-config", "openssh-client", "sshpass"),
)


@dataclass(frozen=True)
class Root:
    """What a root is made of."""

    name: str
    suite: str
    packages: tuple[str, ...] = _PACKAGES
    prepare: str = ""
    """A shell script for each host on it, before its sshd starts."""

    def and_controller(self) -> Root:
        """The same with ansible-core from the distribution, and what building Fatline needs."""
        return replace(self, name=f"{self.name}-controller", packages=self.packages + _CONTROLLER_PACKAGES)


ROOTS = {
    root.name: root
    for root in (
        Root("bullseye", "bullseye", (*_PACKAGES, "python2")),
        Root("bookworm", "bookworm"),
        Root("trixie", "trixie"),
        Root("sid", "sid"),
    )
}


def build(root: Root) -> Path:
    """The folder of a root, made now unless it is there. LabError says why it cannot be made."""
    if os.getuid() != 0:
        raise LabError("root folders can be made and entered only by root")
    if root.name == MACHINE.name:
        return Path("/")
    for tool in ("debootstrap", "unshare", "setpriv", "chroot"):
        if shutil.which(tool) is None:
            raise LabError(f"no {tool} here (Debian: apt-get install debootstrap util-linux)")
    path = cache() / "roots" / root.name
    with building(
        path, json.dumps([root.name, root.suite, root.packages, _FILES, _PACKAGES_SCRIPT + _ACCOUNTS])
    ) as wanted:
        if wanted:
            say(f"lab: building {root.name} (some minutes, only once)")
            _bootstrap(root, path)
            _finish(root, path)
    return path


def archive() -> str:
    """The Debian archive that this machine's own apt is configured for."""
    command = ["apt-get", "indextargets", "--format", "$(LABEL)\t$(REPO_URI)", "Created-By: Packages"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"apt does not tell which archive it uses: {error}") from None
    for line in lines:
        label, _, uri = line.partition("\t")
        if label == "Debian":
            return uri
    raise LabError("this machine's apt is configured without a Debian archive")


def entered(folder: Path, script: str, before: str = "") -> list[str]:
    """A command that runs a shell script with processes and mounts of its own; $root is the folder.

    Everything it starts or mounts is gone when it ends or is killed, and it is killed when its parent
    ends. `before` runs ahead of the mounts.
    """
    spaces = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
    shell = ["/bin/sh", "-ec", before + _MOUNTS + script, "lab", str(folder)]
    return ["setpriv", "--pdeathsig", "KILL", *spaces, *shell]


OVERLAY = """
base=$1
mount -t tmpfs -o mode=755 tmpfs "$STATE"
mkdir "$STATE/upper" "$STATE/work" "$STATE/root"
mount -t overlay -o "lowerdir=$base,upperdir=$STATE/upper,workdir=$STATE/work" overlay "$STATE/root"
shift
set -- "$STATE/root" "$@"
"""
"""For `entered`: what is written goes to a tmpfs mounted on $STATE, and away with it."""

# Devices are made, not borrowed: what a module does to /dev is to stay in the host.
_MOUNTS = """
root=$1
unset TMPDIR  # a folder of this machine's
mount -t proc proc "$root/proc"
# Kernel parameters are this machine's own: a play that hardens a host would change them here, and for good.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || mount --rbind -o ro /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/sshd" "$root/run/lock"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<END
$node
END
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
ln -s pts/ptmx "$root/dev/ptmx"
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -s "/proc/self/${link#*:}" "$root/dev/${link%%:*}"
done
"""


def _bootstrap(root: Root, folder: Path) -> None:
    archives = cache() / "archives"
    archives.mkdir(exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={archives}", root.suite, folder, archive()]
    run(command, f"debootstrap of {root.suite}", environment=_proxies())


def _proxies() -> dict[str, str]:
    """What apt is told about proxies, for programs that are not apt."""
    found = {}
    for scheme in ("http", "https"):
        command = ["apt-config", "shell", "value", f"Acquire::{scheme}::Proxy"]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        value = text.partition("=")[2].strip().strip("'")
        if value and value != "DIRECT":
            found[f"{scheme}_proxy"] = value
    return found


# Debian's older suites have expired on purpose; without the first line apt refuses their lists.
_FILES = {
    "etc/apt/apt.conf.d/99lab": (
        'Acquire::Check-Valid-Until "false";\nAPT::Install-Recommends "false";\n'
        'Dpkg::Use-Pty "false";\nDPkg::Options:: "--force-confold";\n'
    ),
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "etc/sudoers.d/lab": f"{LOGIN} ALL=(ALL) NOPASSWD: ALL\n{LOGIN_ASKED} ALL=(ALL) ALL\n",
    "etc/ssh/sshd_config": (
        "AuthorizedKeysFile /etc/ssh/lab_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin yes\nUsePAM yes\nPrintMotd no\nUseDNS no\nMaxStartups 100\nAcceptEnv LANG LC_*\n"
        "Subsystem sftp internal-sftp\n"
    ),
}

_PACKAGES_SCRIPT = """
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy "$@"
apt-get clean
sed -i 's/^# *\\(en_US.UTF-8\\|de_DE.UTF-8\\)/\\1/' /etc/locale.gen
locale-gen
rm -f /etc/ssh/ssh_host_*
"""

_ACCOUNTS = f"""
for account in {LOGIN} {LOGIN_ASKED}; do
    useradd --create-home --shell /bin/bash "$account"
done
useradd --create-home --shell /bin/sh {APPLICATION}
echo '{LOGIN_ASKED}:{PASSWORD}' | chpasswd
"""

MACHINE = Root(
    "machine",
    "",
    (),
    _ACCOUNTS
    + "".join(
        f"cat >'/{name}' <<'END'\n{_FILES[name]}END\n"
        for name in ("etc/sudoers.d/lab", "etc/ssh/sshd_config")
    ),
)
"""This machine's own root: for a host that costs nothing to make."""


def _finish(root: Root, folder: Path) -> None:
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o440 if "sudoers" in name else 0o644)
    (folder / "etc/apt/sources.list").write_text(f"deb {archive()} {root.suite} main\n")
    connect(folder)
    inside = 'shift; exec chroot "$root" /bin/sh -ec "$0" lab "$@"'
    command = entered(folder, inside.replace('"$0"', '"$LAB_SCRIPT"'))
    run(
        [*command, *root.packages],
        f"packages of {root.name}",
        environment={"LAB_SCRIPT": _PACKAGES_SCRIPT + _ACCOUNTS},
    )
    # It would keep package modules from starting what they install; a host is to behave as a machine does.
    (folder / "usr/sbin/policy-rc.d").unlink()


def connect(folder: Path) -> None:
    """Let a root find other machines as this one does: resolver and hosts file."""
    for name in ("resolv.conf", "hosts"):
        source, copy = Path("/etc") / name, folder / "etc" / name
        if not source.exists() or (copy.is_file() and copy.read_text() == source.read_text()):
            continue
        # At once, since hosts may be running on this root.
        new = copy.with_name(f".{name}.{os.getpid()}.{threading.get_native_id()}")
        new.write_text(source.read_text())
        new.rename(copy)
