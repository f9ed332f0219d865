# SPDX-License-Identifier: BSD-3-Clause
"""Functions of this side called in interpreters of the other."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from e2e_support import DEADLINE, interpreters, is_alive, wait_for, wait_gone

from fatline.cli.sandbox import PrivateSshd
from fatline.client import get_client
from fatline.context import Context
from fatline.errors import BootError, CallTimeout, Dead, RemoteError
from fatline.modules import NotCallable
from fatline.protocol import AttachState
from fatline.router import Router

# In the syntax of every Python that an agent runs on.
REMOTE = """\
import logging
import os
import sys
import time

from depot import parts
import depot.shelf.label

CALLS = []

def facts():
    label = depot.shelf.label.TEXT
    return {'executable': sys.executable, 'pid': os.getpid(), 'parts': parts.COUNT, 'label': label}

def echo(*args, **kwargs):
    return [list(args), kwargs]

def count():
    CALLS.append(1)
    return len(CALLS)

def late():
    from depot import latecomer
    return latecomer.VALUE

def fail(words):
    raise ValueError(words)

def leave(status):
    sys.exit(status)

def unpackable():
    return object()

def talk(*lines):
    log = logging.getLogger('depot.talk')
    for line in lines:
        log.warning(line)
    return len(lines)

def flood(number):
    log = logging.getLogger('depot.flood')
    for _ in range(number):
        log.error('x')

def nap(seconds):
    time.sleep(seconds)
    return seconds

def noise():
    os.write(1, 'to stdout'.encode())
    os.write(2, 'to stderr'.encode())
    print('printed')
    return 'quiet'

def die():
    os.kill(os.getpid(), 9)
"""

FILES = {
    "depot/__init__.py": "",
    "depot/remote.py": REMOTE,
    "depot/parts.py": "from .shelf import label\nCOUNT = 7\n",
    "depot/shelf/__init__.py": "",
    "depot/shelf/label.py": "TEXT = 'top'\n",
    "depot/latecomer.py": "VALUE = 'late'\n",
    "depot/curious.py": (
        "import importlib\n\n"
        "def peek():\n    return importlib.import_module('depot.' + 'settings').PASSWORD\n"
    ),
    "depot/settings.py": "PASSWORD = 'hunter2'\n",
}


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package that only this process can import: targets get it over the wire."""
    for name, text in FILES.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield importlib.import_module("depot.remote")
    for name in [name for name in sys.modules if name.partition(".")[0] == "depot"]:
        del sys.modules[name]


@pytest.mark.parametrize("python", interpreters(), ids=os.path.basename)
def test_a_function_runs_in_every_interpreter(router: Router, remote: ModuleType, python: str) -> None:
    context = router.local(python)
    facts = context.call(remote.facts, timeout=DEADLINE)
    assert facts.pop("pid") != os.getpid()
    assert facts == {"executable": python, "parts": 7, "label": "top"}


def test_a_function_runs_over_ssh(router: Router, remote: ModuleType, sshd: PrivateSshd) -> None:
    context = router.ssh(sshd.host, sshd.user, sshd.port, ssh_args=["-F", str(sshd.ssh_config)])
    assert context.call(remote.facts, timeout=DEADLINE)["parts"] == 7
    assert context.call(platform.node, timeout=DEADLINE) == platform.node()


def test_values_travel(router: Router, remote: ModuleType) -> None:
    context = router.local()
    args = [None, True, -(2**40), 1.5, "ü", b"\xff\x00", [1, [2]], {"a": {"b": None}}]
    assert context.call(remote.echo, *args, key="word") == [args, {"key": "word"}]
    assert context.call(remote.echo, (1, 2)) == [[[1, 2]], {}]


def test_a_value_that_cannot_travel_is_refused_in_words(router: Router, remote: ModuleType) -> None:
    context = router.local()
    with pytest.raises(TypeError, match="argument of echo cannot be sent"):
        context.call(remote.echo, object())
    with pytest.raises(RemoteError, match="object"):
        context.call(remote.unpackable, timeout=DEADLINE)
    assert context.call(remote.count, timeout=DEADLINE) == 1


def test_state_lasts_as_long_as_the_context(router: Router, remote: ModuleType) -> None:
    first, second = router.local(), router.local()
    assert [first.call(remote.count, timeout=DEADLINE) for _ in range(3)] == [1, 2, 3]
    assert second.call(remote.count, timeout=DEADLINE) == 1


