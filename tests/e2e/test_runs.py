# SPDX-License-Identifier: BSD-3-Clause
"""Commands run by an agent, and files copied to and from it."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from e2e_support import DEADLINE, agent_pid, is_alive, shell, wait_for, wait_gone

from fatline import files, runs
from fatline.call import INLINE_BYTES
from fatline.client import Client
from fatline.errors import CallTimeout, FatlineError, Refused, RemoteError
from fatline.protocol import Refusal
from fatline.router import Router

BULK_BYTES = 3 * 1024 * 1024 + 17
"""More than the window, the mux's buffers and the sockets' together, and not a round number."""


@pytest.fixture
def target(router: Router) -> int:
    """The context id of an agent on this machine."""
    return router.local().context_id


def command(client: Client, target: int, text: str, **options: object) -> runs.RunResult:
    body = {"mode": "command", "command": text.encode()}
    return runs.run(client, target, body, timeout=DEADLINE, **options)  # type: ignore[arg-type]


def pids_of(marker: str) -> list[int]:
    """Processes started with a word of the test's own in their command line."""
    found = subprocess.run(["pgrep", "-f", "--", marker], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def test_output_and_status_come_back_apart(client: Client, target: int) -> None:
    result = command(client, target, "echo out; echo err >&2; exit 3")
    assert (result.rc, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert result.started
    assert not result.warm


def test_death_by_signal_is_told_as_a_shell_tells_it(client: Client, target: int) -> None:
    """128+n (ansible fact 2)."""
    assert command(client, target, "kill -9 $$").rc == 137


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, BULK_BYTES])
def test_stdin_arrives_whole(client: Client, target: int, size: int) -> None:
    data = secrets.token_bytes(size)
    result = command(client, target, "sha256sum", stdin=data)
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_stdin_that_nobody_reads_does_not_hang(client: Client, target: int) -> None:
    assert command(client, target, "exec true", stdin=bytes(BULK_BYTES)).rc == 0


def test_output_of_any_size_arrives_whole(client: Client, target: int) -> None:
    """Credit returns as the output is consumed (systems fact 27)."""
    result = command(client, target, f"head -c {BULK_BYTES} /dev/zero; head -c {BULK_BYTES} /dev/zero >&2")
    assert (result.stdout, result.stderr) == (bytes(BULK_BYTES), bytes(BULK_BYTES))


def test_both_ways_at_once(client: Client, target: int) -> None:
    data = secrets.token_bytes(BULK_BYTES)
    assert command(client, target, "cat", stdin=data).stdout == data


def test_many_runs_at_once_on_one_agent(client: Client, target: int) -> None:
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        results[number] = command(client, target, f"cat; echo {number}", stdin=b"x" * number).stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {number: b"x" * number + f"{number}\n".encode() for number in range(16)}


def test_no_end_of_a_run_is_missed(client: Client, target: int) -> None:
    """The agent must not go to sleep on a child that ended just before."""
    for _ in range(300):
        assert command(client, target, "exec sleep 0.001").rc == 0


def test_a_slow_run_does_not_hold_up_another(client: Client, target: int) -> None:
    slow = threading.Thread(target=lambda: command(client, target, "exec sleep 5"))
    slow.start()
    begun = time.monotonic()
    assert command(client, target, "echo quick").stdout == b"quick\n"
    assert time.monotonic() - begun < 4
    assert slow.is_alive()
    slow.join()


def test_a_deadline_cancels_the_run(client: Client, target: int) -> None:
    """A timeout names host, stage and seconds (rule 1); pipes close, nothing is killed (systems fact 17)."""
    marker = f"marker-{secrets.token_hex(8)}"
    script = f": {marker}; while echo tick; do sleep 0.05; done"
    with pytest.raises(CallTimeout, match=r"^web1: run: no answer after 0\.5 s"):
        runs.run(
            client,
            target,
            {"mode": "command", "argv": [b"/bin/sh", b"-c", script.encode()]},
            timeout=0.5,
            label="web1",
        )
    wait_for("the writer to lose its reader", lambda: not pids_of(marker))
    assert command(client, target, "echo still here").stdout == b"still here\n"


