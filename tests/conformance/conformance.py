# SPDX-License-Identifier: BSD-3-Clause
"""Run ansible-core's own integration targets over ssh, under stock and under Fatline, and compare.

The targets come from an unpacked source tree of ansible-core (a checkout at a tag, or a source distribution),
which stays outside of this repository. Each run of a target gets a fresh host and a controller whose writes
go nowhere, so that no target sees another's traces and this machine sees none. What fails under stock is
noted and not run further; everything else must pass under every configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "lab"))

import cores  # noqa: E402
import roots  # noqa: E402
from hosts import Host  # noqa: E402
from places import LabError, cache, run, say  # noqa: E402

from fatline.cli.sandbox import Keys  # noqa: E402

LIST = HERE / "targets.txt"
SECONDS = 300
ADDRESS = "127.77.1.{number}"

PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"

CONFIGURATIONS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    # environment, variables of the inventory
    "stock": ({"FATLINE_DISABLE": "1"}, {}),
    "strategy": ({"ANSIBLE_STRATEGY": "fatline.core.linear"}, {}),
    "connection": ({}, {"ansible_connection": "fatline.core.ssh"}),
    "callback": ({"ANSIBLE_CALLBACKS_ENABLED": "fatline.core.fatline"}, {}),
}

# Targets that say nothing of ssh, and look on the controller for what is on the host.
_SHARES_FILES = ("template",)

# Targets that take testhost for the controller without a wire, as ansible-core's own test runner has it.
_WITHOUT_A_WIRE = (
    "argspec",
    "connection_local",
    "connection_remote_is_local",
    "gather_facts-errors",
    "no_log",
    "preflight_encoding",
    "python_module_rlimit_nofile",
)

# Pythons that run the controllers of a release series; the newest releases want new ones.
_SERIES = {core.name: core for core in cores.CORES.values() if core.requirement}


@dataclass(frozen=True)
class Result:
    """How one target ended under one configuration."""

    verdict: str
    seconds: float
    accelerated: int = 0
    """Commands that agents served, in all runs of ansible within the target that told."""
    commands: int = 0
    ending: str = ""
    """What the recaps add up to, and the task that failed last."""

    def like(self, other: Result) -> bool:
        """Whether both ended at the same place in the same way."""
        return self.verdict == other.verdict and bool(self.ending) and self.ending == other.ending


class Tree:
    """An unpacked source tree of ansible-core."""

    def __init__(self, folder: Path) -> None:
        """LabError if it is none."""
        self.folder = folder.resolve()
        self.integration = self.folder / "test" / "integration"
        release = self.folder / "lib" / "ansible" / "release.py"
        if not (self.integration / "targets").is_dir() or not release.exists():
            raise LabError(f"{folder} is not a source tree of ansible-core with its integration tests")
        found = re.search(r"^__version__ = '([^']+)'", release.read_text(), re.MULTILINE)
        if found is None:
            raise LabError(f"{release} does not say its version")
        self.version = found[1]

    @classmethod
    def named(cls, name: str) -> Tree:
        """A folder, or a version whose source distribution pip brings into the lab's cache."""
        if os.path.isdir(name):
            return cls(Path(name))
        if not re.fullmatch(r"\d+\.\d+\.\d+\w*", name):
            raise LabError(f"{name} is neither a folder nor a version of ansible-core")
        place = cache() / "checkouts"
        if not (place / f"ansible_core-{name}").is_dir():
            _unpack(name, place)
        return cls(place / f"ansible_core-{name}")

    def controller(self) -> cores.Controller:
        """A controller with exactly this version, and what targets expect beside it."""
        series = ".".join(self.version.split(".")[:2])
        if series not in _SERIES:
            raise LabError(f"the lab knows no interpreter for ansible-core {series}")
        return cores.build(
            cores.Core(
                f"conformance-{self.version}",
                f"ansible-core=={self.version}",
                _SERIES[series].pythons,
                beside=("passlib",),
            )
        )

    def has(self, target: str) -> bool:
        """Whether this release has a target of that name."""
        return (self.integration / "targets" / target).is_dir()

    def script(self, target: str) -> bool:
        """Whether the target is a script; the others are roles."""
        return (self.integration / "targets" / target / "runme.sh").exists()

    def is_its_own_host(self, target: str) -> bool:
        """Whether its inventory names localhost and 127.0.0.x over ssh, with the controller's own Python."""
        return "needs/ssh" in self.aliases(target) or target in _SHARES_FILES

    def is_local(self, target: str) -> bool:
        """Whether its testhost is the controller over the local connection, with its own Python."""
        return target in _WITHOUT_A_WIRE

    def aliases(self, target: str) -> list[str]:
        """What the target's author says about it."""
        path = self.integration / "targets" / target / "aliases"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for line in lines if (words := line.partition("#")[0].strip())]


