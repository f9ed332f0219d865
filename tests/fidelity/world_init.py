# SPDX-License-Identifier: BSD-3-Clause
"""The first process of a world (see `world`): makes its file system, starts its sshd, then collects orphans.

Started in new mount, pid, network, uts and ipc namespaces as `world_init.py DIRECTORY SEED BIND...`. It says
"made" on standard output, waits for a line, then starts sshd and says "up" when that listens. It ends, with
everything in the world, when standard input closes.
It stays outside the world's root, so that the layer is readable under /proc/PID/root/DIRECTORY/upper.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

START_SECONDS = 20.0

# What a login must not see of the machine that the suite runs on, and what others change there meanwhile.
HIDDEN = ("tmp", "var/tmp", "home", "root", "etc/ansible", "run", "var/log", "var/cache/apt", "etc/sudoers.d")


def main(directory: str, seed: str, *binds: str) -> None:
    """Make the world and stay until it is to end."""
    root = make_file_system(directory, seed, binds)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    socket.sethostname("world")
    print("made", flush=True)
    sys.stdin.readline()
    server = subprocess.Popen(
        ["/usr/sbin/chroot", root, shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd", "-D"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )
    wait_for_server(server)
    print("up", flush=True)
    keep_until_closed()


def make_file_system(directory: str, seed: str, binds: tuple[str, ...]) -> str:
    """Lay an empty, writable layer over the machine's own root; return where the result is mounted."""
    mount("-t", "tmpfs", "-o", "mode=755,size=2g", "world", directory)
    upper, work, root = (os.path.join(directory, name) for name in ("upper", "work", "root"))
    os.mkdir(work)
    os.mkdir(root)
    subprocess.run(["cp", "-a", seed, upper], check=True)
    for name in HIDDEN:
        path = os.path.join(upper, name)
        os.makedirs(path, exist_ok=True)
        os.setxattr(path, "trusted.overlay.opaque", b"y")
    mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "world", root)
    for path in ("/dev", "/sys"):
        mount("--rbind", path, root + path)
    mount("-t", "tmpfs", "shm", root + "/dev/shm")
    mount("-t", "proc", "proc", root + "/proc")
    for path in binds:
        os.makedirs(root + path, exist_ok=True)
        mount("--bind", path, root + path)
        mount("-o", "remount,bind,ro", root + path)
    return root


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, stdout=sys.stderr)


def wait_for_server(server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 22), 1):
            return
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit("sshd did not start")
        time.sleep(0.01)


def keep_until_closed() -> None:
    """Collect what ends without a parent, as an init does, until standard input closes."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        ready, _, _ = select.select([0, wake], [], [])
        if 0 in ready:
            return
        os.read(wake, 512)


if __name__ == "__main__":
    main(*sys.argv[1:])
