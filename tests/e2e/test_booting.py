# SPDX-License-Identifier: BSD-3-Clause
"""Booting an agent: what may go wrong on the way, and that it is told and cleaned up."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_support import DEADLINE, MakeSshd, interpreters, is_alive, shell, wait_for, wait_gone

from fatline import boot
from fatline.cli.sandbox import PrivateSshd
from fatline.client import Client
from fatline.errors import BootError, CallTimeout
from fatline.protocol import AttachState

SHORT = 0.5


def attempt(*argv: str, seconds: float = DEADLINE, on_stderr: boot.OnStderr | None = None) -> boot.Ready:
    """Spawn a shell (or `argv`), see it through the handshake, and end it."""
    launched = boot.launcher([sys.executable])
    line = argv or ("/bin/sh", "-c", launched.command)
    filled = [word.replace("NONCE", launched.nonce).replace("LAUNCHER", launched.command) for word in line]
    wire = boot.spawn(filled)
    ready = boot.handshake(wire, launched, time.monotonic() + seconds, on_stderr, label="web1")
    wire.end()
    return ready


def failure(*argv: str, seconds: float = DEADLINE) -> BootError:
    with pytest.raises(BootError) as caught:
        attempt(*argv, seconds=seconds)
    return caught.value


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def boot_local(client: Client, key: bytes) -> boot.Booted:
    launched = boot.launcher([sys.executable])
    argv = ["/bin/sh", "-c", launched.command]
    return boot.start_agent(
        client, key, argv, launched, label="local", deadline=time.monotonic() + DEADLINE, bound=True
    )


@pytest.mark.parametrize("python", interpreters(), ids=os.path.basename)
def test_an_agent_boots_on_every_interpreter(client: Client, python: str) -> None:
    key = secrets.token_bytes(32)
    assert client.attach(key).state == AttachState.LEASE
    launched = boot.launcher(["no-such-python", python])
    booted = boot.start_agent(
        client,
        key,
        ["/bin/sh", "-c", launched.command],
        launched,
        label="local",
        deadline=time.monotonic() + DEADLINE,
        bound=True,
    )
    assert client.ping(booted.context_id, DEADLINE) > 0
    found = client.attach(key)
    assert (found.state, found.context_id) == (AttachState.FOUND, booted.context_id)
    assert found.facts()["executable"] == python


def test_ready_separates_noise_from_the_wire() -> None:
    ready = attempt("/bin/sh", "-c", "echo Welcome!; printf 'no newline'; LAUNCHER")
    assert ready.noise == b"Welcome!\nno newline"
    assert ready.hexversion == sys.hexversion


def test_a_megabyte_of_noise_is_skipped() -> None:
    ready = attempt("/bin/sh", "-c", "yes | head -c 3000000; LAUNCHER")
    assert len(ready.noise) <= boot.NOISE_MAX


def test_endless_noise_ends_at_the_deadline_in_bounded_memory() -> None:
    error = failure("/bin/sh", "-c", "yes; LAUNCHER", seconds=SHORT)
    assert error.stage == boot.STAGE_READY
    assert len(error.stdout) <= boot.NOISE_MAX


def test_a_ready_without_end_is_not_collected() -> None:
    error = failure("/bin/sh", "-c", "printf 'FATLINE-READY %s ' NONCE; exec cat /dev/zero")
    assert error.stage == boot.STAGE_READY
    assert "without its end" in str(error)


def test_a_false_ready_is_noise() -> None:
    ready = attempt("/bin/sh", "-c", "echo FATLINE-READY 0123456789abcdef 30b07f0; LAUNCHER")
    assert ready.noise.startswith(b"FATLINE-READY")


def test_a_missing_interpreter_has_a_stage_of_its_own() -> None:
    launched = boot.launcher(["no-such-python", "nor-this"])
    wire = boot.spawn(["/bin/sh", "-c", launched.command])
    with pytest.raises(BootError) as caught:
        boot.handshake(wire, launched, time.monotonic() + DEADLINE, label="web1")
    error = caught.value
    assert (error.stage, error.rc, error.stderr) == (boot.STAGE_INTERPRETER, 127, b"NOPY\n")
    assert str(error).startswith("web1: no agent after 0.")


def test_a_missing_program_is_told_in_words(client: Client) -> None:
    key = secrets.token_bytes(32)
    client.attach(key)
    with pytest.raises(BootError, match=r"web1: .*cannot execute no-such-ssh: No such file") as caught:
        boot.start_agent(
            client,
            key,
            ["no-such-ssh"],
            boot.launcher(["python3"]),
            label="web1",
            deadline=time.monotonic() + DEADLINE,
        )
    assert caught.value.stage == boot.STAGE_START
    client.abandon(key)
    assert client.attach(key, timeout=SHORT).state == AttachState.LEASE


def test_a_failed_boot_tells_what_the_program_would_have(sshd: PrivateSshd) -> None:
    argv = ["ssh", "-F", str(sshd.ssh_config), "-p", "1", sshd.host]
    stock = subprocess.run([*argv, "true"], capture_output=True, check=False)
    error = failure(*argv, "LAUNCHER")
    assert error.stage == boot.STAGE_CONNECT
    assert (error.rc, error.stdout, error.stderr) == (stock.returncode, stock.stdout, stock.stderr)
    assert "Connection refused" in error.reason


def test_a_login_that_ends_early_is_told_with_its_status() -> None:
    error = failure("/bin/sh", "-c", "echo This account is closed.; echo bye >&2; exit 3")
    assert (error.stage, error.rc) == (boot.STAGE_READY, 3)
    assert (error.stdout, error.stderr) == (b"This account is closed.\n", b"bye\n")
    assert "exit status 3" in str(error)


def test_a_killed_program_is_told_with_its_signal() -> None:
    error = failure("/bin/sh", "-c", "kill -9 $$")
    assert error.rc == -9
    assert "signal 9" in str(error)


def test_a_silent_login_fails_at_the_deadline_and_is_ended() -> None:
    """Every wait has a deadline, and a timeout names host, stage and seconds (rule 1)."""
    launched = boot.launcher([sys.executable])
    wire = boot.spawn(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    with pytest.raises(BootError, match=r"^web1: no agent after 0\.\d s, at stage ready"):
        boot.handshake(wire, launched, time.monotonic() + SHORT, label="web1")
    wait_gone([wire.pid])


def test_something_printed_behind_ready_is_no_wire() -> None:
    launched = boot.launcher([sys.executable])
    script = f"echo FATLINE-READY {launched.nonce} 30b07f0; echo more; cat"
    wire = boot.spawn(["/bin/sh", "-c", f"({script})"])
    wait_for("both lines", lambda: b"more" in peek(wire.stdout_fd))
    with pytest.raises(BootError, match="after READY"):
        boot.handshake(wire, launched, time.monotonic() + DEADLINE)


def peek(fd: int) -> bytes:
    with socket.socket(fileno=os.dup(fd)) as end:
        try:
            return end.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            return b""


def test_stderr_comes_as_it_is_said(tmp_path: Path) -> None:
    """A prompt has no newline; whoever answers it must see it at once."""
    answers = tmp_path / "answers"
    os.mkfifo(answers)
    heard = b""

    def hear(data: bytes) -> None:
        nonlocal heard
        heard += data
        if heard == b"Password: ":
            answers.write_text("secret\n")

    script = f"printf 'Password: ' >&2; read answer <{answers}; [ $answer = secret ] && LAUNCHER"
    assert attempt("/bin/sh", "-c", script, on_stderr=hear).noise == b""
    assert heard == b"Password: "


def test_passed_descriptors_keep_their_numbers() -> None:
    """The program sshpass is told the number of its password's descriptor in argv (ansible fact 15)."""
    read, write = os.pipe()
    os.write(write, b"secret")
    os.close(write)
    launched = boot.launcher([sys.executable])
    script = f"cat /dev/fd/{read}; echo; {launched.command}"
    wire = boot.spawn(["/bin/sh", "-c", script], pass_fds=[read])
    os.close(read)
    assert boot.handshake(wire, launched, time.monotonic() + DEADLINE).noise == b"secret\n"
    wire.end()


