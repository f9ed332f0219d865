# SPDX-License-Identifier: BSD-3-Clause
"""Run a case: the same playbook in equal worlds, under stock and through Fatline's doors."""

from __future__ import annotations

import concurrent.futures
import configparser
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypi_collections
import yaml
from ansible_support import DOORS
from fidelity_cases import PIPELINING, Case
from fidelity_compare import Observation, differences
from world import CONTROL, PASSWORD, World

HERE = Path(__file__).parent

# Where things are in every world. The controller's user owns them.
PLAY = "/play"
RECORD = "/play/record"
WORK = "/home/worker/work"
RUNTIME = "/home/control/run"

# What ends, or is ended, before what is left behind is counted.
_TRANSPORT = ("sshd: ", "ssh ", "ssh: ", "/usr/bin/ssh ")

_CONFIG = """\
[defaults]
inventory = /play/inventory.yml
callback_plugins = {callbacks}
timeout = 20
forks = 5
"""

_CLOSE_MASTERS = """
for socket in /home/control/.ansible/cp/* /home/control/run/cp-*; do
    [ -S "$socket" ] && ssh -o ControlPath="$socket" -O exit unused
done
exit 0
"""


@dataclass(frozen=True)
class Controller:
    """The ansible-core that runs the cases: the one of a virtual environment."""

    bin: Path
    version: tuple[int, ...]
    binds: tuple[Path, ...]

    @classmethod
    def of(cls, environment: Path) -> Controller:
        """Look at a virtual environment, in which Fatline must be installed too."""
        python = environment / "bin" / "python"
        asked = (
            "import json, sys, ansible.release, fatline;"
            "print(json.dumps([ansible.release.__version__, sys.prefix, sys.base_prefix]))"
        )
        answer = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False, cwd="/")
        if answer.returncode != 0:
            raise RuntimeError(f"no ansible-core with Fatline in {environment}: {answer.stderr.strip()}")
        version, prefix, base = json.loads(answer.stdout)
        numbers = tuple(int(word) for word in version.split(".")[:2])
        collections = pypi_collections.installed()
        found = (prefix, base, HERE, *([collections] if collections else []))
        paths = dict.fromkeys(Path(path) for path in found if path not in ("/usr", "/"))
        return cls(environment / "bin", numbers, tuple(paths))

    @classmethod
    def chosen(cls) -> Controller:
        """The environment that ``ANSIBLE`` names, or else the one that runs the tests."""
        return cls.of(Path(os.environ.get("ANSIBLE") or sys.prefix).absolute())


@dataclass(frozen=True)
class Variant:
    """One way to run a case."""

    name: str
    environment: Mapping[str, str]


