# SPDX-License-Identifier: BSD-3-Clause
"""EXEC in module mode: a warm run must look, from inside and outside, like the plain run of the payload."""

from __future__ import annotations

import binascii
import fcntl
import hashlib
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import harness
import msgpack
import payloads
import pytest
from e2e_support import interpreters
from harness import EXIT, NEED_BLOB, REFUSED, STARTED, AgentProcess

PROBE = str(pathlib.Path(__file__).with_name("probe.py"))

pytestmark = pytest.mark.skipif(payloads.core_version() is None, reason="no ansible-core beside the tests")


@pytest.fixture(params=payloads.targets(), ids=lambda path: "/".join(path.split("/")[-3:]))
def target(request: pytest.FixtureRequest) -> str:
    """Path of an interpreter that the installed ansible-core supports."""
    return str(request.param)


@pytest.fixture
def agent(target: str) -> Iterator[AgentProcess]:
    """A booted agent on it."""
    with AgentProcess(target) as process:
        yield process


@pytest.fixture
def own() -> Iterator[AgentProcess]:
    """A booted agent on the interpreter that runs the tests."""
    with AgentProcess() as process:
        yield process


@pytest.fixture
def bare() -> Iterator[AgentProcess]:
    """A booted agent on an interpreter that has no ansible of its own to find."""
    for path in reversed([os.path.realpath(path) for path in payloads.targets()]):
        if subprocess.run([path, "-c", "import ansible"], capture_output=True, check=False).returncode:
            with AgentProcess(path) as process:
                yield process
            return
    pytest.skip("every interpreter here has an ansible installed")


def plain(
    interpreter: str, text: bytes, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a payload as stock does with pipelining: below a shell that leads a session, from stdin."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{interpreter} && sleep 0"],
        input=text,
        capture_output=True,
        check=False,
        env=env,
        start_new_session=True,
        timeout=harness.DEADLINE,
    )


def normal(text: bytes | str) -> Any:
    """Result with the random parts of names made equal."""
    text = text.decode() if isinstance(text, bytes) else text
    text = re.sub(r"_payload_[A-Za-z0-9_]{6,8}/", "_payload_RANDOM/", text)
    text = re.sub(r" at 0x[0-9a-f]+>", " at ADDRESS>", text)
    return json.loads(text)


def differences(left: Any, right: Any, place: str = "") -> list[str]:
    """Paths at which two decoded results differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            line
            for key in sorted({*left, *right})
            for line in differences(left.get(key, "(absent)"), right.get(key, "(absent)"), f"{place}/{key}")
        ]
    return [] if left == right else [f"{place}: plain {left!r}, warm {right!r}"]


def forget_profile(result: Any) -> None:
    """Leave out the encoder that every module imports with its last words: the parent has it already."""
    names = [name for name in result["ansible"]["loaded"] if name.endswith("_m2c")]
    result["ansible"]["loaded"] = [name for name in result["ansible"]["loaded"] if name not in names]
    result["modules"] = {name: value for name, value in result["modules"].items() if name not in names}
    attributes = result["ansible"]["attributes"]
    # six looks up its moves when they are first asked for, here perhaps for another module.
    attributes.pop("ansible.module_utils.six.moves", None)
    for package in attributes:
        attributes[package] = [name for name in attributes[package] if not name.endswith("_m2c")]


def test_a_warm_run_is_like_a_plain_run(agent: AgentProcess, target: str) -> None:
    # Ansible facts 4, 5, 6 and 8; systems facts 18, 19 and 20: a module cannot tell which one it is in.
    arguments = {"secret": "hush"}
    text = payloads.make(PROBE, arguments, target)
    parsed = payloads.parsed(PROBE, arguments, target)
    agent.module(payloads.parsed("ping", {}, target))
    agent.module(payloads.parsed("setup", {"gather_subset": ["!all"]}, target))
    first, second = agent.module(parsed), agent.module(parsed)
    if forks_ahead(agent):
        child_forked_ahead(agent)
    # The child forked ahead; one from a parent that is settled for that one; one from a parent that is not.
    handles = [agent.start_module(parsed) for _ in range(2)]
    third, fourth = (agent.finish(handle) for handle in handles)
    agent.module(payloads.parsed("ping", {}, target))
    fifth = agent.module(parsed)
    stock = plain(target, text)
    runs = (second, third, fourth, fifth)
    assert (first.rc, stock.returncode, first.stderr) == (7, 7, stock.stderr)
    assert [(done.rc, done.exit["warm"]) for done in runs] == [(7, True)] * 4
    told, *warm = (normal(done.stdout.splitlines()[0]) for done in (stock, *runs))
    again = normal(first.stdout.splitlines()[0])
    assert len({result.pop("random") for result in (told, again, *warm)}) == 6
    for result in (told, *warm):
        assert not os.path.exists(result.pop("temporary")), "a temporary file at module level is removed"
        assert not os.path.exists(result.pop("tmpdir")), "basic.tmpdir relies on atexit"
        result["process"]["environment"].pop("_", None)
        result["process"]["environment"].pop("OLDPWD", None)
        result["process"]["environment"].pop("PYTEST_CURRENT_TEST")
        for number in [key for key in result["process"]["fds"] if int(key) > 2]:
            # The temporary file, and on Python 2 /dev/urandom, in any order.
            del result["process"]["fds"][number]
        forget_profile(result)
    assert [differences(told, result) for result in warm] == [[]] * 4
    assert second.stdout.splitlines()[1] == stock.stdout.splitlines()[1]


def test_what_was_hidden_from_one_payload_comes_back_whole(own: AgentProcess) -> None:
    """Ansible fact 6: a package whose own modules were loaded before it is hidden and shown with them."""
    facts = payloads.parsed("setup", {"gather_subset": ["!all"]}, own.interpreter)
    other = payloads.parsed("command", {"_raw_params": "true"}, own.interpreter)
    assert [own.module(parsed).rc for parsed in (facts, other, facts, other)] == [0, 0, 0, 0]


def forks_ahead(agent: AgentProcess) -> bool:
    """Whether this agent's zipimport lets a child get ready before its zip is there."""
    return tuple(agent.facts["python"]) >= (3, 8)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def child_forked_ahead(agent: AgentProcess) -> int:
    """Wait until one process waits for a call, below the one that stands for stock's shell; its number."""
    deadline = time.monotonic() + harness.DEADLINE
    while time.monotonic() < deadline:
        agent.ping()
        time.sleep(0.005)  # it is forked when nothing has come for a moment
        shells = children_of(agent.facts["pid"])
        waiting = [pid for shell in shells for pid in children_of(shell)]
        if len(waiting) == 1 and "pipe_read" in pathlib.Path(f"/proc/{waiting[0]}/wchan").read_text():
            return waiting[0]
    raise AssertionError("no child was forked ahead")


