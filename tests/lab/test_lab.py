# SPDX-License-Identifier: BSD-3-Clause
"""The lab itself, on this machine's own root, which costs nothing to build."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import conformance
import cores
import matrix
import pytest
import roots
from e2e_support import is_alive, wait_for, wait_gone
from hosts import Host

from fatline.cli.sandbox import Keys

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def can_enter() -> None:
    """Skip where this process may not make name spaces and mounts."""
    trial = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if os.getuid() != 0 or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("needs root that may mount")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.generate(tmp_path / "keys")


@pytest.fixture
def host(tmp_path: Path, keys: Keys, can_enter: None) -> Iterator[Host]:
    with Host(roots.MACHINE, tmp_path / "host", keys, name="lab-host") as started:
        yield started


def ssh(host: Host, user: str, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    words = ["ssh", "-F", str(host.ssh_config()), "-p", str(host.port), "-l", user, host.address, command]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def test_a_host_is_a_machine_of_its_own(host: Host, tmp_path: Path) -> None:
    told = ssh(host, roots.LOGIN, "hostname; id -un; sudo -n id -un; sudo touch /etc/lab-was-here")
    assert told.stdout.split() == ["lab-host", roots.LOGIN, "root"], told.stderr
    assert (host.files() / "etc/lab-was-here").exists()
    assert not Path("/etc/lab-was-here").exists()
    pids = ssh(host, roots.LOGIN, "ls -d /proc/[0-9]*").stdout.split()
    assert len(pids) < 20, "the processes of this machine are not seen"


def test_a_host_cannot_change_the_kernel_s_parameters(host: Host) -> None:
    """They are not the host's but this machine's. The attempt writes what is there already."""
    parameter = "/proc/sys/fs/protected_regular"
    told = ssh(host, roots.LOGIN, f"sudo dd if={parameter} of={parameter}")
    assert told.returncode == 1, "written"
    assert "Read-only file system" in told.stderr


def test_sudo_asks_the_one_who_has_a_password(host: Host) -> None:
    assert ssh(host, roots.LOGIN_ASKED, "sudo -n id -un").returncode == 1
    told = ssh(host, roots.LOGIN_ASKED, "sudo -S -p '' id -un", stdin=roots.PASSWORD + "\n")
    assert told.stdout.strip() == "root", told.stderr


def test_nothing_is_left_of_a_host_whose_owner_was_killed(
    tmp_path: Path, keys: Keys, can_enter: None
) -> None:
    program = f"""
import sys, pathlib
sys.path[:0] = [{str(HERE)!r}]
import hosts, roots
from fatline.cli.sandbox import Keys
with hosts.Host(roots.MACHINE, pathlib.Path({str(tmp_path / "host")!r}), Keys.generate(
        pathlib.Path({str(tmp_path / "keys")!r}))) as host:
    print(host.sshd_pid(), flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        sshd = int(owner.stdout.readline())
        assert is_alive(sshd)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    wait_gone([sshd])
    wait_for("the mounts to go", lambda: str(tmp_path) not in Path("/proc/mounts").read_text())
    assert list((tmp_path / "host" / "state").iterdir()) == []


def test_a_command_in_a_root_ends_with_its_parent(tmp_path: Path, can_enter: None) -> None:
    (tmp_path / "state").mkdir()
    inside = ["/bin/sh", "-c", f"echo $$ >{tmp_path}/pid; touch /etc/lab-was-here; exec sleep 1000"]
    command = cores.in_root(Path("/"), inside, [tmp_path], overlay=True)
    program = f"import subprocess\nsubprocess.run({command!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "STATE": str(tmp_path / "state")},
    ) as parent:
        wait_for(
            "the command to run", lambda: (tmp_path / "pid").exists() and _running("sleep 1000", parent.pid)
        )
        found = _running("sleep 1000", parent.pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_gone(found)
    assert not Path("/etc/lab-was-here").exists()


def _running(words: str, ancestor: int) -> list[int]:
    """Descendants of a process that were started as `words`."""
    found = []
    for child in Path(f"/proc/{ancestor}/task/{ancestor}/children").read_text().split():
        if Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip() == words:
            found.append(int(child))
        found += _running(words, int(child))
    return found


def test_the_matrix_sees_a_difference() -> None:
    target = matrix.TARGETS["bookworm-3.11"]
    said = "<127.77.0.3> fatline: cold: first run of a new agent\n"

    def observed(msg: str, output: str = said) -> matrix.Observed:
        event = {"event": "ok", "host": target.name, "task": "ping", "result": {"msg": msg}}
        return matrix.Observed(0, output, {target.name: [event]})

    def cell(got: matrix.Observed) -> matrix.Cell:
        return matrix._compared(target, "127.77.0.3", observed("pong"), got)

    assert cell(observed("pong")) == matrix.Cell("1 same, 1 modules warm, 0 cold, 0 by stock ssh", True)
    assert not cell(observed("other")).good
    assert not cell(observed("pong", output="")).good, "no module ran warm"
    assert not cell(matrix.Observed(4, "")).good, "no result at all"


@pytest.fixture
def tree(tmp_path: Path) -> conformance.Tree:
    """A source tree with two targets: one that does well on the host, one that cannot."""
    for name, text in {
        "lib/ansible/release.py": "__version__ = '2.0.0'\n",
        "test/lib/ansible_test/_data/ansible.cfg": "",
        "test/integration/targets/good/tasks/main.yml": (
            "- {command: hostname, register: told}\n- {assert: {that: told.stdout == 'testhost'}}\n"
            "- {file: {path: /etc/lab-was-here, state: touch}}\n"
            "- {file: {path: /etc/lab-was-here, state: touch}, delegate_to: localhost, connection: local}\n"
        ),
        "test/integration/targets/bad/tasks/main.yml": "- command: 'false'\n",
        "test/integration/targets/script/runme.sh": (
            '#!/bin/sh\nexec ansible -i ../../inventory testhost -m ping "$@"\n'
        ),
    }.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "tree/test/integration/targets/script/runme.sh").chmod(0o755)
    return conformance.Tree(tmp_path / "tree")


def test_conformance_holds_against_stock(tree: conformance.Tree, tmp_path: Path, can_enter: None) -> None:
    here = cores.Controller(cores.Core("here"), Path(sys.executable).parent)
    book = conformance.Book(tmp_path / "results.json")
    targets, configurations = ["good", "bad", "script"], ["stock", "strategy"]
    with (
        conformance.Runner(tree, here, roots.MACHINE, tmp_path, 120, 1) as one,
        conformance.Runner(tree, here, roots.MACHINE, tmp_path, 120, 2) as another,
    ):
        conformance.run_all([one, another], book, targets, configurations)
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    kept = conformance.Book(tmp_path / "results.json")
    for target in ("good", "script"):
        for configuration in configurations:
            result = kept.get(target, configuration)
            assert result is not None and result.verdict == conformance.PASSED, logs
    accelerated = kept.get("good", "strategy")
    assert accelerated is not None and accelerated.accelerated >= 2, logs
    failed = kept.get("bad", "stock")
    assert failed is not None and failed.verdict == conformance.FAILED
    assert kept.get("bad", "strategy") is None
    assert conformance.verdict(kept, targets, configurations) == 0
    kept.put("good", "strategy", conformance.Result(conformance.FAILED, 1.0))
    assert conformance.verdict(kept, targets, configurations) == 1
    assert not Path("/etc/lab-was-here").exists(), "neither host nor controller writes to this machine"
