# SPDX-License-Identifier: BSD-3-Clause
"""Launcher, stage, boot size and the language subset of what travels."""

from __future__ import annotations

import ast
import os
import pathlib
import shutil
import subprocess
import sys
import time
import zlib

import harness
import pytest

SIZE_BUDGET = 24 * 1024
SHELLS = [
    name for name in ("sh", "dash", "bash", "tcsh", "csh", "fish", "zsh", "mksh", "ksh") if shutil.which(name)
]
BOOTSTRAP = harness.ROOT / "bootstrap"


def test_boots_and_says_what_it_is(agent: harness.AgentProcess, interpreter: str) -> None:
    assert agent.facts["pid"] > 0
    assert agent.facts["uid"] == os.getuid()
    assert os.path.basename(agent.facts["executable"]) == os.path.basename(interpreter)
    version = "".join(f"{part:02x}" for part in agent.facts["python"])
    assert agent.ready.split()[2].decode().zfill(8).startswith(version)
    agent.ping()


@pytest.mark.parametrize("shell", SHELLS)
def test_launcher_survives_every_login_shell(shell: str) -> None:
    # Systems fact 11: sh, bash, tcsh, fish, zsh, mksh.
    path = shutil.which(shell)
    assert path is not None
    with harness.AgentProcess(shell=path) as agent:
        assert agent.command(b"echo through", env={b"SHELL": b"/bin/sh"}).stdout == b"through\n"


def test_launcher_alphabet() -> None:
    # Systems fact 11: no newline (tcsh), backslash (fish), "!" or single quote inside.
    line = harness.bootstrap.launcher(["/usr/bin/python3", "python3"], "0123456789abcdef", 12345)
    assert set(line) <= harness.bootstrap.LAUNCHER_ALPHABET
    assert not set(line) & set("\n\\!`^#")
    assert len(line) < 4096


@pytest.mark.parametrize("name", ["python 3;x'y", "py\nthon", "py\\thon", "!python", "`id`", "#"])
def test_launcher_refuses_names_that_shells_would_read(name: str) -> None:
    with pytest.raises(ValueError, match="interpreter"):
        harness.bootstrap.launcher([name], "0123456789abcdef", 1)


def test_interpreters_are_tried_in_order() -> None:
    line = harness.bootstrap.launcher(["/nonexistent/python", sys.executable, "/bin/false"], "ab12", 4)
    done = subprocess.run(
        ["/bin/sh", "-c", line], input=b"", capture_output=True, timeout=harness.DEADLINE, check=False
    )
    assert done.stdout.startswith(b"FATLINE-READY ab12 ")


def test_no_interpreter_says_so() -> None:
    line = harness.bootstrap.launcher(["/nonexistent/python"], "ab12", 4)
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=harness.DEADLINE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (127, b"", b"NOPY\n")


def test_modules_of_the_login_directory_are_not_imported(tmp_path: pathlib.Path, interpreter: str) -> None:
    # Systems fact 4: ~/base64.py hijacked the launcher.
    names = (
        "base64",
        "zlib",
        "signal",
        "struct",
        "select",
        "fcntl",
        "errno",
        "binascii",
        "collections",
        "time",
    )
    for name in names:
        (tmp_path / f"{name}.py").write_text("import os\nos.write(2, b'HIJACKED')\nos._exit(9)\n")
    with harness.AgentProcess(interpreter, cwd=str(tmp_path)) as agent:
        agent.ping()
        assert agent.facts["cwd"] == str(tmp_path)


def test_wire_is_moved_off_the_standard_descriptors(agent: harness.AgentProcess) -> None:
    # Systems fact 18: else a child would hold the ssh session open after kill -9 of the agent.
    pid = agent.facts["pid"]
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == os.devnull


def test_end_of_the_wire_ends_the_agent(agent: harness.AgentProcess) -> None:
    agent.wire.close()
    assert agent.end() == 0


def test_a_ping_too_long_to_be_answered_is_refused(agent: harness.AgentProcess) -> None:
    # The answer is one byte longer, and a frame over the limit would end the wire.
    agent.send(harness.PING, b"x" * (1 << 20), reply_to=77)
    assert agent.receive(77).kind == harness.REFUSED
    agent.send(harness.PING, b"x" * ((1 << 20) - 1), reply_to=78)
    assert len(agent.receive(78).payload) == 1 << 20
    agent.ping()


