# SPDX-License-Identifier: BSD-3-Clause
"""The meter: what it charges to a run, and that nothing outlives it. Real processes throughout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fatline.cli.bench.meter import Meter, MeterError, Reading

DEADLINE_SECONDS = 20.0
BURNT_SECONDS = 0.3

BURN = f"""
import time
while time.process_time() < {BURNT_SECONDS}:
    pass
"""

# Leaves the process group and session and lets its parent end, as a mux or an ssh master does.
DAEMON = f"""
import os, sys
if os.fork():
    sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
open(sys.argv[1], 'w').write(str(os.getpid()))
{BURN}
import signal
signal.pause()
"""


@pytest.fixture
def meter() -> Iterator[Meter]:
    with Meter() as running:
        yield running


@pytest.fixture
def run(meter: Meter, tmp_path: Path) -> Callable[..., Reading]:
    """Run a Python program under the meter."""

    def call(program: str, *arguments: str, **options: bool | float) -> Reading:
        return meter.run(
            [sys.executable, "-S", "-c", program, *arguments],
            env=dict(os.environ),
            cwd=tmp_path,
            log=tmp_path / "log",
            **{"timeout": DEADLINE_SECONDS, **options},  # type: ignore[arg-type]
        )

    return call


def read_pid(path: Path) -> int:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_status_wall_time_and_output(run: Callable[..., Reading], tmp_path: Path) -> None:
    reading = run("import sys, time; time.sleep(0.2); print('said'); sys.exit(3)")
    assert reading.rc == 3
    assert 0.2 <= reading.wall_s < DEADLINE_SECONDS
    assert (tmp_path / "log").read_text() == "said\n"


def test_time_of_waited_for_children_is_charged(run: Callable[..., Reading]) -> None:
    reading = run(f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {BURN!r}])")
    assert reading.cpu_s >= BURNT_SECONDS


def test_time_of_a_daemon_is_charged_and_it_is_ended(run: Callable[..., Reading], tmp_path: Path) -> None:
    wait = f"import subprocess, sys, time; subprocess.run([sys.executable, '-S', '-c', {DAEMON!r}, 'pid'])"
    reading = run(f"{wait}; time.sleep({BURNT_SECONDS * 3})")
    assert not exists(read_pid(tmp_path / "pid"))
    assert reading.cpu_s >= BURNT_SECONDS


def test_a_kept_daemon_lives_until_settled(meter: Meter, run: Callable[..., Reading], tmp_path: Path) -> None:
    run(DAEMON, "pid", keep=True)
    pid = read_pid(tmp_path / "pid")
    assert exists(pid)
    meter.settle()
    assert not exists(pid)


def test_closing_the_meter_ends_what_was_kept(tmp_path: Path) -> None:
    with Meter() as meter:
        meter.run(
            [sys.executable, "-S", "-c", DAEMON, "pid"],
            env=dict(os.environ),
            cwd=tmp_path,
            log=tmp_path / "log",
            timeout=DEADLINE_SECONDS,
            keep=True,
        )
        pid = read_pid(tmp_path / "pid")
    assert not exists(pid)


def test_memory_of_the_whole_tree_is_sampled(run: Callable[..., Reading]) -> None:
    hold = "import time; data = bytearray(b'x') * 50_000_000; time.sleep(0.5)"
    one = run(hold, sample=True).peak_pss_kb
    two = run(
        f"import subprocess, sys; p = [subprocess.Popen([sys.executable, '-S', '-c', {hold!r}])"
        " for _ in range(2)]; [each.wait() for each in p]",
        sample=True,
    ).peak_pss_kb
    assert 50_000 < one < 90_000
    assert 100_000 < two < 180_000


def test_a_run_without_an_end_is_killed(run: Callable[..., Reading]) -> None:
    assert run("import signal; signal.pause()", timeout=0.5).rc == -9


def test_a_missing_program_is_reported_and_the_meter_goes_on(
    meter: Meter, run: Callable[..., Reading], tmp_path: Path
) -> None:
    with pytest.raises(MeterError, match="/no/such/program: No such file"):
        meter.run(["/no/such/program"], env={}, cwd=tmp_path, log=tmp_path / "log", timeout=1.0)
    assert run("").rc == 0