class Bench:
    """What the cases of a session share: the seed of their worlds, the controller, scratch space."""

    def __init__(self, directory: Path, seed: Path, controller: Controller) -> None:
        """Take note of them."""
        self._directory = directory
        self._seed = seed
        self._controller = controller
        self._numbers = itertools.count()

    def compare(self, case: Case, pipelining: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Run a case in all its variants; return what differs, and what Fatline counted."""
        variants = list(_variants(case, pipelining))
        with concurrent.futures.ThreadPoolExecutor(len(variants)) as pool:
            stock, *others = pool.map(lambda variant: self._observe(case, variant), variants)
        if case.rc is not None:
            wanted = [case.rc] * case.runs
            assert stock.rcs == wanted, (
                f"stock returned {stock.rcs}, not {wanted}:\n{stock.stdout}{stock.stderr}"
            )
        found = []
        for variant, other in zip(variants[1:], others, strict=True):
            lines = differences(case, pipelining, stock, other)
            if lines:
                found += [f"==== {case.name}, door {variant.name}, pipelining {pipelining}", *lines]
        return found, [count for other in others for count in other.counts]

    def _observe(self, case: Case, variant: Variant) -> Observation:
        directory = self._directory / f"world{next(self._numbers)}"
        seen = Observation()
        with World(directory, self._seed, self._controller.binds) as world:
            self._prepare(world, case)
            for _ in range(case.runs):
                self._play(world, case, variant, seen)
            self._end_transport(world)
            # Workers of a run that was killed end when they notice that ssh has ended.
            workers = str(self._controller.bin)
            seen.processes = world.settle((*_TRANSPORT, workers, *case.awaited))
            seen.tree = world.tree()
        return seen

    def _prepare(self, world: World, case: Case) -> None:
        play = world.path(PLAY)
        shutil.copy(case.path, play / "playbook.yml")
        shutil.copytree(HERE / "common", play, dirs_exist_ok=True)
        if case.helpers.is_dir():
            shutil.copytree(case.helpers, play, dirs_exist_ok=True, symlinks=True)
        (play / "inventory.yml").write_text(case.inventory or _inventory(case))
        config = configparser.RawConfigParser()
        config.read_string(_CONFIG.format(callbacks=HERE / "callback_plugins"))
        config.read_string(case.config)
        with open(play / "ansible.cfg", "w", encoding="utf-8") as file:
            config.write(file)
        (play / "record").mkdir()
        world.path(WORK).mkdir()
        world.shell(f"chown -R control: {PLAY}; chown worker: {WORK}\n{case.setup}")
        world.start_server()

    def _play(self, world: World, case: Case, variant: Variant, seen: Observation) -> None:
        record = world.path(RECORD) / f"run{len(seen.rcs)}"
        done = world.run(
            self._command(case),
            timeout=case.timeout,
            uid=CONTROL,
            env=self._environment()
            | self._collections(case)
            | variant.environment
            | case.env
            | {"FIDELITY_RECORD": f"{RECORD}/{record.name}"},
            cwd=PLAY,
            stdin=case.stdin,
        )
        lines = record.read_text(errors="surrogateescape").splitlines() if record.exists() else []
        events = [json.loads(line) for line in lines]
        seen.rcs.append(done.rc)
        seen.stdout.append(done.stdout)
        seen.stderr.append(done.stderr)
        seen.events.append([event for event in events if event["event"] != "fatline"])
        seen.counts += [event for event in events if event["event"] == "fatline"]

    def _command(self, case: Case) -> list[str]:
        command = [str(self._controller.bin / "ansible-playbook"), "playbook.yml", *case.args]
        if not case.answers:
            return command
        python = str(self._controller.bin / "python")
        return [python, str(HERE / "terminal.py"), json.dumps(case.answers), *command]

    def _collections(self, case: Case) -> dict[str, str]:
        found = pypi_collections.installed() if case.collections else None
        return {"ANSIBLE_COLLECTIONS_PATH": str(found)} if found else {}

    def _end_transport(self, world: World) -> None:
        """End what may outlive a run: ssh masters, and the mux with its agents."""
        environment = self._environment()
        world.run(
            [str(self._controller.bin / "fatline"), "mux", "stop"], timeout=60, uid=CONTROL, env=environment
        )
        world.run(["/bin/sh", "-c", _CLOSE_MASTERS], timeout=60, uid=CONTROL, env=environment)

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": "/home/control",
            "USER": "control",
            "LOGNAME": "control",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "PATH": f"{self._controller.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANSIBLE_CONFIG": f"{PLAY}/ansible.cfg",
            "ANSIBLE_NOCOLOR": "1",
            "FATLINE_RUNTIME_DIR": RUNTIME,
        }


def _variants(case: Case, pipelining: str) -> list[Variant]:
    """Stock first."""
    shared = {
        "ANSIBLE_STRATEGY": case.strategy,
        "ANSIBLE_CALLBACKS_ENABLED": "fidelity",
        **PIPELINING[pipelining],
    }
    found = [Variant("stock", shared | {"FATLINE_DISABLE": "1"})]
    for door in os.environ.get("DOORS", "").split() or case.doors:
        own = dict(DOORS[door])
        if door == "strategy":
            own["ANSIBLE_STRATEGY"] = f"fatline.core.{case.strategy}"
        if "ANSIBLE_CALLBACKS_ENABLED" in own:
            own["ANSIBLE_CALLBACKS_ENABLED"] = f"fidelity,{own['ANSIBLE_CALLBACKS_ENABLED']}"
        found.append(Variant(door, shared | own))
    return found


def _inventory(case: Case) -> str:
    hosts = {f"t{number}": {"ansible_host": f"127.0.0.{number}"} for number in range(1, case.hosts + 1)}
    variables = {
        "ansible_user": "worker",
        "ansible_python_interpreter": "/usr/bin/python3",
        "work": WORK,
        "password": PASSWORD,
    }
    return yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}})