def wait_childless(agent: AgentProcess) -> None:
    deadline = time.monotonic() + harness.DEADLINE
    while children_of(agent.facts["pid"]):
        assert time.monotonic() < deadline, "a child stays"
        agent.ping()


def wait_for_zombie(pid: int) -> None:
    deadline = time.monotonic() + harness.DEADLINE
    while pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.005)


def test_a_child_forked_ahead_serves_one_call(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """It runs the next call, with that call's own parameters and environment, and nothing before."""
    module = write_module(tmp_path / "fl_pid.py", "import os", "[os.getpid(), os.environ.get('FL_CALL')]")
    parsed = payloads.parsed(module, {}, own.interpreter)
    own.module(parsed)
    own.module(parsed)
    waiting = child_forked_ahead(own)
    before = set(os.listdir(tempfile.gettempdir()))
    done = own.finish(own.start_module(parsed, {b"FL_CALL": b"third"}))
    assert json.loads(done.stdout)["value"] == [waiting, "third"]
    assert done.exit["warm"] is True
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert [name for name in left if "fl_pid_payload" in name] == []
    assert child_forked_ahead(own) != waiting


def test_a_child_forked_ahead_is_thrown_away(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """By a call that is not its own, by its end before one, by the agent's end."""
    module = write_module(tmp_path / "fl_pid.py", "import os", "os.getpid()")
    parsed = payloads.parsed(module, {}, own.interpreter)
    other = payloads.parsed("ping", {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    child_forked_ahead(own)
    assert own.module(other).rc == 0
    wait_childless(own)
    for _ in range(2):
        own.module(parsed)
    killed = child_forked_ahead(own)
    os.kill(killed, signal.SIGKILL)
    wait_childless(own)
    assert json.loads(own.module(parsed).stdout)["value"] != killed
    waiting = child_forked_ahead(own)
    own.wire.close()
    own.end()
    deadline = time.monotonic() + harness.DEADLINE
    while os.path.exists(f"/proc/{waiting}"):
        assert time.monotonic() < deadline, "it outlives its agent"


def test_a_child_forked_ahead_honours_tmpdir(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """TMPDIR of the call is honoured, although the child had chosen its directory before."""
    module = write_module(tmp_path / "fl_tmp.py", "import tempfile", "tempfile.gettempdir()")
    parsed = payloads.parsed(module, {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    child_forked_ahead(own)
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    done = own.finish(own.start_module(parsed, {b"TMPDIR": os.fsencode(directory)}))
    assert json.loads(done.stdout)["value"] == str(directory)


PLACES = (
    "[sys.path[0], b.__file__, b.__spec__.origin, b.__loader__.archive, "
    "b.AnsibleModule.exit_json.__code__.co_filename, sys.modules['ansible.module_utils'].__path__[0]]"
)


def archive_of(agent: AgentProcess, parsed: Any, **calls: Any) -> str:
    """Run a module that tells PLACES: all of them are in one zip; its path."""
    done = agent.finish(agent.start_module(parsed, **calls))
    archive, *origins = json.loads(done.stdout)["value"]
    basic = f"{archive}/ansible/module_utils/basic.py"
    assert origins == [basic, basic, archive, basic, f"{archive}/ansible/module_utils"]
    assert not os.path.exists(os.path.dirname(archive))
    return str(archive)


def test_runs_of_a_kind_share_a_path_while_it_is_free(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """What the parent has settled ahead fits, or is undone: every run is told one path in all places."""
    imports = "import sys, ansible.module_utils.basic as b"
    parsed, other = (
        payloads.parsed(write_module(tmp_path / name, imports, PLACES), {}, own.interpreter)
        for name in ("fl_one.py", "fl_two.py")
    )
    for _ in range(2):
        archive_of(own, parsed)
    archives = []
    for _ in range(2):
        child_forked_ahead(own)
        archives.append(archive_of(own, parsed))
    assert len(set(archives)) == 1
    child_forked_ahead(own)
    directory = os.path.dirname(archives[0])
    os.mkdir(directory)
    # Too late for the child that has chosen it already, in time for the next.
    for _ in range(2):
        assert archive_of_occupied(own, parsed, directory) != archives[0]
        child_forked_ahead(own)
    os.rmdir(directory)
    assert archive_of(own, other) not in archives
    assert archive_of(own, parsed) not in archives
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    archive_of(own, parsed)
    child_forked_ahead(own)
    assert archive_of(own, parsed, env={b"TMPDIR": os.fsencode(elsewhere)}).startswith(f"{elsewhere}/")


def archive_of_occupied(agent: AgentProcess, parsed: Any, directory: str) -> str:
    assert os.path.isdir(directory)
    return archive_of(agent, parsed)


def test_several_at_once_do_not_meet_in_one_directory(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    imports = "import sys, time, ansible.module_utils.basic as b\ntime.sleep(0.2)"
    parsed = payloads.parsed(write_module(tmp_path / "fl_many.py", imports, PLACES), {}, own.interpreter)
    for _ in range(2):
        archive_of(own, parsed)
    child_forked_ahead(own)
    handles = [own.start_module(parsed) for _ in range(5)]
    told = [json.loads(own.finish(handle).stdout)["value"] for handle in handles]
    assert len({archive for archive, *_ in told}) == 5
    assert all(origin.startswith(archive) for archive, *origins in told for origin in origins)


LATE = """
import os, sys, time
flag = os.environ.get("FL_FLAG")
if flag and not os.fork():
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    while not os.path.exists(flag):
        time.sleep(0.01)
    open(flag + ".pid", "w").write(str(os.getpid()))
    sys.exit(0)
late = os.environ.get("FL_LATE")
if late:
    open(late, "w").close()
    while not os.path.exists(late + ".gone"):
        time.sleep(0.01)
"""


def test_a_fork_that_comes_late_removes_nothing_of_a_later_run(
    own: AgentProcess, tmp_path: pathlib.Path
) -> None:
    """A module's fork that ends as the module does removes the run's directory; not one of the same name."""
    module = write_module(tmp_path / "fl_late.py", LATE, "[sys.path[0], os.path.exists(sys.path[0])]")
    parsed = payloads.parsed(module, {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    flag = tmp_path / "flag"
    child_forked_ahead(own)
    first = own.finish(own.start_module(parsed, {b"FL_FLAG": os.fsencode(flag)}))
    archive, _ = json.loads(first.stdout)["value"]
    child_forked_ahead(own)
    later = own.start_module(parsed, {b"FL_LATE": os.fsencode(flag)})
    late = tmp_path / "flag.pid"
    wait_until(lambda: late.exists() and late.read_text() != "")
    wait_until(lambda: not os.path.exists(f"/proc/{late.read_text()}"))
    (tmp_path / "flag.gone").touch()
    assert json.loads(own.finish(later).stdout)["value"] == [archive, True]


DAEMON = """
import os, sys
told = os.environ.get("FL_TOLD")
if told:
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    directory = os.path.dirname(sys.path[0])
    open(os.path.join(directory, "own.cache"), "w").close()
    open(told, "w").write(directory)
    sys.exit(0)
"""


def test_a_fork_that_stands_for_its_module_leaves_nothing(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """The module's own process has ended before it, and there is more than the zip in the directory."""
    module = write_module(tmp_path / "fl_daemon.py", DAEMON, "1")
    parsed = payloads.parsed(module, {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    child_forked_ahead(own)
    told = tmp_path / "told"
    own.finish(own.start_module(parsed, {b"FL_TOLD": os.fsencode(told)}))
    wait_until(lambda: told.exists() and told.read_text() != "")
    wait_until(lambda: not os.path.exists(told.read_text()))


@pytest.mark.parametrize(
    "place", ["{}/made", "{}//made/", "{}/./made/../made", "made", "{}/link", "{}/missing"]
)
def test_a_child_forked_ahead_has_stock_s_place_for_temporary_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """However TMPDIR is spelled, and if it comes into being later."""
    (tmp_path / "made").mkdir()
    (tmp_path / "link").symlink_to("made")
    monkeypatch.setenv("TMPDIR", place.format(tmp_path))
    monkeypatch.chdir(tmp_path)
    value = "[tempfile.gettempdir(), os.path.dirname(os.path.dirname(sys.path[0]))]"
    module = write_module(tmp_path / "fl_tmp.py", "import os, sys, tempfile", value)
    with AgentProcess(env=dict(os.environ), cwd=str(tmp_path)) as agent:
        text = payloads.make(module, {}, agent.interpreter)
        parsed = payloads.parsed(module, {}, agent.interpreter)
        agent.module(parsed)
        agent.module(parsed)
        for missing in (tmp_path / "made", tmp_path / "missing"):
            stock = plain(agent.interpreter, text, dict(os.environ))
            child_forked_ahead(agent)
            ahead = agent.module(parsed)
            assert json.loads(ahead.stdout)["value"] == json.loads(stock.stdout)["value"]
            child_forked_ahead(agent)
            missing.mkdir(exist_ok=True)
            # The child that waits was forked before; the next one sees it.
            agent.module(parsed)


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + harness.DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("module", ["ping", "command", "stat", "lineinfile", "setup"])
def test_results_of_real_modules(own: AgentProcess, tmp_path: pathlib.Path, module: str) -> None:
    path = tmp_path / "file"
    arguments: dict[str, dict[str, Any]] = {
        "ping": {},
        "command": {"_raw_params": "echo hello", "_uses_shell": True},
        "stat": {"path": "/etc/passwd"},
        "lineinfile": {"path": str(path), "line": "x", "create": True},
        "setup": {"gather_subset": ["!all", "min"]},
    }
    text = payloads.make(module, arguments[module], own.interpreter)
    stock = plain(own.interpreter, text)
    path.unlink(missing_ok=True)
    warm = own.module(payloads.parsed(module, arguments[module], own.interpreter))
    assert (warm.rc, warm.stderr) == (stock.returncode, stock.stderr)
    left, right = json.loads(stock.stdout), json.loads(warm.stdout)
    assert left.keys() == right.keys()
    for key in ("changed", "rc", "stdout", "ping", "msg", "failed", "stat", "cmd"):
        if key != "stat":
            assert left.get(key) == right.get(key)
    assert path.exists() is (module == "lineinfile")


def test_zip_is_rebuilt_byte_for_byte(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Ansible fact 4: the agent rebuilds the zip, here compared with what the wrapper wrote.
    module = tmp_path / "fl_copyzip.py"
    module.write_text(
        "#!/usr/bin/python\nimport shutil\nfrom ansible.module_utils.basic import AnsibleModule\n"
        "m = AnsibleModule(argument_spec={'to': {}})\nshutil.copy(_modlib_path, m.params['to'])\n"
        "m.exit_json(path=_modlib_path)\n"
    )
    arguments = {"to": str(tmp_path / "out.zip")}
    text = payloads.make(str(module), arguments, own.interpreter)
    names, contents = [], []
    for run in (
        lambda: plain(own.interpreter, text),
        lambda: own.module(payloads.parsed(str(module), arguments, own.interpreter)),
    ):
        names.append(json.loads(run().stdout)["path"].encode())
        contents.append((tmp_path / "out.zip").read_bytes())
        assert not os.path.exists(os.path.dirname(names[-1])), "the wrapper's directory is gone"
    ours = contents[1].replace(names[1], names[0])
    assert ours[:4] == b"PK\3\4" and len(ours) == len(contents[0])
    different = sum(1 for left, right in zip(ours, contents[0], strict=True) if left != right)
    assert different <= 8, "only the checksum of sitecustomize.py, which holds the random name, twice"


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit()",
        "sys.exit(300)",
        "sys.exit('words')",
        "raise ValueError('x')",
        "os.kill(os.getpid(), 9)",
        "os._exit(5)",
        "sys.stdout.close(); sys.exit(3)",
        "pass",
        "threading.Timer(0.2, lambda: print('late')).start(); sys.exit(4)",
        "os.close(1); print('x' * 10); sys.exit(0)",
        "os.kill(os.getppid(), 15); threading.Event().wait(0.5)",
        "signal.signal(15, signal.SIG_IGN); os.killpg(0, 15); threading.Event().wait(0.5); sys.exit(6)",
        "atexit.register(lambda: 1 / 0); sys.exit(2)",
        "sys.excepthook = lambda kind, *_: sys.stderr.write(kind.__name__); raise KeyboardInterrupt",
        "sys.excepthook = lambda *_: sys.exit(repr(sys.exc_info())); raise ValueError('x')",
        "sys.excepthook = lambda *_: 1 / 0; raise ValueError('x')",
    ],
)
def test_ends_as_python_ends(own: AgentProcess, tmp_path: pathlib.Path, ending: str) -> None:
    # Systems fact 19, ansible facts 2 and 8.
    module, trace = tmp_path / "fl_ending.py", tmp_path / "trace"
    module.write_text(
        "#!/usr/bin/python\nimport atexit, os, signal, sys, threading\n"
        "from ansible.module_utils.basic import AnsibleModule\n"
        f"atexit.register(lambda: open({str(trace)!r}, 'a').write('ended\\n'))\n"
        "sys.stdout.write('{\"a\": 1}')\nsys.stderr.write('err\\n')\n" + ending + "\n"
    )
    parsed = payloads.parsed(str(module), {}, own.interpreter)
    own.module(parsed)

    def left() -> str:
        text = trace.read_text() if trace.exists() else ""
        trace.unlink(missing_ok=True)
        return text

    left()
    warm, left_warm = own.module(parsed), left()
    if forks_ahead(own):
        child_forked_ahead(own)
    ahead, left_ahead = own.module(parsed), left()
    stock = plain(own.interpreter, payloads.make(str(module), {}, own.interpreter))
    assert left() == left_warm == left_ahead
    expected = (
        stock.returncode if stock.returncode >= 0 else 128 - stock.returncode,
        max(0, -stock.returncode),
        comparable(stock.stdout),
        comparable(stock.stderr),
    )
    assert [end_of(warm), end_of(ahead)] == [expected] * 2


def end_of(done: harness.Outcome) -> tuple[int, int, bytes, bytes]:
    """How a run ended: exit status, signal of what leads its session, output, errors."""
    return done.rc, done.exit.get("signal", 0), comparable(done.stdout), comparable(done.stderr)


def comparable(text: bytes) -> bytes:
    """Output without addresses and the random part of the zip's name."""
    text = re.sub(rb" at 0x[0-9a-f]+", b"", text)
    return re.sub(rb"_payload_[A-Za-z0-9_]{6,8}/", b"_payload_RANDOM/", text)


CRASHES = {
    "in the module": ("raise ValueError('x')", ""),
    "in a warm module": ("converters.to_text(b'x', errors='nonsense')", ""),
    "told by the module": ("traceback.print_exc()", "converters.to_text(b'x', errors='nonsense')"),
    "not an Exception": ("raise GeneratorExit('x')", ""),
    "warned": ("warnings.warn('careful')", ""),
    "stack": ("sys.stderr.write(''.join(traceback.format_stack()[-1:]))", ""),
    "in an import": ("from ansible.module_utils import fl_test_broken", ""),
    "told of an import": ("traceback.print_exc()", "from ansible.module_utils import fl_test_broken"),
    "told of an absence": ("traceback.print_exc()", "from ansible.module_utils import fl_test_lacking"),
    "in the syntax": ("from ansible.module_utils import fl_test_odd", ""),
    "told of the syntax": ("traceback.print_exc()", "from ansible.module_utils import fl_test_odd"),
}


def is_known_to_differ(crash: str, python: tuple[int, ...]) -> bool:
    """Say whether the frames of an import under way differ (docs/bootstrap.md, section 4)."""
    if crash.endswith(("import", "absence")):
        return python < (3, 8)
    return crash.endswith("syntax") and python > (3,)


@pytest.mark.parametrize("crash", CRASHES)
def test_tracebacks_are_those_of_a_plain_run(
    agent: AgentProcess, target: str, tmp_path: pathlib.Path, crash: str
) -> None:
    """Frames of the wrapper (whose text came on stdin), files and lines, for a first run and warm ones."""
    if is_known_to_differ(crash, tuple(agent.facts["python"])):
        pytest.skip("a known difference")
    extra = tmp_path / "utils"
    extra.mkdir()
    (extra / "fl_test_broken.py").write_text("def fail():\n    raise ValueError('x')\n\n\nfail()\n")
    (extra / "fl_test_lacking.py").write_text("import nonexistent_module\n")
    (extra / "fl_test_odd.py").write_text("import sys\nreturn\n")
    module = tmp_path / "fl_crash.py"
    last, tried = CRASHES[crash]
    module.write_text(
        "#!/usr/bin/python\nimport sys, traceback, warnings\n"
        "from ansible.module_utils.basic import AnsibleModule\n"
        "from ansible.module_utils.common.text import converters\n"
        + (f"try:\n    {tried}\nexcept Exception:\n    {last}\n" if tried else last + "\n")
    )
    parsed = payloads.parsed(str(module), {}, target, str(extra))
    first, second = agent.module(parsed), agent.module(parsed)
    if forks_ahead(agent):
        child_forked_ahead(agent)
    third = agent.module(parsed)
    stock = plain(target, payloads.make(str(module), {}, target, str(extra)))
    expected = (stock.returncode, 0, comparable(stock.stdout), comparable(stock.stderr))
    assert [end_of(done) for done in (first, second, third)] == [expected] * 3


@pytest.mark.parametrize("alone", [False, True])
def test_a_child_that_dies_with_its_call_unread_has_run_nothing(
    own: AgentProcess, tmp_path: pathlib.Path, alone: bool
) -> None:
    """Rule 13: the call is run by another child, and STARTED is said once."""
    module = write_module(tmp_path / "fl_pid.py", "import os", "os.getpid()")
    parsed = payloads.parsed(module, {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    waiting = child_forked_ahead(own)
    shell = int(pathlib.Path(f"/proc/{waiting}/stat").read_text().rpartition(")")[2].split()[1])
    dying = [waiting] if alone else [waiting, shell]
    for pid in reversed(dying):
        os.kill(pid, signal.SIGSTOP)
    handle = own.start_module(parsed)
    frame = own.receive(handle)
    assert frame.kind == STARTED
    own.ping()
    for pid in dying:
        os.kill(pid, signal.SIGKILL)
    done = own.finish(handle)
    assert (done.rc, done.stderr, done.started) == (0, b"", False)
    assert json.loads(done.stdout)["value"] not in (waiting, shell)


def test_only_the_module_s_own_process_tells_its_end(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """Not a fork of it that leaves through the same code, and what holds the output is waited for."""
    module = tmp_path / "fl_fork.py"
    module.write_text(
        "#!/usr/bin/python\nimport os, signal, sys, time\n"
        "from ansible.module_utils.basic import AnsibleModule\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n    os.close(reader)\n    sys.exit(9)\n"
        "os.close(writer)\nos.read(reader, 1)\n"
        "if os.fork() == 0:\n    time.sleep(0.3)\n    os.write(2, b'last words\\n')\n    os._exit(0)\n"
        "print('the module goes on', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parsed = payloads.parsed(str(module), {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    child_forked_ahead(own)
    done = own.module(parsed)
    assert (done.rc, done.stdout) == (128 + signal.SIGKILL, b"the module goes on\n")
    assert done.stderr == b"Killed\nlast words\n"


def test_a_module_that_is_killed_while_the_agent_is_busy(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """Its shell has told of its death and has ended, before the agent looks: the words are not lost."""
    flag = tmp_path / "wait"
    module = write_module(
        tmp_path / "fl_wait.py",
        "import os\nimport time",
        f"os.path.exists({str(flag)!r}) and [os.unlink({str(flag)!r}), time.sleep(60)]",
    )
    parsed = payloads.parsed(module, {}, own.interpreter)
    for _ in range(2):
        own.module(parsed)
    waiting = child_forked_ahead(own) if forks_ahead(own) else 0
    flag.touch()
    handle = own.start_module(parsed)
    deadline = time.monotonic() + harness.DEADLINE
    while flag.exists():
        assert time.monotonic() < deadline, "it does not run"
        time.sleep(0.005)
    shell = children_of(own.facts["pid"])[0]
    running = children_of(shell)[0]
    assert running == waiting or not waiting
    os.kill(own.facts["pid"], signal.SIGSTOP)
    try:
        os.kill(running, signal.SIGKILL)
        wait_for_zombie(shell)
    finally:
        os.kill(own.facts["pid"], signal.SIGCONT)
    done = own.finish(handle)
    assert (done.rc, done.stdout, done.stderr) == (128 + signal.SIGKILL, b"", b"Killed\n")


def test_a_module_that_has_ended_holds_nothing(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """Its end is told before its process is taken down, but not before its locks and descriptors are gone."""
    lock = tmp_path / "lock"
    module = write_module(
        tmp_path / "fl_lock.py",
        "import fcntl\nimport os",
        f"[fcntl.lockf(os.open({str(lock)!r}, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB), "
        "os.posix_fallocate(os.memfd_create('m'), 0, 1 << 26)]",
    )
    parsed = payloads.parsed(module, {}, own.interpreter)
    own.module(parsed)
    for _ in range(8):
        assert json.loads(own.module(parsed).stdout)["value"] == [None, None]
        with lock.open("r+") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child_forked_ahead(own)


def test_commands_of_a_module_are_started_by_vfork(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    """What was registered for forks is called for a real one only: where the child has a umask to set."""
    module = write_module(
        tmp_path / "fl_spawn.py",
        "import os\nforks = []\n"
        "if hasattr(os, 'register_at_fork'):\n    os.register_at_fork(before=lambda: forks.append(1))",
        "[m.run_command('umask', use_unsafe_shell=True)[1], list(forks), "
        "m.run_command('umask', use_unsafe_shell=True, umask=0o27)[1], list(forks)]",
    )
    parsed = payloads.parsed(module, {}, own.interpreter)
    plain_run = plain(own.interpreter, payloads.make(module, {}, own.interpreter))
    told, _, set_by_it, _ = json.loads(plain_run.stdout)["value"]
    for _ in range(2):
        value = json.loads(own.module(parsed).stdout)["value"]
        assert (value[0], value[2]) == (told, set_by_it)
        if tuple(own.facts["python"]) >= (3, 10):
            assert (value[1], value[3]) == ([], [1])


def test_environment_and_working_directory(own: AgentProcess) -> None:
    module = PROBE
    done = own.module(
        payloads.parsed(module, {}, own.interpreter), env={b"FL_NEW": b"a b", b"TZ": b"Asia/Tokyo"}
    )
    result = json.loads(done.stdout.splitlines()[0])
    assert result["process"]["environment"]["FL_NEW"] == "a b"
    assert result["process"]["zone"] == "JST", "the C library is told of a new zone (ansible fact 7)"
    assert result["process"]["cwd"] == own.facts["cwd"]


@pytest.mark.parametrize("name", ["PYTHONPATH", "LC_ALL", "LANG", "LD_PRELOAD", "HOME", "PYTHONWARNINGS"])
def test_start_up_variables_are_refused(own: AgentProcess, name: str) -> None:
    # Ansible fact 9.
    handle = own.start_module(payloads.parsed("ping", {}, own.interpreter), env={name.encode(): b"x"})
    frame = own.receive(handle)
    assert (frame.kind, struct.unpack(">H", frame.payload[1:3])[0]) == (REFUSED, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"interpreter": "/usr/bin/other"},
        {"family": 999},
        {"site": b"x"},
        {"date": "now"},
        {"manifest": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_it_cannot_run_is_refused_or_asked_for(own: AgentProcess, change: dict[str, Any]) -> None:
    handle = own.start_module(payloads.parsed("ping", {}, own.interpreter), **change)
    if "manifest" in change:
        frame = own.receive(NEED_BLOB)
        assert frame.payload == struct.pack(">II", harness.CLIENT_ID, handle) + bytes(32)
    else:
        assert own.receive(handle).kind == REFUSED
    own.ping()


@pytest.mark.parametrize("family", [219, 222])
def test_an_old_python_gets_no_wrapper_that_it_cannot_parse(family: int) -> None:
    # Stock's result is the wrapper's syntax error; a run from the zip would find another one further in.
    old = [path for path in interpreters() if re.search(r"python(2\.7|3\.[56])$", path)]
    if not old:
        pytest.skip("no Python older than 3.7 here")
    for path in old:
        with AgentProcess(path) as process:
            handle = process.start_module(payloads.parsed("ping", {}, path), family=family, secrets=[])
            assert process.receive(handle).kind == REFUSED


def test_missing_blobs_are_asked_for_and_waited_for(own: AgentProcess) -> None:
    # Systems fact 30: NEED goes to the mux, which has them or asks the caller.
    parsed = payloads.parsed("ping", {}, own.interpreter)
    names = [name for name in parsed.blobs if name != parsed.manifest]
    own.put_blob(parsed.manifest, parsed.blobs[parsed.manifest])
    own.blobs.update(names)
    handle = own.start_module(parsed)
    asked = own.receive(NEED_BLOB).payload[8:]
    assert {asked[at : at + 32] for at in range(0, len(asked), 32)} == set(names)
    own.ping()
    own.blobs.clear()
    for name in names:
        own.put_blob(name, parsed.blobs[name])
    assert own.finish(handle).rc == 0


def test_a_blob_that_lies_is_refused(own: AgentProcess) -> None:
    parsed = payloads.parsed("ping", {}, own.interpreter)
    victim = next(name for name in parsed.blobs if name != parsed.manifest)
    for name, data in parsed.blobs.items():
        own.put_blob(name, data[:-1] + b"!" if name == victim else data)
    handle = own.start_module(parsed)
    assert own.receive(NEED_BLOB).payload[8:] == victim
    own.blobs.discard(victim)
    own.put_blob(victim, b"still not")
    assert own.receive(handle).kind == REFUSED


def test_dropped_blobs_are_asked_for_again(own: AgentProcess) -> None:
    parsed = payloads.parsed("ping", {}, own.interpreter)
    assert own.module(parsed).rc == 0
    own.send(harness.DROP_BLOB, b"".join(parsed.blobs))
    handle = own.start_module(parsed)
    assert own.receive(NEED_BLOB).payload[8:] == parsed.manifest
    own.blobs.clear()
    for name, data in parsed.blobs.items():
        own.put_blob(name, data)
    assert own.finish(handle).rc == 0


def test_large_parameters_arrive_in_pieces(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    parsed = payloads.parsed(
        "lineinfile", {"path": str(path), "line": "x" * 700000, "create": True}, own.interpreter
    )
    for name, data in parsed.blobs.items():
        own.put_blob(name, data)
    params, rest = parsed.params[:262144], parsed.params[262144:]
    handle = own.start({**parsed.exec_body(own.interpreter, {}), "stdin": params, "stdin_more": True})
    while rest:
        granted = struct.unpack(">I", own.receive(handle).payload[1:])[0]
        piece, rest = rest[:granted], rest[granted:]
        for at in range(0, len(piece), 131072):
            own.send(
                harness.DATA,
                piece[at : at + 131072],
                stream=handle,
                flags=0 if rest or at + 131072 < len(piece) else harness.LAST,
            )
    assert own.finish(handle).rc == 0 and path.stat().st_size == 700001


# The rule by which warm modules are kept --------------------------------------------------------------

REPORT = (
    "#!/usr/bin/python\nfrom ansible.module_utils.basic import AnsibleModule\n{imports}\n"
    "m = AnsibleModule(argument_spec={{}})\nm.exit_json(value={value})\n"
)


def write_module(path: pathlib.Path, imports: str, value: str) -> str:
    path.write_text(REPORT.format(imports=imports, value=value))
    return str(path)


def value_of(agent: AgentProcess, module: str, extra: pathlib.Path | None = None) -> Any:
    done = agent.module(payloads.parsed(module, {}, agent.interpreter, str(extra or "")))
    return json.loads(done.stdout)["value"]


def test_an_import_absent_from_the_zip_fails(bare: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Ansible fact 6: neither sys.modules nor an attribute left on the package may make it succeed.
    uses = write_module(tmp_path / "fl_uses.py", "from ansible.module_utils import urls", "urls.__name__")
    assert value_of(bare, uses) == "ansible.module_utils.urls"
    lacks = write_module(
        tmp_path / "fl_lacks.py",
        "import importlib\nfound = []\nname = 'ansible.module_utils.' + 'urls'\n"
        "try:\n    importlib.import_module(name); found.append('import')\nexcept ImportError:\n    pass\n"
        "import ansible.module_utils, sys\n"
        "found += ['attribute'] * hasattr(ansible.module_utils, 'urls') + ['sys'] * (name in sys.modules)",
        "found",
    )
    assert value_of(bare, lacks) == []
    assert value_of(bare, uses) == "ansible.module_utils.urls"


def test_an_ansible_installed_on_the_target_is_found_as_in_stock(
    own: AgentProcess, tmp_path: pathlib.Path
) -> None:
    # The zip's packages extend their path over sys.path, so what is absent may be elsewhere.
    module = write_module(
        tmp_path / "fl_else.py",
        "import importlib\ntry:\n"
        "    place = importlib.import_module('ansible.module_utils.' + 'urls').__file__\n"
        "except ImportError:\n    place = None",
        "place",
    )
    stock = plain(own.interpreter, payloads.make(module, {}, own.interpreter))
    assert value_of(own, module) == json.loads(stock.stdout)["value"]
    assert value_of(own, module) == json.loads(stock.stdout)["value"]


def test_another_content_evicts_what_depends_on_it(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Ansible fact 6: a module whose dependency was evicted keeps the old binding.
    extra = tmp_path / "utils"
    extra.mkdir()
    (extra / "fl_test_base.py").write_text("VALUE = 1\n")
    (extra / "fl_test_user.py").write_text("from ansible.module_utils.fl_test_base import VALUE\n")
    imports = "from ansible.module_utils import fl_test_user"
    first = write_module(tmp_path / "fl_first.py", imports, "fl_test_user.VALUE")
    second = write_module(tmp_path / "fl_second.py", imports, "fl_test_user.VALUE")
    assert value_of(own, first, extra) == 1
    (extra / "fl_test_base.py").write_text("VALUE = 2\n")
    assert value_of(own, second, extra) == 2
    assert value_of(own, first, extra) == 1


def test_warm_names_of_core_that_changed_are_not_kept(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    # The same with names that the parent does import: it holds one content, a payload brings another.
    parsed = payloads.parsed(
        write_module(tmp_path / "fl_w.py", "from ansible.module_utils import urls", "urls.open_url.__doc__"),
        {},
        own.interpreter,
    )
    assert "rl" in json.loads(own.module(parsed).stdout)["value"]
    rows = msgpack.unpackb(parsed.blobs[parsed.manifest])
    source = b"from ansible.module_utils.common.text.converters import to_text\ndef open_url(): 'another'\n"
    entry = next(row for row in rows if row[0] == "ansible/module_utils/urls.py")
    entry[1:6] = [
        hashlib.sha256(source).digest(),
        binascii.crc32(source),
        len(source),
        len(source),
        0,
    ]
    listing = msgpack.packb(rows)
    name = hashlib.sha256(listing).digest()
    changed = parsed._replace(manifest=name, blobs={**parsed.blobs, entry[1]: source, name: listing})
    assert json.loads(own.module(changed).stdout)["value"] == "another"
    assert "rl" in json.loads(own.module(parsed).stdout)["value"]


def test_no_state_survives_a_run(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    module = write_module(
        tmp_path / "fl_state.py",
        "import os, sys\nfrom ansible.module_utils import basic\n"
        "found = getattr(basic, 'FL_LEFT', None), os.environ.get('FL_LEFT')\n"
        "basic.FL_LEFT = os.environ['FL_LEFT'] = 'here'",
        "found",
    )
    assert value_of(own, module) == [None, None]
    assert value_of(own, module) == [None, None]


def test_respawn_works(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Ansible fact 5: respawn builds its payload with inspect.getsource and runs it from the zip.
    module = write_module(
        tmp_path / "fl_respawn.py",
        "import sys\nfrom ansible.module_utils.common.respawn import has_respawned, respawn_module\n"
        "if not has_respawned():\n    respawn_module(sys.executable)",
        "[has_respawned(), _modlib_path[-4:]]",
    )
    # In a respawned module _modlib_path is not set by 2.14, so only ask for the first there.
    if payloads.payload.parse(payloads.make(module, {}, own.interpreter), payloads.warmable).family == 214:
        module = write_module(
            tmp_path / "fl_respawn.py",
            "import sys\nfrom ansible.module_utils.common.respawn import *\n"
            "if not has_respawned():\n    respawn_module(sys.executable)",
            "[has_respawned(), '.zip']",
        )
        payloads._make.cache_clear()
    for _ in range(2):
        assert value_of(own, module) == [True, ".zip"]


def test_unparsable_module_fails_in_the_child_only(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    module = tmp_path / "fl_odd.py"
    module.write_text(
        "#!/usr/bin/python\nfrom ansible.module_utils.basic import AnsibleModule\nimport nonexistent_module\n"
    )
    done = own.module(payloads.parsed(str(module), {}, own.interpreter))
    assert done.rc == 1 and b"nonexistent_module" in done.stdout + done.stderr
    assert own.module(payloads.parsed("ping", {}, own.interpreter)).rc == 0


def test_traceback_does_not_show_the_agent(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    module = tmp_path / "fl_raise.py"
    module.write_text(
        "#!/usr/bin/python\nfrom ansible.module_utils.basic import AnsibleModule\nraise ValueError('x')\n"
    )
    done = own.module(payloads.parsed(str(module), {}, own.interpreter))
    assert b"ValueError" in done.stdout + done.stderr and b"fatline-agent" not in done.stderr


def test_cancel_does_not_stop_a_module(own: AgentProcess, tmp_path: pathlib.Path) -> None:
    # Systems fact 17.
    fifo, left = tmp_path / "gate", tmp_path / "left"
    os.mkfifo(fifo)
    parsed = payloads.parsed(
        "command", {"_raw_params": f"cat {fifo}; touch {left}", "_uses_shell": True}, own.interpreter
    )
    handle = own.start_module(parsed)
    assert own.receive(handle).kind == STARTED
    own.send(harness.CANCEL, stream=handle)
    own.ping()
    fifo.write_text("")
    deadline = time.monotonic() + harness.DEADLINE
    while not left.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert own.receive(handle).kind == EXIT


def test_many_modules_at_once(own: AgentProcess) -> None:
    parsed = payloads.parsed("ping", {}, own.interpreter)
    handles = [own.start_module(parsed) for _ in range(10)]
    assert {own.finish(handle).rc for handle in reversed(handles)} == {0}


def test_the_parent_stays_clean(own: AgentProcess) -> None:
    # Systems fact 20: no threads, no descriptors, no name service in the parent.
    own.module(payloads.parsed("setup", {}, own.interpreter))
    own.module(payloads.parsed("user", {"name": "root"}, own.interpreter))
    pid = own.facts["pid"]
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    kinds = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
    assert [kind for kind in kinds if kind not in ("/dev/null", "pipe", "socket")] == []
    assert len(kinds) <= 9
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
    assert "libnss" not in maps