def _unpack(version: str, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        pip += ["--ignore-requires-python", "--no-binary=:all:", f"--dest={name}", f"ansible-core=={version}"]
        run(pip, f"source distribution of ansible-core {version}")
        for path in Path(name).glob("*.tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(name, filter="data")
        for folder in Path(name).glob("ansible*core-*/"):
            shutil.move(folder, place / f"ansible_core-{version}")


class Runner:
    """Runs targets of one tree, one at a time; a context manager that leaves nothing but its logs."""

    def __init__(
        self,
        tree: Tree,
        controller: cores.Controller,
        root: roots.Root,
        logs: Path,
        seconds: float,
        number: int = 1,
    ) -> None:
        """Build the root first: LabError says why that cannot be. `number` tells it from others at work."""
        self._address = ADDRESS.format(number=number)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._tree = tree
        self._root = replace(root, prepare=root.prepare + _HOST)
        self._logs = logs
        self._seconds = seconds
        self._controller = controller
        roots.build(root)
        self._directory = Path(tempfile.mkdtemp(prefix="fatline-conf-"))
        self._keys = Keys.generate(self._directory / "keys")

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, target: str, configuration: str) -> Result:
        """Run a target once, on a host that has no past. LabError if it was stopped."""
        place = self._directory / "host"
        with Host(self._root, place, self._keys, name="testhost", address=self._address) as host:
            tree = self._directory / "tree"
            shutil.copytree(self._tree.folder / "test", tree / "test", symlinks=True)
            (tree / "state").mkdir()
            # Roles take it for a folder of the host, scripts for one of the controller.
            for root in (Path("/"), host.files()):
                (root / str(tree / "results").lstrip("/")).mkdir(parents=True, exist_ok=True)
            try:
                return self._run(target, configuration, host, tree)
            finally:
                shutil.rmtree(tree)

    def stop(self) -> None:
        """End what runs, from any thread."""
        self._stopped = True
        if self._process is not None:
            _kill(self._process)

    def _run(self, target: str, configuration: str, host: Host, tree: Path) -> Result:
        environment, variables = CONFIGURATIONS[configuration]
        inventory = tree / "test" / "integration" / "inventory"
        way = {**host.variables("root"), "ansible_python_interpreter": "/usr/bin/python3"}
        own = {"ansible_python_interpreter": str(self._controller.bin / "python")}
        if self._tree.is_its_own_host(target):
            way = {**own, "ansible_host": "localhost"}
            if target in _SHARES_FILES:
                # template of 2.14 names its connection wrongly, and counts on being overruled.
                way["ansible_connection"] = "ssh"
        elif self._tree.is_local(target):
            way = {**own, "ansible_connection": "local"}
            variables = {name: value.replace(".ssh", ".local") for name, value in variables.items()}
        _write_inventory(inventory, {**way, "ansible_pipelining": "yes", **variables})
        log = self._logs / f"{target}-{configuration}.log"
        begun = time.monotonic()
        with open(log, "wb") as output:
            codes = [
                self._step(name, tree, environment, output, self._seconds - (time.monotonic() - begun))
                for name in (*_setups(self._tree.aliases(target)), target)
                if self._tree.has(name)
            ]
        verdict = TIMED_OUT if codes[-1] is None else FAILED if codes[-1] else PASSED
        said, told = log.read_text(errors="replace"), tree / "summaries"
        counts = re.findall(r"accelerated (\d+) of (\d+) commands", told.read_text() if told.exists() else "")
        accelerated, commands = (sum(int(pair[place]) for pair in counts) for place in (0, 1))
        return Result(verdict, round(time.monotonic() - begun, 1), accelerated, commands, _ending(said))

    def _step(
        self, target: str, tree: Path, environment: dict[str, str], output: object, seconds: float
    ) -> int | None:
        """Run one target to its end; its status, None if it took too long."""
        integration = tree / "test" / "integration"
        if self._tree.script(target):
            program, folder = ["./runme.sh", "-v"], integration / "targets" / target
        else:
            program, folder = self._role(target, integration), integration
        results = tree / "results"
        whole = {
            **_ENVIRONMENT,
            **_supplements(tree),
            **self._tools(tree),
            "FATLINE_SUMMARY_FILE": str(tree / "summaries"),
            "STATE": str(tree / "state"),
            "ANSIBLE_CONFIG": str(tree / "test/lib/ansible_test/_data/ansible.cfg"),
            "ANSIBLE_PLAYBOOK_DIR": str(folder),
            "OUTPUT_DIR": str(results),
            "JUNIT_OUTPUT_DIR": str(results),
            "JUNIT_TASK_RELATIVE_PATH": str(tree),
            "INVENTORY_PATH": str(integration / "inventory"),
            **({} if self._tree.script(target) else {"ANSIBLE_ROLES_PATH": str(integration / "targets")}),
            **dict(_settings(self._tree.aliases(target))),
            **environment,
        }
        if self._tree.is_its_own_host(target):
            program = ["unshare", "--net", "/bin/sh", "-ec", _ITS_OWN_HOST, "controller", *program]
        elif self._tree.is_local(target):
            program = ["/bin/sh", "-ec", _WITHOUT_SSH, "controller", *program]
        prepared = ["/bin/sh", "-ec", _CONTROLLER, "controller", *program]
        command = cores.in_root(Path("/"), prepared, [self._directory], overlay=True)
        self._process = process = subprocess.Popen(
            command,
            cwd=folder,
            env=whole,
            stdin=subprocess.DEVNULL,
            stdout=output,  # type: ignore[call-overload]
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = None if self._stopped else process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            status = None
        if status is None:
            _kill(process)
        if self._stopped:
            raise LabError(f"{target} was stopped")
        return status

    def _tools(self, tree: Path) -> dict[str, str]:
        """Programs that scripts of targets call, and what those want to know."""
        environment, place = self._controller.environment(), tree / "bin"
        if not place.exists():
            place.mkdir()
            injector = tree / "test" / "lib" / "ansible_test" / "_util" / "target" / "injector"
            for script in injector.glob("virtualenv*.sh"):
                shutil.copy(script, place)
            (place / "python.py").write_text('#!/bin/sh\nexec python "$@"\n')
            (place / "python.py").chmod(0o755)
        python = self._controller.bin / "python"
        ask = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sysconfig.get_path('purelib'))"
        version, packages = run([python, "-c", ask], "version of Python").split()
        return {
            "ANSIBLE_TEST_PYTHON_INTERPRETER": str(python),
            "ANSIBLE_TEST_PYTHON_VERSION": version,
            # The environments that virtualenv.sh makes are to find ansible.
            "PYTHONPATH": packages,
            "PATH": f"{place}:{environment['PATH']}",
        }

    def _role(self, target: str, integration: Path) -> list[str]:
        play = {
            "hosts": "testhost",
            "gather_facts": "gather_facts/no" not in self._tree.aliases(target),
            "vars": {"output_dir": str(integration.parents[1] / "results")},
            "roles": [target],
        }
        playbook = integration / f"{target}-target.yml"
        playbook.write_text(json.dumps([play]))
        return ["ansible-playbook", playbook.name, "-i", "inventory", "-v"]


def _ending(said: str) -> str:
    """Sum the recaps up and name the task that failed last, to see whether two failures are the same."""
    sums: dict[str, int] = {}
    for name, count in re.findall(r"\b(ok|changed|unreachable|failed|skipped|rescued|ignored)=(\d+)", said):
        sums[name] = sums.get(name, 0) + int(count)
    fatal = said.rfind("\nfatal: ")
    task = re.findall(r"^(?:TASK|RUNNING HANDLER) \[(.*)\]", said[: max(fatal, 0)], re.MULTILINE)[-1:]
    return " ".join([*(f"{name}={count}" for name, count in sums.items()), *task])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill unshare, and with it everything in its name spaces."""
    process.send_signal(signal.SIGKILL)
    process.wait()


# What targets expect of a host: root's keys, which some give to others; and a cron whose clock runs fast.
# They see to that themselves under systemd, which a host has not; jobs would come in time only by good luck.
_HOST = """
install -D -m 600 /etc/ssh/lab_keys /root/.ssh/authorized_keys
mkdir -p /etc/default
cat >>/etc/default/cron <<'END'
for library in /usr/lib/*/faketime/libfaketime.so.1; do
    [ ! -e "$library" ] || export LD_PRELOAD="$library" FAKETIME='+0y x10'
done
END
"""

# What targets expect of /usr/bin/python3 on the controller: that it has Jinja.
_CONTROLLER = """
if own=$(/usr/bin/python3 -c 'import site; print(site.getsitepackages()[0])'); then
    theirs=$(python3 -c 'import os, jinja2; print(os.path.dirname(os.path.dirname(jinja2.__file__)))')
    mkdir -p "$own"
    for package in jinja2 markupsafe yaml; do
        [ -e "$own/$package" ] || ln -s "$theirs/$package" "$own/$package"
    done
fi
exec "$@"
"""

# Other users of the controller run and read what belongs to this one.
_READABLE = """
for place in "$(command -v python)" "$(readlink -f "$(command -v python)")" "$PWD"; do
    while [ "$place" != / ]; do
        place=$(dirname "$place")
        chmod a+x "$place"
    done
done
"""

# A controller that is testhost without a wire. preflight_encoding wants a second locale.
_WITHOUT_SSH = (
    _READABLE
    + """
[ ! -d /usr/share/i18n/locales ] || localedef -i en_US -f UTF-8 en_US.UTF-8
exec "$@"
"""
)

# A controller with an ssh server, in a network of its own, where nobody else has taken the port.
_ITS_OWN_HOST = (
    _READABLE
    + """
ip link set lo up
# For sudo, which asks who it is and would wait for a name server.
echo "127.0.1.1 $(hostname)" >>/etc/hosts
# An address that never answers, as delegate_to expects of it.
if ip link add silence type bridge; then
    ip link set silence arp off
    ip address add 192.0.2.1/32 dev silence
    ip link set silence up
    ip route add 4.2.2.2 dev silence
fi
mkdir -p -m 755 /run/sshd
mkdir -p -m 700 /root/.ssh
ssh-keygen -q -A
rm -f /root/.ssh/id_rsa
ssh-keygen -q -t rsa -N '' -f /root/.ssh/id_rsa
cp /root/.ssh/id_rsa.pub /root/.ssh/authorized_keys
/usr/sbin/sshd
exec "$@"
"""
)

# What ansible-core's own test runner sets, as far as targets rely on it.
_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "USER": "root",
    "PAGER": "/bin/cat",
    "ANSIBLE_PYTHON_MODULE_RLIMIT_NOFILE": "1024",
    "ANSIBLE_FORCE_COLOR": "false",
    "ANSIBLE_FORCE_HANDLERS": "true",
    "ANSIBLE_HOST_PATTERN_MISMATCH": "error",
    "ANSIBLE_INVENTORY": "/dev/null",
    "ANSIBLE_DEPRECATION_WARNINGS": "false",
    "ANSIBLE_HOST_KEY_CHECKING": "false",
    "ANSIBLE_RETRY_FILES_ENABLED": "false",
    "ANSIBLE_LIBRARY": "/dev/null",
    "ANSIBLE_DEVEL_WARNING": "false",
}


def _supplements(tree: Path) -> dict[str, str]:
    """Plugins that only the tests have."""
    plugins = tree / "test" / "support" / "integration" / "plugins"
    kinds = {"modules": "ANSIBLE_LIBRARY", "module_utils": "ANSIBLE_MODULE_UTILS"}
    folders = [path for path in plugins.iterdir() if path.is_dir()] if plugins.is_dir() else []
    return {
        kinds.get(path.name, f"ANSIBLE_{path.name.upper()}_PLUGINS"): str(path)
        for path in folders
        if path.name in kinds
        or path.name in ("action", "filter", "lookup", "test", "inventory", "connection")
    }


def _setups(aliases: Sequence[str]) -> Iterator[str]:
    """Targets that are to run ahead of one."""
    for alias in aliases:
        kind, _, name = alias.rpartition("/")
        if kind in ("setup/once", "setup/always"):
            yield name


def _settings(aliases: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Environment variables that a target asks for."""
    for alias in aliases:
        if alias.startswith("env/set/"):
            name, _, value = alias.removeprefix("env/set/").partition("/")
            yield name, value


def _write_inventory(path: Path, variables: dict[str, str | int]) -> None:
    words = " ".join(f"{key}={json.dumps(str(value))}" for key, value in variables.items())
    path.write_text(f"testhost {words}\n[testgroup]\ntesthost\n")


class Book:
    """Results that are kept from run to run, one file for each version and root. Threads share it."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, Result]] = {}
        if path.exists():
            for target, row in json.loads(path.read_text()).items():
                self._rows[target] = {name: Result(**result) for name, result in row.items()}

    def get(self, target: str, configuration: str) -> Result | None:
        """A result, if there is one."""
        return self._rows.get(target, {}).get(configuration)

    def put(self, target: str, configuration: str, result: Result) -> None:
        """Keep a result, at once."""
        with self._lock:
            self._rows.setdefault(target, {})[configuration] = result
            rows = {
                name: {key: asdict(value) for key, value in row.items()} for name, row in self._rows.items()
            }
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
            new.rename(self._path)

    def table(self, targets: Sequence[str], configurations: Sequence[str]) -> str:
        """The results in Markdown."""
        lines = [
            "| target | " + " | ".join(configurations) + " |",
            "| --- " * (len(configurations) + 1) + "|",
        ]
        for target in targets:
            stock = self.get(target, "stock")
            cells = [_cell(self.get(target, name), stock) for name in configurations]
            lines.append(f"| {target} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _cell(result: Result | None, stock: Result | None = None) -> str:
    if result is None:
        return ""
    failed_too = result.verdict == FAILED and stock is not None and stock is not result
    alike = " alike" if failed_too and stock is not None and result.like(stock) else ""
    counts = f", {result.accelerated} of {result.commands}" if result.commands else ""
    return f"{result.verdict}{alike}{counts}"


def _listed() -> list[str]:
    """The committed list of targets."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line]


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tree", metavar="CHECKOUT", help="source tree of ansible-core, or a version for pip to bring"
    )
    parser.add_argument("--config", action="append", choices=CONFIGURATIONS, help="beside stock (repeatable)")
    parser.add_argument("--only", action="append", metavar="TARGET", help="this target (repeatable)")
    parser.add_argument("--root", choices=roots.ROOTS, default="bookworm", help="what the host is (bookworm)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"limit for one target ({SECONDS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="targets at the same time (1)")
    parser.add_argument("--resume", action="store_true", help="run only what has no result yet")
    parser.add_argument("--lazy", action="store_true", help="stock only for what fails under Fatline")
    parser.add_argument("--show", action="store_true", help="run nothing, print the results that there are")
    options = parser.parse_args()
    try:
        tree = Tree.named(options.tree)
        place = cache() / "conformance" / f"{tree.version}-{options.root}"
        place.mkdir(parents=True, exist_ok=True)
        book = Book(place / "results.json")
        targets = [name for name in options.only or _listed() if tree.has(name)]
        configurations = ["stock", *(name for name in options.config or ("strategy",) if name != "stock")]
        if not options.show:
            controller, root = tree.controller(), roots.ROOTS[options.root]
            with ExitStack() as stack:
                runners = [
                    stack.enter_context(Runner(tree, controller, root, place, options.seconds, number))
                    for number in range(1, options.jobs + 1)
                ]
                run_all(runners, book, targets, configurations, resume=options.resume, lazy=options.lazy)
    except LabError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    print(f"ansible-core {tree.version}, host: {options.root}\n\n{book.table(targets, configurations)}")
    return verdict(book, targets, configurations)


def run_all(
    runners: Sequence[Runner],
    book: Book,
    targets: Sequence[str],
    configurations: Sequence[str],
    *,
    resume: bool = False,
    lazy: bool = False,
) -> None:
    """Run targets, one on each runner at once: under stock and, where that passes, otherwise.

    With `lazy` stock is run only to see whether what fails elsewhere passes there.
    """
    idle: queue.SimpleQueue[Runner] = queue.SimpleQueue()
    for runner in runners:
        idle.put(runner)

    def result(runner: Runner, target: str, name: str) -> Result:
        kept = book.get(target, name)
        # What stock does is asked once: it does not change with Fatline.
        if kept is None or not (resume or name == "stock"):
            kept = runner.run(target, name)
            book.put(target, name, kept)
            say(f"{target}: {name}: {_cell(kept)} ({kept.seconds} s)")
        return kept

    def compare(target: str) -> None:
        runner = idle.get()
        try:
            if not lazy and result(runner, target, "stock").verdict != PASSED:
                return
            others = [result(runner, target, name) for name in configurations[1:]]
            if any(other.verdict != PASSED for other in others):
                result(runner, target, "stock")
        finally:
            idle.put(runner)

    with ThreadPoolExecutor(len(runners)) as pool:
        try:
            for _ in pool.map(compare, targets):
                pass
        except BaseException:
            for runner in runners:
                runner.stop()
            raise


def verdict(book: Book, targets: Sequence[str], configurations: Sequence[str]) -> int:
    """Print the sums; the exit status: 0 if no configuration fails what stock passes."""
    stock = {target: kept for target in targets if (kept := book.get(target, "stock"))}
    passed = [target for target, kept in stock.items() if kept.verdict == PASSED]
    print(f"\nstock passes {len(passed)} of the {len(stock)} that it was asked")
    status = 0
    for name in configurations[1:]:
        results = {target: kept for target in targets if (kept := book.get(target, name))}
        good = [target for target, kept in results.items() if kept.verdict == PASSED]
        lost = [target for target in passed if target in results and target not in good]
        print(f"{name} passes {len(good)} of {len(results)}; lost: {', '.join(lost) or 'none'}")
        status |= bool(lost) or any(target not in results for target in passed)
    return int(status)
