# SPDX-License-Identifier: BSD-3-Clause
"""Controllers: ansible-core releases with Fatline beside them, in virtual environments or in a root.

A virtual environment is made with the first interpreter of this machine that the release runs on, else with
the Python of a root. A controller of a distribution is that distribution's own package in its own root.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import roots
from places import CHECKOUT, LabError, building, cache, run, say

_FATLINE = (
    *("setup.py", "pyproject.toml", "VERSION", "README.md", "MANIFEST.in", "LICENSES"),
    *("csrc", "fatline", "bootstrap", "ansible_plugins"),
)
_NOT_FATLINE = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")


@dataclass(frozen=True)
class Core:
    """One release series and where it comes from."""

    name: str
    requirement: str = ""
    """For pip; empty for a distribution's package."""
    pythons: tuple[str, ...] = ()
    """The interpreters it runs on, best first."""
    root: str = ""
    """The root that has the package, or a Python if this machine has none of `pythons`."""
    beside: tuple[str, ...] = ()
    """What pip installs beside it."""


CORES = {
    core.name: core
    for core in (
        Core("2.14", "ansible-core~=2.14.0", ("3.11", "3.10")),
        Core("2.16", "ansible-core~=2.16.0", ("3.11", "3.12", "3.10"), "bookworm"),
        Core("2.17", "ansible-core~=2.17.0", ("3.12", "3.11", "3.10"), "bookworm"),
        Core("2.18", "ansible-core~=2.18.0", ("3.12", "3.11", "3.13"), "bookworm"),
        Core("2.19", "ansible-core~=2.19.0", ("3.11", "3.12", "3.13"), "bookworm"),
        Core("2.20", "ansible-core~=2.20.0", ("3.12", "3.13", "3.14"), "trixie"),
        Core("2.21", "ansible-core~=2.21.0", ("3.13", "3.12", "3.14"), "trixie"),
        Core("2.22", "ansible-core~=2.22.0b1", ("3.13", "3.14"), "trixie"),
        Core("bookworm", root="bookworm"),
        Core("trixie", root="trixie"),
        Core("sid", root="sid"),
    )
}


