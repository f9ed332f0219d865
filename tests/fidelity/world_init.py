# SPDX-License-Identifier: BSD-3-Clause
"""The first process of a world (see `world`): makes its files, runs sshd and commands, collects orphans.

Started in new mount, pid, network, uts and ipc namespaces as `world_init.py DIRECTORY SEED BIND...`. It says
"made", then takes orders, one JSON object a line, and answers each with a line when it is done:

    {"server": true}                                                                       -> up
    {"argv": [], "env": {}, "cwd": "", "uid": 0, "stdin": "", "stdout": "", "stderr": ""}  -> exit status

It ends, with everything in the world, when its standard input closes. It stays outside the world's root, so
that the layer is readable under /proc/PID/root/DIRECTORY/upper.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

START_SECONDS = 20.0

# What a login must not see of the machine that the suite runs on, and what others change there meanwhile.
HIDDEN = ("tmp", "var/tmp", "home", "root", "etc/ansible", "run", "var/log", "var/cache/apt", "etc/sudoers.d")


def main(directory: str, seed: str, *binds: str) -> None:
    """Make the world and stay until it is to end."""
    root = make_file_system(directory, seed, binds)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    socket.sethostname("world")
    print("made", flush=True)
    take_orders(root)


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


def take_orders(root: str) -> None:
    """Do what standard input says, and collect what ends without a parent, as an init does."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    awaited = 0
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 512)
            for pid, status in ended():
                if pid == awaited:
                    print(os.waitstatus_to_exitcode(status), flush=True)
        if 0 in ready:
            line = sys.stdin.readline()
            if not line:
                return
            order = json.loads(line)
            if "argv" in order:
                awaited = start(root, order)
            else:
                start_server(root)
                print("up", flush=True)


def ended() -> Iterator[tuple[int, int]]:
    """Collect every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status


def start(root: str, order: dict[str, Any]) -> int:
    """Start a command in a session of its own and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        given = os.open(order["stdin"], os.O_RDONLY)
        output, errors = (os.open(order[name], os.O_WRONLY) for name in ("stdout", "stderr"))
        for number, fd in enumerate((given, output, errors)):
            os.dup2(fd, number)
        os.closerange(3, 64)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.chroot(root)
        os.chdir(order["cwd"])
        os.setgroups([order["uid"]])
        os.setgid(order["uid"])
        os.setuid(order["uid"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except BaseException as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(127)


def start_server(root: str) -> None:
    """Start sshd and wait until it listens."""
    command = [shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or "sshd", "-D"]
    nowhere = {"stdin": os.devnull, "stdout": os.devnull, "stderr": os.devnull}
    start(root, {"argv": command, "env": {"PATH": "/usr/sbin:/usr/bin"}, "cwd": "/", "uid": 0, **nowhere})
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 22), 1):
            return
        if time.monotonic() > deadline:
            sys.exit("sshd did not start")
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