def test_an_import_inside_a_function_comes_over_the_wire(router: Router, remote: ModuleType) -> None:
    assert router.local().call(remote.late, timeout=DEADLINE) == "late"


def test_an_exception_comes_back_with_its_traceback(router: Router, remote: ModuleType) -> None:
    context = router.local()
    with pytest.raises(RemoteError) as caught:
        context.call(remote.fail, "bad \x1b[31mvalue", timeout=DEADLINE)
    error = caught.value
    assert (error.type, error.message) == ("ValueError", "bad \\x1b[31mvalue")
    line = next(n for n, text in enumerate(REMOTE.splitlines(), 1) if "raise ValueError" in text)
    assert f"line {line}, in fail" in error.traceback
    assert "depot/remote.py" in error.traceback
    assert "\x1b" not in error.traceback


def test_an_exit_is_an_exception_too(router: Router, remote: ModuleType) -> None:
    context = router.local()
    with pytest.raises(RemoteError, match="SystemExit"):
        context.call(remote.leave, 3, timeout=DEADLINE)
    assert context.call(remote.count, timeout=DEADLINE) == 1


@pytest.mark.usefixtures("remote")
def test_settings_that_no_function_imports_stay_here(router: Router) -> None:
    """Only the import closure of the functions called is served (systems fact 8)."""
    curious = importlib.import_module("depot.curious")
    with pytest.raises(RemoteError, match=r"ImportError|ModuleNotFoundError"):
        router.local().call(curious.peek, timeout=DEADLINE)


@pytest.mark.usefixtures("remote")
def test_settings_on_the_allow_list_are_served() -> None:
    curious = importlib.import_module("depot.curious")
    with Router(allow_modules=["depot.settings"]) as router:
        assert router.local().call(curious.peek, timeout=DEADLINE) == "hunter2"


