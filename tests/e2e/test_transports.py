# SPDX-License-Identifier: BSD-3-Clause
"""Connections that run commands with a program: real ones where root is enough, else stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pypi_collections
import pytest
from ansible_support import PYTHON, Lab, difference
from e2e_support import status_value, wait_for

from fatline import mux
from fatline.ansible import transports
from fatline.client import Client

pytestmark = pytest.mark.timeout(300)

STAND_IN = Path(__file__).with_name("stand_in.py")

STANDING_IN = {
    "docker": ("community.docker.docker", {}),
    "podman": ("containers.podman.podman", {}),
    "buildah": ("containers.podman.buildah", {}),
    "kubectl": ("kubernetes.core.kubectl", {"ansible_kubectl_namespace": "space"}),
    "lxc": ("community.general.lxd", {}),
    "incus": ("community.general.incus", {}),
    "jexec": ("community.general.jail", {}),
}


@pytest.fixture(scope="session")
def collections() -> Path:
    """Where the collections are."""
    found = pypi_collections.installed()
    if found is None:
        pytest.skip("no collections; see tests/e2e/pypi_collections.py")
    return found


@pytest.fixture
def lab(tmp_path: Path, collections: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """An empty inventory, and the programs' stand-ins at the front of PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*STANDING_IN, "jls", "oc"):
        shutil.copy(STAND_IN, programs / name)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "calls"))
    lab = Lab(tmp_path, {})
    # Lab's environment leaves out what the user has set, so these are set again for each run.
    kept = lab.environment
    lab.environment = lambda **changes: kept(ANSIBLE_COLLECTIONS_PATH=str(collections), **changes)  # type: ignore[method-assign]
    yield lab


def calls(lab: Lab) -> list[list[str]]:
    """Return how the stand-ins were called, and forget it."""
    log = lab.directory / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def until_command(call: list[str]) -> list[str]:
    """Return a call without the command that was to be run."""
    return call[: call.index("-c")] if "-c" in call else call


TASKS = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: first, ping: }
    - {name: again, ping: }
    - {name: command, command: sh -c 'pwd; id -u; cat', args: {stdin: "given"}}
    - {name: shell, shell: "echo out; echo err >&2; exit 3", ignore_errors: true}
    - {name: raw, raw: "echo raw; pwd"}
    - {name: bad argument, stat: {nothing: here}, ignore_errors: true}
    - {name: environment, shell: 'echo "$FOO"', environment: {FOO: "bar 'baz' $x"}}
    - {name: kind, debug: {msg: "{{ ansible_connection }}"}}
"""


@pytest.mark.parametrize("program", sorted(STANDING_IN))
def test_an_agent_is_started_as_the_plugin_starts_a_command(lab: Lab, program: str) -> None:
    """Ansible fact 21: the plugin makes the command line, and keeps its name."""
    name, variables = STANDING_IN[program]
    lab.hosts = {"one": {"ansible_connection": name, "ansible_host": "box", **variables}}
    lab.write()
    # Their own ways of copying files are not what is tested; podman's plugin has no other.
    stock = lab.playbook(TASKS, door="stock", ANSIBLE_PIPELINING="True")
    assert stock.rc == 0, stock.output
    stock_calls = [call for call in calls(lab) if "-c" in call]
    got = lab.playbook(TASKS)
    assert got.rc == 0, got.output
    agent_calls = [call for call in calls(lab) if "-c" in call]
    found = {
        one.task: what
        for one, other in zip(stock.records, got.records, strict=True)
        if (what := difference(one, other))
    }
    assert not found, f"stock and then Fatline: {found}"
    assert got.summary()[0] == 7, got.output
    (started,) = agent_calls
    prefixes = [[word for word in until_command(call) if word != "-i"] for call in (started, *stock_calls)]
    assert all(prefix == prefixes[0] for prefix in prefixes[1:])
    assert len(stock_calls) > 5


def test_what_is_not_pipelined_by_the_plugin_still_gets_its_input(lab: Lab) -> None:
    """podman's own method connects no input; a fall-back with a module on it must."""
    lab.hosts = {
        "one": {
            "ansible_connection": "containers.podman.podman",
            "ansible_host": "box",
            # An interpreter that cannot hold an agent: the launcher takes no such word.
            "ansible_python_interpreter": "/usr/bin/env python3",
        }
    }
    lab.write()
    got = lab.playbook("- hosts: all\n  gather_facts: false\n  tasks: [{name: first, ping: }]\n")
    assert got.rc == 0, got.output
    assert got.of("first").result["ping"] == "pong"


def test_lxc_s_program_is_called_as_its_library_is() -> None:
    """The plugin attaches through bindings; the argument vector is Fatline's own here."""
    plugin = SimpleNamespace(get_option={"remote_addr": "box", "executable": "/bin/sh"}.get)
    line = transports._lxc(plugin, "a 'command'")
    assert line.argv == ["lxc-attach", "--clear-env", "-n", "box", "--", "/bin/sh", "-c", "a 'command'"]


def test_other_connections_are_left_alone(lab: Lab) -> None:
    """Whatever is not in the table keeps its class: winrm, network_cli, a user's plugin called docker."""
    plugins = lab.directory / "connection_plugins"
    plugins.mkdir()
    (plugins / "docker.py").write_text(OWN_PLUGIN)
    lab.hosts = {
        "own": {"ansible_connection": "docker"},
        "qubes": {"ansible_connection": "community.general.funcd"},
    }
    lab.write()
    got = lab.playbook("- hosts: own\n  gather_facts: false\n  tasks: [{name: raw, raw: anything}]\n")
    assert got.rc == 0, got.output
    assert got.of("raw").result["stdout"] == "the user's own"
    assert got.summary()[:2] == (0, 0)


