# SPDX-License-Identifier: BSD-3-Clause
"""Real places to run commands in, each with the tool that makes it, from one root directory; all need root.

What is started keeps its state below a directory of the test's, and ends with it. A tool that is missing, or
that does not work on this machine, skips the test with its own words.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_support import wait_for

IDLE = ("sleep", "600")
SECONDS = 60


@dataclass
class Place:
    """Where a connection leads, and a second way there."""

    variables: dict[str, Any]
    """Of the inventory."""
    inside: list[str]
    """What runs a command there."""
    sees_processes: bool = True
    """Whether its /proc has them, and no others."""


@contextlib.contextmanager
def chroot(root: Path, _scratch: Path) -> Iterator[Place]:
    """Just the directory."""
    variables = {"ansible_connection": "community.general.chroot", "ansible_host": str(root)}
    yield Place(variables, ["chroot", str(root)], sees_processes=False)


@contextlib.contextmanager
def nsenter(root: Path, scratch: Path) -> Iterator[Place]:
    """A process with namespaces of its own, and something mounted there."""
    namespaces = ["unshare", "--mount", "--uts", "--ipc"]
    _run(*namespaces, "true")
    marker = scratch / "mounted"
    script = f"mount --rbind {root}/tmp /mnt && echo 'only here' > /mnt/mark && touch {marker} && exec $0 $@"
    with subprocess.Popen([*namespaces, "sh", "-c", script, *IDLE]) as process:
        try:
            wait_for("the mount", marker.exists)
            variables = {
                "ansible_connection": "community.docker.nsenter",
                "ansible_nsenter_pid": process.pid,
                "only_here": "/mnt/mark",
                "there": "/mnt/folder",
            }
            inside = ["nsenter", "--mount", f"--target={process.pid}", "--"]
            yield Place(variables, inside, sees_processes=False)
        finally:
            process.kill()


@contextlib.contextmanager
def podman(root: Path, scratch: Path) -> Iterator[Place]:
    """A container on the host's network, in the usual limits of a process."""
    _needs("podman")
    program = scratch / "podman"
    # crun wants control groups of the second version, on all of them, and none if there is nothing to limit.
    program.write_text(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount -t cgroup2 none /sys/fs/cgroup; exec \"$@\"' sh "
        f"{shutil.which('podman')} --root {scratch}/root --runroot {scratch}/run --storage-driver vfs "
        '--cgroup-manager cgroupfs "$@"\n'
    )
    program.chmod(0o755)
    limits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1000:1000", "--cgroups", "disabled"]
    start = [str(program), "run", "--detach", "--name", "box", "--network", "host", *limits]
    _run(*start, "--rootfs", str(root), *IDLE)
    try:
        variables = {
            "ansible_connection": "containers.podman.podman",
            "ansible_host": "box",
            "ansible_podman_executable": str(program),
        }
        yield Place(variables, [str(program), "exec", "box"])
    finally:
        _end(str(program), "rm", "--force", "--time", "0", "box")


@contextlib.contextmanager
def buildah(root: Path, scratch: Path) -> Iterator[Place]:
    """A container that is being built; its commands run in a chroot with a few mounts."""
    _needs("buildah")
    settings = scratch / "storage.conf"
    settings.write_text(f'[storage]\ndriver="vfs"\ngraphroot="{scratch}/root"\nrunroot="{scratch}/run"\n')
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CONTAINERS_STORAGE_CONF", str(settings))
        environment.setenv("BUILDAH_ISOLATION", "chroot")
        _run("buildah", "from", "--name", "box", "scratch")
        _run("buildah", "add", "--quiet", "box", str(root), "/")
        try:
            variables = {"ansible_connection": "containers.podman.buildah", "ansible_host": "box"}
            yield Place(variables, ["buildah", "run", "box", "--"], sees_processes=False)
        finally:
            _end("buildah", "rm", "box")


@contextlib.contextmanager
def docker(root: Path, scratch: Path) -> Iterator[Place]:
    """A container of a daemon of the test's own, which leaves the machine's network alone."""
    _needs("docker", "dockerd", "containerd", "runc")
    options = [f"--{name}=false" for name in ("iptables", "ip6tables", "ip-forward", "ip-masq")]
    options += [
        "--bridge=none",
        "--storage-driver=vfs",
        f"--pidfile={scratch}/pid",
        f"--host=unix://{scratch}/sock",
    ]
    options += [f"--data-root={scratch}/data", f"--exec-root={scratch}/exec", "--log-level=warn"]
    with _daemon(scratch, "dockerd", *options), pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_HOST", f"unix://{scratch}/sock")
        _wait_until_it_answers(scratch, "docker", "info")
        archive = scratch / "root.tar"
        _run("tar", "-C", str(root), "-cf", str(archive), ".")
        _run("docker", "import", str(archive), "box")
        limits = ["--ulimit", "nofile=1024:4096"]
        _run("docker", "run", "--detach", "--name", "box", "--network", "host", *limits, "box", *IDLE)
        try:
            variables = {"ansible_connection": "community.docker.docker", "ansible_host": "box"}
            yield Place(variables, ["docker", "exec", "box"])
        finally:
            _end("docker", "rm", "--force", "box")


