# SPDX-License-Identifier: BSD-3-Clause
"""Measure a command with every process it leaves behind.

A controller is more than the process that was started: workers, ssh clients, ssh masters that went to the
background, and the mux, which is the child of nobody. The meter is a process that adopts them all
(``PR_SET_CHILD_SUBREAPER``), so whatever descends from the command stays below it. Hence

- CPU time is exact: what wait4 reports for every process that ended, plus, for processes that live on
  between two runs of a warm scenario, the difference of their own counters;
- memory is the sum of the proportional set sizes of all of them, sampled (smaps_rollup);
- nothing outlives the meter: at the end it ends all that is below it.

This file is also the program: it is started on its own, imports nothing of ours, and speaks JSON lines.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_SECONDS = 0.03
END_SECONDS = 5.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Reading:
    """What one run cost."""

    rc: int
    wall_s: float
    cpu_s: float
    peak_pss_kb: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Commands of processes whose memory /proc would not show: the mux of an ordinary user is one."""


class MeterError(Exception):
    """The meter process could not do its work."""


class Meter:
    """Handle of a meter process. A context manager; leaving it ends every process below the meter."""

    def __init__(self) -> None:
        """Start the meter."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        timeout: float,
        keep: bool = False,
        sample: bool = False,
    ) -> Reading:
        """Run `argv` with its output in `log` and say what it cost.

        `keep` leaves the processes that outlive it for the next run; otherwise they are ended, and their
        time is part of the reading. `sample` looks at memory, which takes time from the run.
        """
        request = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "log": str(log),
            "timeout": timeout,
            "keep": keep,
            "sample": sample,
        }
        return Reading(**self._ask(request))

    def settle(self) -> None:
        """End the processes that earlier runs left behind."""
        self._ask({"argv": None})

    def close(self) -> None:
        """End the meter and all below it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise MeterError(f"the meter process ended (status {self._process.wait()})")
        reply: dict[str, Any] = json.loads(answer)
        if "error" in reply:
            raise MeterError(reply["error"])
        return reply


class _Sampler:
    """Looks at the memory of all descendants until stopped; keeps the highest sum."""

    def __init__(self) -> None:
        self.peak_kb = 0
        self.unreadable: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_kb = max(self.peak_kb, sum(self._pss_kb(pid) for pid in descendants(os.getpid())))

    def _pss_kb(self, pid: int) -> int:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1])
        except PermissionError:
            self.unreadable.add(_command_name(pid))
        except OSError:
            pass  # it ended meanwhile
        return 0


class _Account:
    """CPU seconds of everything below this process."""

    def __init__(self) -> None:
        self.reaped = 0.0

    def wait(self, flags: int = 0) -> tuple[int, int]:
        """Reap one process and book its time, that of its own waited-for children included."""
        pid, status, usage = os.wait4(-1, flags)
        if pid:
            self.reaped += usage.ru_utime + usage.ru_stime
        return pid, status

    def living(self) -> float:
        """What processes that are still alive have used so far."""
        return sum(_cpu_of(pid) for pid in descendants(os.getpid()))


def descendants(pid: int) -> Iterator[int]:
    """Every process below `pid`."""
    for child in _children(pid):
        yield child
        yield from descendants(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _cpu_of(pid: int) -> float:
    """User and system seconds of `pid` and of its waited-for children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS_PER_SECOND


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _end_all(account: _Account) -> None:
    """End every process below this one; those that ignore SIGTERM are killed after a grace."""
    deadline = time.monotonic() + END_SECONDS
    _signal_all(signal.SIGTERM)
    while list(descendants(os.getpid())):
        if time.monotonic() > deadline:
            _signal_all(signal.SIGKILL)
        try:
            pid, _ = account.wait(os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.005)


def _signal_all(number: signal.Signals) -> None:
    for pid in list(descendants(os.getpid())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _measure(request: dict[str, Any], account: _Account) -> Reading:
    sampler = _Sampler()
    before = account.reaped + account.living()
    with open(request["log"], "wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            request["argv"],
            env=request["env"],
            cwd=request["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    watchdog = threading.Timer(request["timeout"], os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    if request["sample"]:
        sampler.start()
    pid = 0
    while pid != process.pid:
        pid, status = account.wait()
    wall = time.monotonic() - started
    watchdog.cancel()
    sampler.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    if not request["keep"]:
        _end_all(account)
    cpu = account.reaped + account.living() - before
    return Reading(process.returncode, wall, cpu, sampler.peak_kb, sorted(sampler.unreadable))


def _serve() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        print(json.dumps({"error": f"prctl: {os.strerror(ctypes.get_errno())}"}), flush=True)
        return
    account = _Account()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["argv"] is None:
                _end_all(account)
                print("{}", flush=True)
                continue
            try:
                answer = asdict(_measure(request, account))
            except OSError as error:
                answer = {"error": f"{request['argv'][0]}: {error.strerror}"}
            print(json.dumps(answer), flush=True)
    finally:
        _end_all(account)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; EOF on stdin is the end
    _serve()