def test_failed_boots_leave_no_descriptor_and_no_process() -> None:
    failure("/bin/sh", "-c", "exit 1")
    before = open_descriptors()
    for command in ("exit 1", "exec sleep 60", "kill -9 $$", "exec >&-; exec sleep 60"):
        failure("/bin/sh", "-c", command, seconds=0.2)
    assert open_descriptors() == before
    assert not any(is_alive(pid) for pid in boot._children)


def test_the_users_ssh_configuration_does_not_break_the_wire(
    make_sshd: MakeSshd, tmp_path: Path, client: Client
) -> None:
    """RequestTTY, StdinNull and RemoteCommand of the user break a wire (systems fact 12)."""
    server = make_sshd()
    config = tmp_path / "config"
    hostile = "Host *\n  RequestTTY force\n  RemoteCommand echo hijacked\n"
    if "StdinNull=no" in boot.wire_options():
        hostile += "  StdinNull yes\n"
    config.write_text(hostile + server.ssh_config.read_text())
    key = secrets.token_bytes(32)
    client.attach(key)
    launched = boot.launcher(["python3"])
    argv = ["ssh", *boot.wire_options(), "-F", str(config), "-p", str(server.port), "-l", server.user]
    booted = boot.start_agent(
        client,
        key,
        [*argv, server.host, launched.command],
        launched,
        label="web1",
        deadline=time.monotonic() + DEADLINE,
        bound=True,
    )
    assert shell(client, booted.context_id, "echo $0 ok") == b"/bin/sh ok\n"


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def test_two_threads_that_need_one_agent_boot_it_once(client: Client) -> None:
    key = secrets.token_bytes(32)
    assert client.attach(key).state == AttachState.LEASE
    thread, results = in_thread(lambda: client.attach(key))
    booted = boot_local(client, key)
    thread.join(DEADLINE)
    (attachment,) = results
    assert (attachment.state, attachment.context_id) == (AttachState.FOUND, booted.context_id)  # type: ignore[attr-defined]