def test_control_c_cancels_the_run(tmp_path: Path, client: Client) -> None:
    marker = f"marker-{secrets.token_hex(8)}"
    script = tmp_path / "script.py"
    script.write_text(
        "import fatline\nfrom fatline import runs\nfrom fatline.client import get_client\n"
        f"script = b': {marker}; while echo; do sleep 0.05; done'\n"
        "body = {'mode': 'command', 'argv': [b'/bin/sh', b'-c', script]}\n"
        "with fatline.Router() as router:\n"
        "    try:\n        runs.run(get_client(), router.local().context_id, body)\n"
        "    except KeyboardInterrupt:\n        print('interrupted', flush=True)\n"
        "        input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    wait_for("the run to start", lambda: pids_of(marker))
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    wait_for("the run to end", lambda: not pids_of(marker))
    process.communicate("\n")
    assert process.returncode == 0


def test_a_refusal_says_that_nothing_ran(client: Client, target: int) -> None:
    with pytest.raises(Refused) as caught:
        runs.run(client, target, {"mode": "dance"}, timeout=DEADLINE)
    assert caught.value.code in (Refusal.MALFORMED, Refusal.UNSUPPORTED)
    assert caught.value.reason


def test_a_shut_down_agent_is_gone(client: Client, router: Router) -> None:
    context = router.local()
    pid = agent_pid(client, context.context_id)
    context.shutdown()
    wait_gone([pid])
    with pytest.raises(FatlineError):
        command(client, context.context_id, "echo")
    context.shutdown()


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, BULK_BYTES])
def test_files_go_and_come_whole(client: Client, target: int, tmp_path: Path, size: int) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(secrets.token_bytes(size))
    assert files.put_file(client, target, source, os.fsencode(there), timeout=DEADLINE) == size
    assert files.fetch_file(client, target, os.fsencode(there), back, timeout=DEADLINE) == size
    assert there.read_bytes() == back.read_bytes() == source.read_bytes()


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_modes_are_those_of_sftp(client: Client, target: int, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_text("x")
    source.chmod(0o751)
    files.put_file(client, target, source, os.fsencode(there), timeout=DEADLINE)
    assert stat.S_IMODE(there.stat().st_mode) == 0o751 & ~umask()
    files.put_file(client, target, source, os.fsencode(there), mode=0o600, timeout=DEADLINE)
    assert stat.S_IMODE(there.stat().st_mode) == 0o751 & ~umask()
    there.chmod(0o444)
    files.fetch_file(client, target, os.fsencode(there), back, timeout=DEADLINE)
    assert stat.S_IMODE(back.stat().st_mode) == 0o644 & ~umask()


def test_an_existing_file_is_overwritten_both_ways(client: Client, target: int, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_text("new")
    there.write_text("something longer")
    back.write_text("something longer")
    files.put_file(client, target, source, os.fsencode(there), timeout=DEADLINE)
    files.fetch_file(client, target, os.fsencode(there), back, timeout=DEADLINE)
    assert there.read_text() == back.read_text() == "new"


def test_a_remote_failure_has_its_errno(client: Client, target: int, tmp_path: Path) -> None:
    missing, back = tmp_path / "missing" / "file", tmp_path / "back"
    source = tmp_path / "source"
    source.write_text("x")
    with pytest.raises(RemoteError) as caught:
        files.put_file(client, target, source, os.fsencode(missing), timeout=DEADLINE)
    assert caught.value.errno == 2
    with pytest.raises(RemoteError) as caught:
        files.fetch_file(client, target, os.fsencode(missing), back, timeout=DEADLINE)
    assert caught.value.errno == 2
    assert not back.exists()


def test_a_fetch_never_follows_a_local_link(client: Client, target: int, tmp_path: Path) -> None:
    """A fetch is opened O_NOFOLLOW by the client (systems fact 7)."""
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_text("precious")
    link.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        files.fetch_file(client, target, b"/etc/hostname", link, timeout=DEADLINE)
    assert precious.read_text() == "precious"


def test_a_file_without_a_size_is_fetched_to_its_end(client: Client, target: int, tmp_path: Path) -> None:
    back = tmp_path / "back"
    size = files.fetch_file(client, target, b"/proc/self/limits", back, timeout=DEADLINE)
    assert size == back.stat().st_size > 100


def test_a_disk_that_fills_up_is_told_and_the_part_removed(
    client: Client, target: int, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(BULK_BYTES))
    with pytest.raises(RemoteError) as caught:
        files.put_file(client, target, source, b"/dev/full", timeout=DEADLINE)
    assert caught.value.errno == 28
    assert Path("/dev/full").exists()


def test_an_interrupted_put_leaves_no_new_part(client: Client, target: int, tmp_path: Path) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    with source.open("wb") as file:
        file.truncate(16 * 1024**3)
    with pytest.raises(CallTimeout):
        files.put_file(client, target, source, os.fsencode(there), timeout=0.5)
    wait_for("the part to be removed", lambda: not there.exists())
    assert shell(client, target, "echo still here") == b"still here\n"


def test_a_bulk_transfer_does_not_hold_up_a_run(client: Client, target: int, tmp_path: Path) -> None:
    """Control overtakes bulk (systems fact 26)."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    transfer = threading.Thread(
        target=lambda: files.put_file(client, target, source, b"/dev/null"), daemon=True
    )
    transfer.start()
    waits = []
    while transfer.is_alive():
        begun = time.monotonic()
        shell(client, target, "true")
        waits.append(time.monotonic() - begun)
    assert max(waits) < 1.0, waits


def test_memory_is_bounded_at_any_size(client: Client, target: int, tmp_path: Path) -> None:
    """Rule 4: neither the mux nor the agent holds a file."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(128 * 1024 * 1024)
    pid = agent_pid(client, target)
    assert is_alive(pid)
    files.put_file(client, target, source, b"/dev/null", timeout=DEADLINE * 3)
    status = Path(f"/proc/{pid}/status").read_text()
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak_kb < 64 * 1024