@contextlib.contextmanager
def lxc(root: Path, scratch: Path) -> Iterator[Place]:
    """A container where the library looks for it, under a name that nobody else has."""
    _needs("lxc-start", "lxc-attach")
    bindings = sorted(Path("/usr/lib/python3/dist-packages").glob("*lxc*"))
    for found in bindings:
        (scratch / found.name).symlink_to(found)
    name = f"fatline-test-{os.getpid()}"
    home = Path("/var/lib/lxc") / name
    home.mkdir(parents=True)
    (home / "config").write_text(
        f"lxc.uts.name = {name}\nlxc.rootfs.path = dir:{root}\nlxc.net.0.type = none\n"
        f"lxc.mount.auto = proc sys\nlxc.init.cmd = {' '.join(IDLE)}\nlxc.apparmor.profile = unconfined\n"
    )
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PYTHONPATH", str(scratch))
            _run("python3", "-c", "import lxc")
            _run("lxc-start", "--name", name)
            variables = {"ansible_connection": "community.general.lxc", "ansible_host": name}
            yield Place(variables, ["lxc-attach", "--name", name, "--"])
    finally:
        _end("lxc-stop", "--kill", "--name", name)
        shutil.rmtree(home)


@contextlib.contextmanager
def lxd(root: Path, scratch: Path) -> Iterator[Place]:
    """A container of a daemon of the test's own, from an image of the root directory."""
    _needs("lxd", "lxc")
    yield from _lxd(root, scratch, "lxd", "lxc", "LXD")


@contextlib.contextmanager
def incus(root: Path, scratch: Path) -> Iterator[Place]:
    """The same, of lxd's successor."""
    _needs("incusd", "incus")
    yield from _lxd(root, scratch, "incusd", "incus", "INCUS")


def _lxd(root: Path, scratch: Path, daemon: str, program: str, prefix: str) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(f"{prefix}_DIR", str(scratch / "state"))
        environment.setenv(f"{prefix}_CONF", str(scratch / "conf"))
        (scratch / "state").mkdir()
        with _daemon(scratch, daemon, "--group", "root"):
            _wait_until_it_answers(scratch, daemon, "waitready", "--timeout=1")
            _run(program, "storage", "create", "default", "dir")
            _run(program, "profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
            _run(program, "image", "import", str(_image(root, scratch)), "--alias", "box")
            settings = ["security.privileged=true", f"raw.lxc=lxc.init.cmd={' '.join(IDLE)}"]
            _run(program, "init", "box", "box", *(word for text in settings for word in ("-c", text)))
            try:
                _run(program, "start", "box")
                plugin = "lxd" if daemon == "lxd" else "incus"
                variables = {"ansible_connection": f"community.general.{plugin}", "ansible_host": "box"}
                yield Place(variables, [program, "exec", "box", "--"])
            finally:
                _end(program, "delete", "--force", "box")


def _image(root: Path, scratch: Path) -> Path:
    metadata = scratch / "metadata.yaml"
    metadata.write_text(f"architecture: {os.uname().machine}\ncreation_date: 1\nproperties: {{os: test}}\n")
    archive = scratch / "image.tar"
    moved = "--transform=s,^\\./,rootfs/,"
    _run("tar", "-cf", str(archive), "-C", str(scratch), "metadata.yaml")
    # It makes its own devices.
    _run("tar", "-rf", str(archive), "-C", str(root), "--exclude=./dev/null", moved, "./")
    return archive


TOOLS: dict[str, Callable[[Path, Path], contextlib.AbstractContextManager[Place]]] = {
    made.__name__: made for made in (buildah, chroot, docker, incus, lxc, lxd, nsenter, podman)
}


@contextlib.contextmanager
def _daemon(scratch: Path, *command: str) -> Iterator[None]:
    """Run a daemon for a while; what it mounts goes with it."""
    alone = ["unshare", "--mount", *command]
    with (scratch / "log").open("wb") as log, subprocess.Popen(alone, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_until_it_answers(scratch: Path, *command: str) -> None:
    try:
        wait_for(
            "the daemon", lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0
        )
    except AssertionError:
        pytest.skip(f"{command[0]} does not work here: {(scratch / 'log').read_text()[-400:]}")


def _needs(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()[-400:]}")


def _end(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