def other_process(script: str) -> subprocess.Popen[str]:
    """A process with a client of its own; its script may use `client` and `say`."""
    head = (
        "import sys\nfrom fatline.client import get_client\nfrom fatline.errors import *\n"
        "client = get_client()\n"
        "def say(*words):\n    print(*words, flush=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lease_passes_on_when_its_holder_dies(client: Client) -> None:
    key = secrets.token_bytes(32)
    holder = other_process(f"say(client.attach({key!r}).state.name)\nsys.stdin.read()\n")
    assert said(holder) == "LEASE"
    thread, results = in_thread(lambda: client.attach(key).state)
    holder.kill()
    thread.join(DEADLINE)
    holder.communicate()
    assert results == [AttachState.LEASE]


def test_a_wait_for_a_lease_that_timed_out_leaves_the_queue(client: Client) -> None:
    key = secrets.token_bytes(32)
    assert client.attach(key).state == AttachState.LEASE
    script = (
        f"try:\n    client.attach({key!r}, timeout=0.2)\nexcept CallTimeout as error:\n    say(error)\n"
        "sys.stdin.read()\n"
    )
    waiter = other_process(script)
    assert "ATTACH" in said(waiter)
    client.abandon(key)
    # The waiter still lives: were it queued, the lease would be its own now.
    assert client.attach(key, timeout=DEADLINE).state == AttachState.LEASE
    waiter.communicate("")


def test_a_thread_that_waits_for_anothers_lease_has_a_deadline(client: Client) -> None:
    key = secrets.token_bytes(32)
    assert client.attach(key).state == AttachState.LEASE
    with pytest.raises(CallTimeout):
        client.attach(key, timeout=0.1)
    client.abandon(key)
    assert client.attach(key, timeout=DEADLINE).state == AttachState.LEASE


def test_no_lease_is_given_where_none_is_wanted(client: Client) -> None:
    key = secrets.token_bytes(32)
    assert client.attach(key, lease=False).state == AttachState.NONE
    assert client.attach(key, timeout=DEADLINE).state == AttachState.LEASE


def test_an_agent_is_found_by_its_alias_and_not_after_it_was_retired(client: Client) -> None:
    key, alias = secrets.token_bytes(32), secrets.token_bytes(32)
    client.attach(key)
    launched = boot.launcher([sys.executable])
    booted = boot.start_agent(
        client,
        key,
        ["/bin/sh", "-c", launched.command],
        launched,
        label="local",
        deadline=time.monotonic() + DEADLINE,
        alias=alias,
        bound=True,
    )
    found = client.attach(alias, lease=False)
    assert (found.state, found.context_id) == (AttachState.FOUND, booted.context_id)
    client.retire(booted.context_id)
    assert client.attach(alias, lease=False).state == AttachState.NONE
    assert client.attach(key, lease=False).state == AttachState.NONE
