# SPDX-License-Identifier: BSD-3-Clause
"""``fatline mux``, ``doctor`` and ``demo`` as a user runs them: the installed command, real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fatline.cli.mux import figures, memory_kb
from fatline.cli.sandbox import PrivateSshd
from fatline.cli.tools import default_python

FATLINE = Path(sys.executable).with_name("fatline")
RUN_SECONDS = 300

Command = Callable[..., "subprocess.CompletedProcess[str]"]

START_MUX = "from fatline.client import get_client; print(get_client().status())"


@pytest.fixture
def runtime_directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def fatline(tmp_path: Path, runtime_directory: Path) -> Iterator[Command]:
    """Run the installed command in `tmp_path` with a mux of its own, which is stopped in the end."""
    names = ("ANSIBLE_", "FATLINE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    environment |= {"FATLINE_RUNTIME_DIR": str(runtime_directory), "ANSIBLE_HOME": str(tmp_path / "home")}

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FATLINE, *arguments],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    yield run
    run("mux", "stop")


@pytest.fixture
def mux(tmp_path: Path, runtime_directory: Path) -> str:
    """A running mux; what it says of itself."""
    environment = {**os.environ, "FATLINE_RUNTIME_DIR": str(runtime_directory)}
    done = subprocess.run(
        [sys.executable, "-c", START_MUX],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=True,
    )
    return done.stdout


def test_status_without_a_mux_says_so_and_starts_none(fatline: Command, runtime_directory: Path) -> None:
    done = fatline("mux", "status")
    assert done.returncode == 1
    assert done.stdout == f"no mux is running (looked in {runtime_directory})\n"
    assert list(runtime_directory.iterdir()) == []


def test_status_of_a_mux_names_its_socket_and_process(fatline: Command, mux: str) -> None:
    done = fatline("mux", "status")
    assert done.returncode == 0
    assert "socket " in done.stdout
    assert figures(done.stdout)["pid"] == figures(mux)["pid"]


def test_stop_ends_the_mux(fatline: Command, mux: str) -> None:
    assert "stopped" in fatline("mux", "stop").stdout
    assert not Path(f"/proc/{figures(mux)['pid']}").exists()
    done = fatline("mux", "stop")
    assert (done.returncode, done.stdout.startswith("no mux was running")) == (0, True)


def test_stop_closes_masters_that_stock_commands_left(
    fatline: Command, tmp_path: Path, runtime_directory: Path
) -> None:
    """ControlPersist keeps a master in the background on a control path of Fatline's."""
    runtime_directory.mkdir(mode=0o700, exist_ok=True)
    path = runtime_directory / "cp-0123456789abcdef"
    with PrivateSshd(tmp_path / "sshd") as server:
        options = ["-M", "-f", "-N", "-o", f"ControlPath={path}", "-o", "ControlPersist=300"]
        subprocess.run(["ssh", *options, *server.ssh_arguments()], check=True, timeout=30)
        assert path.is_socket()
        assert "closed 1 ssh connection" in fatline("mux", "stop").stdout
        assert not path.exists()


def test_stop_kills_a_mux_that_hangs(fatline: Command, mux: str) -> None:
    pid = int(figures(mux)["pid"])
    os.kill(pid, signal.SIGSTOP)
    assert f"killed process {pid}" in fatline("mux", "stop").stdout
    assert fatline("mux", "status").returncode == 1


def test_a_socket_that_nobody_serves_is_no_mux(fatline: Command, runtime_directory: Path) -> None:
    runtime_directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(runtime_directory / "mux-0123456789abcdef"))
    assert fatline("mux", "status").returncode == 1


@pytest.mark.usefixtures("fatline")
def test_memory_is_the_muxes_own_account(mux: str, runtime_directory: Path, tmp_path: Path) -> None:
    assert int(figures(mux)["pss_kb"]) > 0
    assert memory_kb(runtime_directory) > 0
    assert memory_kb(tmp_path / "nothing") == 0


def test_an_untrustworthy_runtime_directory_is_refused_in_words(
    fatline: Command, runtime_directory: Path
) -> None:
    runtime_directory.mkdir(mode=0o777)
    runtime_directory.chmod(0o777)
    done = fatline("mux", "status")
    assert done.returncode == 3
    assert "open to other users" in done.stderr


def test_doctor_without_configuration_finds_the_fault(fatline: Command) -> None:
    done = fatline("doctor")
    assert done.returncode == 1
    assert "FAULT not active" in done.stdout


@pytest.mark.parametrize(
    ("line", "door"),
    [
        ("strategy = fatline.core.linear", "the strategy fatline.core.linear"),
        ("callbacks_enabled = fatline.core.fatline", "the callback fatline.core.fatline"),
        ("transport = fatline.core.ssh", "the connection fatline.core.ssh"),
    ],
)
def test_doctor_names_the_door(fatline: Command, tmp_path: Path, line: str, door: str) -> None:
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\n{line}\n")
    done = fatline("doctor", PATH=f"{FATLINE.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout
    assert f"active through {door}" in done.stdout
    assert str(tmp_path / "ansible.cfg") in done.stdout


def test_doctor_reports_a_configuration_that_ansible_refuses(fatline: Command, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults\n")
    done = fatline("doctor")
    assert done.returncode == 3
    assert "ansible-config failed" in done.stderr


def test_doctor_reaches_a_host(fatline: Command, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults]\nstrategy = fatline.core.linear\n")
    with PrivateSshd(tmp_path / "sshd") as server:
        variables = {**server.inventory_variables(), "ansible_python_interpreter": default_python()}
        words = " ".join(f'{name}="{value}"' for name, value in variables.items())
        (tmp_path / "hosts").write_text(f"target {words}\n")
        path = f"{FATLINE.parent}:{os.environ['PATH']}"
        done = fatline("doctor", "--host", "target", "--inventory", "hosts", PATH=path)
        fatline("mux", "stop")
    assert done.returncode == 0, done.stdout
    assert re.search(r"agent: Python 3\.\d+\.\d+, booted in \d\.\d+ s", done.stdout)
    assert done.stdout.count(": pong, ") == 2
    assert re.search(r"fatline: .*warm", done.stdout)


def test_doctor_says_why_a_host_cannot_be_reached(fatline: Command, tmp_path: Path) -> None:
    with PrivateSshd(tmp_path / "sshd") as server:
        port = server.port  # free again once the server is gone
    (tmp_path / "hosts").write_text(f"target ansible_host=127.0.0.1 ansible_port={port}\n")
    done = fatline("doctor", "--host", "target", "--inventory", "hosts")
    assert done.returncode == 1
    assert "Connection refused" in done.stdout


def test_demo_prints_both_times_and_the_ratio(fatline: Command) -> None:
    done = fatline("demo")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d+\.\d\d s$", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"Fatline took \d+\.\d times less time", done.stdout)
    assert "fatline: accelerated" in done.stdout
