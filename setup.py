# SPDX-License-Identifier: BSD-3-Clause
"""Build the extension and lay the packages out as they are installed.

Metadata is in ``pyproject.toml``; this file holds what needs code: the C sources (read from
``csrc/sources.txt``, which meson reads too), libyaml's flags, and the two trees that are installed
under another name than they have here.

Environment switches::

    FATLINE_BUILD_DEBUG=1       -O0 -g3, asserts on
    FATLINE_BUILD_SANITIZE=1    ASan and UBSan (run Python with libasan preloaded)
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
COLLECTION = "ansible_collections.fatline.core"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wmissing-prototypes"]


def switched_on(name: str) -> bool:
    """Say whether an environment switch is set."""
    return os.environ.get(name, "0") not in ("", "0")


def source_list() -> list[str]:
    """Return every C source of ``csrc/sources.txt``, core and extension alike."""
    lines = (ROOT / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    entries = (line.partition("#")[0].split() for line in lines)
    return [entry[1] for entry in entries if entry]


def pkg_config(*arguments: str) -> list[str]:
    """Ask pkg-config about libyaml, or end with the words that help."""
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *arguments, "yaml-0.1"]
    try:
        return shlex.split(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        sys.exit(
            f"fatline needs libyaml's headers, and {shlex.join(command)!r} does not find them.\n"
            "On Debian or Ubuntu: apt-get install libyaml-dev pkg-config\n"
            f"{detail.strip()}"
        )


def compiler_flags() -> tuple[list[str], list[str]]:
    """Return the flags for compiling and for linking."""
    compile_flags = ["-std=c11", "-fvisibility=hidden", *WARNINGS]
    link_flags: list[str] = []
    if switched_on("FATLINE_BUILD_DEBUG"):
        compile_flags += ["-O0", "-g3", "-UNDEBUG"]
    if switched_on("FATLINE_BUILD_SANITIZE"):
        sanitizers = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        compile_flags += ["-O1", "-g", "-UNDEBUG", *sanitizers]
        link_flags += sanitizers
    return compile_flags, link_flags


def build_kind() -> str:
    """Name the kind of build, for ``fatline doctor``."""
    if switched_on("FATLINE_BUILD_SANITIZE"):
        return "sanitize"
    return "debug" if switched_on("FATLINE_BUILD_DEBUG") else "release"


def extension() -> Extension:
    """Describe ``fatline._native``."""
    version = (ROOT / "VERSION").read_text(encoding="utf-8").strip()
    compile_flags, link_flags = compiler_flags()
    headers = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.[hd]*"))
    return Extension(
        "fatline._native",
        sources=source_list(),
        depends=[*headers, "csrc/sources.txt", "VERSION"],
        include_dirs=["csrc"],
        define_macros=[
            ("FL_RELEASE", f'"{version}"'),
            ("FL_BUILD", f'"{build_kind()}"'),
        ],
        extra_compile_args=[*compile_flags, *pkg_config("--cflags")],
        extra_link_args=[*link_flags, *pkg_config("--libs"), "-pthread"],
    )


def collection_packages() -> dict[str, str]:
    """Map each directory of the collection to the package it is installed as.

    They have no ``__init__.py``: ansible-core finds collections as directories below ``sys.path``, and
    ``ansible_collections`` and ``ansible_collections.fatline`` belong to everybody who ships one.
    """
    packages = {}
    for directory, subdirectories, files in os.walk(ROOT / "ansible_plugins"):
        subdirectories[:] = sorted(name for name in subdirectories if name != "__pycache__")
        relative = Path(directory).relative_to(ROOT / "ansible_plugins")
        if files:
            packages[".".join([COLLECTION, *relative.parts])] = str(Path("ansible_plugins", relative))
    return packages


@functools.cache
def load_bootstrap() -> Any:
    """Import what strips and compresses the agent, from beside this file."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildPackages(build_py):
    """Copies the packages, and adds what travels to a target in the form in which it travels."""

    def run(self) -> None:
        """Build as ever, then strip and compress the agent and the stage."""
        super().run()
        bootstrap = load_bootstrap()
        for name, addition in bootstrap.KINDS.items():
            self.prepared(name).write_bytes(bootstrap.make_agent(addition))
        self.prepared("stage").write_bytes(bootstrap.make_stage())

    def prepared(self, name: str) -> Path:
        """Say where the package looks for one of them."""
        return Path(self.build_lib, "fatline", "bootstrap", f"{name}.z")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List what is installed, what was prepared included."""
        added = [str(self.prepared(name)) for name in (*load_bootstrap().KINDS, "stage")]
        return [*super().get_outputs(include_bytecode), *added]


COLLECTION_PACKAGES = collection_packages()
PLAYBOOK_FILES = ("*.yml", "files/*", "templates/*")

setup(
    packages=[*find_packages(include=["fatline", "fatline.*"]), "fatline.bootstrap", *COLLECTION_PACKAGES],
    package_dir={"fatline.bootstrap": "bootstrap", **COLLECTION_PACKAGES},
    package_data={
        "fatline": ["py.typed", "*.pyi", *(f"cli/bench/playbooks/{part}" for part in PLAYBOOK_FILES)],
        **{name: ["*.yml", "*.md", "*.txt"] for name in COLLECTION_PACKAGES},
    },
    ext_modules=[extension()],
    cmdclass={"build_py": BuildPackages},
)