def test_shutdown_waits_for_runs(agent: harness.AgentProcess, tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    handle = agent.start(
        {"mode": "command", "command": b"read line < " + os.fsencode(fifo) + b"; echo $line"}
    )
    agent.send(harness.SHUTDOWN)
    agent.ping()
    fifo.write_text("opened\n")
    assert agent.finish(handle).stdout == b"opened\n"
    assert agent.end() == 0


def test_noise_on_the_wire_is_named(own_agent: harness.AgentProcess) -> None:
    own_agent.wire.sendall(b"bash: warning: setlocale\n" + bytes(32))
    with pytest.raises(EOFError, match="not a Fatline frame.*bash: warning"):
        own_agent.next_frame()


def test_boot_size(capsys: pytest.CaptureFixture[str]) -> None:
    text = (BOOTSTRAP / "agent.py").read_text()
    small = harness.bootstrap.minify(text)
    sent = len(harness.bootstrap.agent_source())
    began = time.perf_counter()
    compile(small, "fatline-agent.py", "exec")
    milliseconds = (time.perf_counter() - began) * 1000
    launcher = len(harness.bootstrap.launcher(["python3"], "0" * 16, sent))
    with capsys.disabled():
        print(
            f"\nagent: {len(text)} bytes of text, {len(small)} minified, {sent} on the wire "
            f"(budget {SIZE_BUDGET}), compiled in {milliseconds:.1f} ms; launcher {launcher} bytes"
        )
    assert sent < SIZE_BUDGET
    assert small.count("\n") == text.count("\n"), "a traceback must name the repository's lines"


@pytest.mark.parametrize(("addition", "name"), [("privileged", "Accounts"), ("functions", "FunctionHost")])
def test_what_an_agent_has_in_addition_comes_before_the_start(addition: str, name: str) -> None:
    plain, more = (
        zlib.decompress(harness.bootstrap.agent_source(kind)).decode().split("\n") for kind in ("", addition)
    )
    (start,) = (at for at, line in enumerate(plain) if line.startswith("if __name__"))
    assert more[:start] == plain[:start], "a traceback must name the repository's lines"
    (later,) = (at for at, line in enumerate(more) if line.startswith("if __name__"))
    assert any(line.startswith(f"class {name}") for line in more[start:later])
    compile("\n".join(more), "fatline-agent.py", "exec")


# The 2.4 subset ---------------------------------------------------------------------------------------

NEWER: dict[type[ast.AST], str] = {
    ast.With: "with (2.5)",
    ast.IfExp: "conditional expression (2.5)",
    ast.SetComp: "set comprehension (2.7)",
    ast.DictComp: "dict comprehension (2.7)",
    ast.Set: "set literal (2.7)",
    ast.JoinedStr: "f-string (3.6)",
    ast.AnnAssign: "annotation (3.6)",
    ast.NamedExpr: "assignment expression (3.8)",
    ast.Nonlocal: "nonlocal (3.0)",
    ast.Starred: "starred target (3.0)",
    ast.YieldFrom: "yield from (3.3)",
    ast.AsyncFunctionDef: "async (3.5)",
    ast.MatMult: "matrix product (3.5)",
}
NEWER_NAMES = {"any", "all", "bytes", "bytearray", "memoryview", "print", "next", "property"}


def newer_than_24(tree: ast.AST) -> list[str]:
    """Everything in tree that Python 2.4 could not read, as line: what."""
    found = []
    in_calls = {id(word) for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.args}
    for node in ast.walk(tree):
        what = NEWER.get(type(node))
        if isinstance(node, ast.Starred) and id(node) in in_calls:
            what = None
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            what = "b'' literal (2.6)"
        elif isinstance(node, ast.Try) and node.handlers and node.finalbody:
            what = "try/except/finally in one (2.5)"
        elif isinstance(node, ast.ExceptHandler) and node.name:
            what = "except ... as (2.6)"
        elif isinstance(node, ast.ClassDef) and (node.decorator_list or node.keywords):
            what = "class decorator or keyword (2.6)"
        elif isinstance(node, ast.arguments) and (node.kwonlyargs or node.posonlyargs):
            what = "keyword-only argument (3.0)"
        elif getattr(node, "returns", None) or getattr(node, "annotation", None):
            what = "annotation (3.0)"
        elif isinstance(node, ast.ImportFrom) and node.level:
            what = "relative import (2.5)"
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in ("format", "partition", "rpartition")
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        ):
            what = f"str.{node.attr} (2.5 or 2.6)"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in NEWER_NAMES:
            what = f"built-in {node.id}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "super"
            and not node.args
        ):
            what = "super() without arguments (3.0)"
        if what:
            found.append(f"line {getattr(node, 'lineno', '?')}: {what}")
    return found


@pytest.mark.parametrize("name", ["agent.py", "functions.py", "privileged.py", "stage.py"])
def test_language_is_the_24_subset(name: str) -> None:
    assert newer_than_24(ast.parse((BOOTSTRAP / name).read_text())) == []


def test_the_subset_check_can_fail() -> None:
    for sample in (
        "with a: pass",
        "x = 1 if y else 2",
        "b''",
        "try:\n a\nexcept E:\n b\nfinally:\n c",
        "f'{x}'",
        "''.format()",
        "try:\n a\nexcept E as e:\n b",
        "x = {1, 2}",
        "any(x)",
        "def f(*, a): pass",
        "from . import x",
    ):
        assert newer_than_24(ast.parse(sample)), sample