class Controller:
    """A place to run ansible's programs from."""

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return self._bin

    def __init__(self, core: Core, bin_directory: Path, root: Path | None = None) -> None:
        """`bin_directory` holds ansible-playbook, seen from within `root` if there is one."""
        self.core = core
        self.root = root
        self._bin = bin_directory

    def command(self, arguments: Sequence[str], shared: Sequence[Path] = ()) -> list[str]:
        """A command line that runs one of ansible's programs; `shared` folders are seen by it as here."""
        program = [str(self._bin / arguments[0]), *arguments[1:]]
        return program if self.root is None else in_root(self.root, program, shared)

    def environment(self) -> dict[str, str]:
        """What ansible's programs need beside what the caller sets."""
        return {"PATH": f"{self._bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def versions(self) -> str:
        """The releases of ansible-core and of the Python under it."""
        output = run(self.command(["ansible", "--version"]), f"ansible of {self.core.name}",
                     environment=self.environment())  # fmt: skip
        core = re.search(r"ansible \[core ([^\]]+)\]", output)
        python = re.search(r"python version = ([\d.]+\w*)", output)
        if core is None or python is None:
            raise LabError(f"ansible of {self.core.name} does not say its version:\n{output}")
        return f"{core[1]} on {python[1]}"


def in_root(
    root: Path, program: Sequence[str], shared: Sequence[Path], *, overlay: bool = False
) -> list[str]:
    """A command line that runs `program` in a root with mounts and processes of its own.

    With `overlay` nothing that it writes outside of the `shared` folders remains; $STATE is a folder to use.
    """
    script = f"count={len(shared)}\n" + _ENTER
    before = roots.OVERLAY if overlay else ""
    return [*roots.entered(root, script, before), *map(str, shared), *program]


_ENTER = """
shift
while [ "$count" -gt 0 ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    shift
    count=$((count - 1))
done
exec chroot "$root" /bin/sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
"""


def build(core: Core) -> Controller:
    """A controller with today's Fatline, made now unless it is there. LabError says why it cannot be had."""
    if not core.requirement:
        return _distribution(core)
    python = _interpreter(core.pythons)
    if python is not None:
        return _environment(core, python)
    if core.root:
        return _environment_in_root(core)
    raise LabError(f"no Python {' or '.join(core.pythons)} on this machine")


def _interpreter(versions: Sequence[str]) -> str | None:
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for version in versions:
        candidates = sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python{version}"), reverse=True)
        candidates += [found] if (found := shutil.which(f"python{version}")) else []
        for path in candidates:
            test = [path, "-c", "import ensurepip, venv, ssl"]
            with contextlib.suppress(OSError):
                if subprocess.run(test, capture_output=True, check=False).returncode == 0:
                    return path
    return None


def _environment(core: Core, python: str) -> Controller:
    path = cache() / "controllers" / core.name
    with building(path, " ".join([core.requirement, *core.beside, python])) as wanted:
        if wanted:
            say(f"lab: making a virtual environment with {core.requirement}")
            run([python, "-m", "venv", path], f"virtual environment with {python}")
            run([*_pip(path), core.requirement, *core.beside, "msgpack"], f"pip install {core.requirement}")
    with _fatline() as (digest, source), building(path / "fatline", digest) as wanted:
        if wanted:
            wheel = _wheel(path, digest, source)
            run([*_pip(path), "--no-deps", "--force-reinstall", wheel], "installation of Fatline")
            (path / "fatline").mkdir()
    return Controller(core, path / "bin")


def _wheel(environment: Path, digest: str, source: Path) -> Path:
    """Fatline built for the Python of a virtual environment; those with the same Python share it."""
    (library,) = environment.glob("lib/python3.*")
    wheels = cache() / "wheels" / library.name
    with building(wheels, digest) as wanted:
        if wanted:
            say(f"lab: building Fatline for {library.name}")
            command = [f"{environment}/bin/pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={wheels}"]
            run([*command, source], f"wheel of Fatline for {library.name}")
    (wheel,) = wheels.glob("*.whl")
    return wheel


def _distribution(core: Core) -> Controller:
    """The distribution's own package, with Fatline where its Python finds additions."""
    root = roots.build(roots.ROOTS[core.root].and_controller())
    _install_in_root(root, Path("/usr"), ["--break-system-packages"])
    return Controller(core, Path("/usr/bin"), root)


def _environment_in_root(core: Core) -> Controller:
    """The release from pip on a distribution's Python, with the distribution's own libraries."""
    root = roots.build(roots.ROOTS[core.root].and_controller())
    place = Path("/opt") / core.name
    folder = Path(f"{root}{place}")
    with building(folder, core.requirement) as wanted, _downloaded(core.requirement) as wheels:
        if wanted:
            say(f"lab: making a virtual environment with {core.requirement} in {core.root}")
            run(
                in_root(root, ["python3", "-m", "venv", "--system-site-packages", str(place)], ()),
                "environment",
            )
            pip = [str(place / "bin/pip"), "install", "--no-index", "--no-deps", f"--find-links={wheels}"]
            command = [*pip, "--pre", "--ignore-installed", core.requirement]
            run(in_root(root, command, [wheels]), f"pip install {core.requirement}")
    _install_in_root(root, place, [])
    return Controller(core, place / "bin", root)


def _install_in_root(root: Path, prefix: Path, options: Sequence[str]) -> None:
    mark = Path(f"{root}/opt/fatline-of{str(prefix).replace('/', '-')}")
    with _fatline() as (digest, source), building(mark, digest) as wanted:
        if not wanted:
            return
        say(f"lab: installing Fatline in {root.name}")
        with _downloaded("setuptools>=77") as wheels:
            pip = [f"{prefix}/bin/python3", "-m", "pip", "install", "--no-index", "--no-deps", "--quiet"]
            pip += [f"--find-links={wheels}", "--force-reinstall", *options, str(source)]
            run(in_root(root, pip, [wheels, source]), "installation of Fatline")
        mark.mkdir()


def _pip(environment: Path) -> list[str]:
    return [f"{environment}/bin/pip", "install", "--quiet", "--disable-pip-version-check"]


@contextlib.contextmanager
def _downloaded(requirement: str) -> Iterator[Path]:
    """A folder with the wheel of something that is pure Python, got by this machine's pip."""
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        # The interpreter that will run it is another one.
        command += ["--ignore-requires-python", "--disable-pip-version-check", f"--dest={name}"]
        run([*command, requirement], f"pip download {requirement}")
        yield Path(name)


@contextlib.contextmanager
def _fatline() -> Iterator[tuple[str, Path]]:
    """A copy of this checkout's sources to build in, and the digest of their content."""
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        copy = Path(name) / "fatline"
        copy.mkdir()
        for part in _FATLINE:
            if (CHECKOUT / part).is_dir():
                shutil.copytree(CHECKOUT / part, copy / part, ignore=_NOT_FATLINE)
            else:
                shutil.copy(CHECKOUT / part, copy)
        digest = hashlib.sha256()
        for path in sorted(copy.rglob("*")):
            if path.is_file():
                digest.update(
                    f"{path.relative_to(copy)} {path.stat().st_size}\n".encode() + path.read_bytes()
                )
        yield digest.hexdigest(), copy