OWN_PLUGIN = """
DOCUMENTATION = '''
name: docker
short_description: not the one of the collection
description: [a test]
author: a test
options: {}
'''
from ansible.plugins.connection import ConnectionBase

class Connection(ConnectionBase):
    transport = "docker"

    def _connect(self):
        self._connected = True

    def exec_command(self, cmd, in_data=None, sudoable=True):
        return 0, b"the user's own", b""

    def put_file(self, in_path, out_path):
        raise NotImplementedError

    fetch_file = put_file

    def close(self):
        pass
"""

EVERYTHING = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: facts, setup: {gather_subset: ['!all', '!min', 'user', 'python']}}
    - {name: inherited, shell: "pwd; id; umask; env | grep -v -e ^ANSIBLE_ -e ^FATLINE_ -e ^RECORD | sort"}
    - {name: again, shell: "pwd; cat {{ only_here }}"}
    - {name: folder, file: {path: "{{ there }}", state: directory, mode: "0750"}}
    - {name: copy, copy: {content: "hello\\n", dest: "{{ there }}/copied"}}
    - {name: copy again, copy: {content: "hello\\n", dest: "{{ there }}/copied"}}
    - {name: line, lineinfile: {path: "{{ there }}/copied", line: more}}
    - {name: slurp, slurp: {src: "{{ there }}/copied"}}
    - {name: fetch, fetch: {src: "{{ there }}/copied", dest: "{{ playbook_dir }}/fetched", flat: true}}
    - {name: raw, raw: "echo raw; echo more >&2; pwd; exit 3", ignore_errors: true}
    - {name: loop, command: "printf '%s' {{ item }}", loop: [1, 2, 3, 4]}
    - {name: removed, file: {path: "{{ there }}", state: absent}}
"""


def compare(lab: Lab) -> None:
    """Run everything on the lab's host, stock and then with Fatline."""
    stock = lab.playbook(EVERYTHING, door="stock")
    assert stock.rc == 0, stock.output
    (lab.directory / "fetched").unlink()
    got = lab.playbook(EVERYTHING)
    assert got.rc == 0, got.output
    found = {
        one.task: what
        for one, other in zip(stock.records, got.records, strict=True)
        if (what := difference(one, other))
    }
    assert not found, f"stock and then Fatline: {found}"
    accelerated, _, rest = got.summary()
    assert accelerated >= 12, rest
    native = mux.find()
    assert native is not None
    client = Client(native)
    wait_for("the agents' end", lambda: status_value(client, "agents") == "0")


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_chroot(lab: Lab, tmp_path: Path) -> None:
    """A real one, with a copy of this machine's interpreter in it."""
    root = make_root(tmp_path / "root")
    (root / "mark").write_text("in the chroot\n")
    lab.hosts = {"one": {"ansible_connection": "community.general.chroot", "ansible_host": str(root)}}
    lab.variables |= {"there": "/tmp/folder", "only_here": "/mark"}
    lab.write()
    compare(lab)


@pytest.mark.skipif(os.geteuid() != 0, reason="nsenter needs root")
def test_nsenter(lab: Lab) -> None:
    """Into the namespaces of a process that has its own."""
    try:
        subprocess.run(["unshare", "--mount", "--uts", "--ipc", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here: {error}")
    mark = lab.directory / "mounted"
    script = f"mount -t tmpfs none /mnt && echo inside > /mnt/mark && touch {mark} && exec sleep 600"
    with subprocess.Popen(["unshare", "--mount", "--uts", "--ipc", "sh", "-c", script]) as inside:
        try:
            wait_for("the mount", mark.exists)
            lab.hosts = {
                "one": {"ansible_connection": "community.docker.nsenter", "ansible_nsenter_pid": inside.pid}
            }
            lab.variables |= {"there": "/mnt/folder", "only_here": "/mnt/mark"}
            lab.write()
            compare(lab)
        finally:
            inside.kill()


def make_root(root: Path) -> Path:
    """Make the smallest root directory in which modules run: a shell, a few programs, Python."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            leads_to = os.readlink(f"/{name}").lstrip("/")
            (root / leads_to).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(leads_to)
    for name in ("tmp", "dev", "root", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("/etc/passwd", "/etc/group"):
        shutil.copy(name, root / name[1:])
    try:
        os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (root / "dev/null").chmod(0o666)
    except PermissionError:
        pytest.skip("no device can be made here")
    ask = [PYTHON, "-c", "import os, sysconfig; print(os.path.dirname(os.__file__))"]
    library = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    left_out = shutil.ignore_patterns(
        "__pycache__", "test", "dist-packages", "site-packages", "idlelib", "config-*"
    )
    shutil.copytree(library, root / str(library)[1:], ignore=left_out, symlinks=True)
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin"))]
    for file in (Path(PYTHON), *programs):
        place(file, root)
    needed = {
        name
        for file in (Path(PYTHON), *programs, *library.glob("lib-dynload/*.so"))
        for name in libraries(file)
    }
    for name in sorted(needed):
        place(Path(name), root)
    return root


PROGRAMS = (
    *("sh", "cat", "chmod", "cp", "dd", "env", "echo", "grep"),
    *("id", "ls", "mkdir", "printf", "rm", "sleep", "sort", "touch"),
)


def place(file: Path, root: Path) -> None:
    """Copy a file to where it is, below another root."""
    target = root / str(file)[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file.resolve(), target)


def libraries(file: Path) -> list[str]:
    """Return the shared libraries that a program or module needs."""
    told = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", told)