def test_logs_come_back_escaped(router: Router, remote: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Control characters escaped in forwarded logs (systems fact 7)."""
    with caplog.at_level(logging.INFO):
        assert router.local().call(remote.talk, "hello", "fake\nline \x1b[2J", timeout=DEADLINE) == 2
    records = [r for r in caplog.records if r.name == "fatline.remote.local"]
    assert [record.getMessage() for record in records] == [
        "depot.talk: hello",
        "depot.talk: fake\\nline \\x1b[2J",
    ]
    assert {record.levelno for record in records} == {logging.WARNING}


def test_a_flood_of_logs_is_cut_and_counted(
    router: Router, remote: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """Log lines a second capped (systems fact 7)."""
    number = 5000
    context = router.local()
    with caplog.at_level(logging.INFO):
        context.call(remote.flood, number, timeout=DEADLINE)
        flooded = [r for r in caplog.records if r.name == "fatline.remote.local"]
        assert 0 < len(flooded) < number
        wait_for("room for another line", lambda: last_line(context, remote, caplog))
    dropped = [r for r in caplog.records if "lines of the target's log were dropped" in r.getMessage()]
    assert dropped


def last_line(context: Context, remote: ModuleType, caplog: pytest.LogCaptureFixture) -> bool:
    context.call(remote.talk, "the last", timeout=DEADLINE)
    return any("the last" in record.getMessage() for record in caplog.records)


def test_a_print_does_not_corrupt_the_wire(router: Router, remote: ModuleType) -> None:
    assert router.local().call(remote.noise, timeout=DEADLINE) == "quiet"


def test_a_deadline_is_kept(router: Router, remote: ModuleType) -> None:
    """A timeout names host, stage and seconds (rule 1)."""
    context = router.local()
    with pytest.raises(CallTimeout, match=r"^local: call of nap: no answer after 0\.2 s"):
        context.call(remote.nap, 1, timeout=0.2)
    assert context.call(remote.echo, "next", timeout=DEADLINE) == [["next"], {}]


def test_threads_share_a_context(router: Router, remote: ModuleType) -> None:
    context = router.local()
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(context.call(remote.count, timeout=DEADLINE)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(results) == list(range(1, 9))


def test_a_context_that_dies_in_a_call_is_told(router: Router, remote: ModuleType) -> None:
    context = router.local()
    with pytest.raises((Dead, RemoteError)):
        context.call(remote.die, timeout=DEADLINE)


def test_a_lambda_is_refused_before_anything_is_sent(router: Router) -> None:
    with pytest.raises(NotCallable, match="lambda"):
        router.local().call(lambda: 1)


def test_a_forked_child_has_a_client_of_its_own(router: Router, remote: ModuleType) -> None:
    context = router.local()
    assert context.call(remote.count, timeout=DEADLINE) == 1
    parents = get_client()
    pid = os.fork()
    if pid == 0:
        try:
            own = get_client()
            with Router() as second:
                good = own is not parents and second.local().call(remote.count, timeout=DEADLINE) == 1
            good = good and own.attach(b"k" * 32, lease=False).state == AttachState.NONE
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert context.call(remote.count, timeout=DEADLINE) == 2


def test_closing_the_router_ends_its_agents(remote: ModuleType, sshd: PrivateSshd) -> None:
    with Router() as router:
        pids = [
            router.local().call(os.getppid, timeout=DEADLINE),
            router.ssh(sshd.host, sshd.user, sshd.port, ssh_args=["-F", str(sshd.ssh_config)]).call(
                os.getppid, timeout=DEADLINE
            ),
        ]
        assert all(is_alive(pid) for pid in pids)
    wait_gone(pids)


def test_agents_end_with_the_program_that_opened_them(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys, fatline\n"
        "def main():\n    router = fatline.Router()\n    print(router.local().call(os.getppid), flush=True)\n"
        "    sys.stdin.read()\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert is_alive(pid)
    process.kill()
    process.communicate()
    wait_gone([pid])


SCRIPT = """\
import fatline
import helper
from fatline.errors import RemoteError


class Level(RemoteError):
    pass


def uptime(factor):
    with open("/proc/uptime") as file:
        return float(file.read().split()[0]) > 0 and helper.VALUE * factor


def broken():
    raise Level("x", "y")


if __name__ == "__main__":
    with fatline.Router() as router:
        context = router.ssh("127.0.0.1", ssh_args=SSH_ARGS)
        print(context.call(uptime, 6))
        try:
            context.call(broken)
        except RemoteError as error:
            print(error)
"""


def test_a_script_calls_its_own_functions(tmp_path: Path, sshd: PrivateSshd) -> None:
    (tmp_path / "helper.py").write_text("VALUE = 7\n")
    arguments = ["-F", str(sshd.ssh_config), "-p", str(sshd.port), "-l", sshd.user]
    (tmp_path / "script.py").write_text(SCRIPT.replace("SSH_ARGS", repr(arguments)))
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines()[0] == "42"
    assert "works on the controller only" in ran.stdout.splitlines()[1]


def test_a_host_that_does_not_answer_is_told_with_ssh_words(router: Router, sshd: PrivateSshd) -> None:
    with pytest.raises(BootError, match="Connection refused") as caught:
        router.ssh(sshd.host, sshd.user, 1, ssh_args=["-F", str(sshd.ssh_config)])
    assert caught.value.rc == 255


def test_the_first_interpreter_that_the_host_has_is_used(router: Router, sshd: PrivateSshd) -> None:
    context = router.ssh(
        sshd.host,
        sshd.user,
        sshd.port,
        python_path=["no-such-python", "python3"],
        ssh_args=["-F", str(sshd.ssh_config)],
    )
    assert context.ping() > 0
    with pytest.raises(BootError, match="no Python interpreter"):
        router.ssh(sshd.host, sshd.user, sshd.port, "no-such-python", ["-F", str(sshd.ssh_config)])


@pytest.mark.parametrize("name", ["-oProxyCommand=touch /tmp/owned", ""])
def test_an_option_is_no_host_name(router: Router, name: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        router.ssh(name)


def test_many_contexts_at_once(sshd: PrivateSshd, remote: ModuleType) -> None:
    with Router() as router:
        pids: list[int] = []

        def work() -> None:
            context = router.ssh(sshd.host, sshd.user, sshd.port, ssh_args=["-F", str(sshd.ssh_config)])
            pids.append(context.call(remote.facts, timeout=DEADLINE)["pid"])

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert len(set(pids)) == 8
    wait_gone(pids)


def test_a_missing_ssh_is_told_in_words(router: Router) -> None:
    with pytest.raises(BootError, match="web1: .*cannot execute no-such-ssh"):
        router.ssh("web1", ssh_path="no-such-ssh")
