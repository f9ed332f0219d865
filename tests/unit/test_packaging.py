# SPDX-License-Identifier: BSD-3-Clause
"""What an installation holds, and where ansible-core looks for it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fatline
from fatline import bootstrap

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = Path("ansible_collections", "fatline", "core")


@pytest.fixture(scope="module")
def installed() -> dict[str, Path]:
    """The files of the installed distribution by the names it lists them under."""
    try:
        files = importlib.metadata.files("fatline") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fatline is imported from a build directory, not installed")
    return {str(file): Path(str(file.locate())) for file in files}


def source_files(directory: str, *suffixes: str) -> set[str]:
    """Files below a directory of the repository, relative to it."""
    base = ROOT / directory
    return {str(path.relative_to(base)) for path in base.rglob("*") if path.suffix in suffixes}


def test_the_whole_collection_is_installed(installed: dict[str, Path]) -> None:
    expected = {str(COLLECTION / name) for name in source_files("ansible_plugins", ".py", ".yml", ".txt")}
    assert expected, "the collection has no files"
    assert expected <= set(installed)
    assert all(installed[name].is_file() for name in expected)


def test_namespace_directories_belong_to_everybody(installed: dict[str, Path]) -> None:
    """Another distribution may ship a collection as well, so neither directory is a package of ours."""
    assert "ansible_collections/__init__.py" not in installed
    assert "ansible_collections/fatline/__init__.py" not in installed


def test_what_travels_is_package_data(installed: dict[str, Path]) -> None:
    assert {f"fatline/bootstrap/{name}.py" for name in ("agent", "privileged", "stage")} <= set(installed)
    assert bootstrap.agent_source()


def test_the_agent_was_stripped_when_it_was_built(installed: dict[str, Path]) -> None:
    """Stripping takes longer than the rest of a boot, so an installation does not do it again."""
    assert installed["fatline/bootstrap/agent.z"].read_bytes() == bootstrap.make_agent()
    assert installed["fatline/bootstrap/privileged.z"].read_bytes() == bootstrap.make_agent("privileged")
    assert installed["fatline/bootstrap/stage.z"].read_bytes() == bootstrap.make_stage()


def test_types_are_installed(installed: dict[str, Path]) -> None:
    assert {"fatline/py.typed", "fatline/_native.pyi"} <= set(installed)


def test_every_data_file_of_the_package_is_installed(installed: dict[str, Path]) -> None:
    expected = {
        f"fatline/{name}" for name in source_files("fatline", ".py", ".pyi", ".yml", ".j2", ".html", ".css")
    }
    assert expected <= set(installed)


def test_the_collection_is_where_ansible_looks(installed: dict[str, Path]) -> None:
    """Ansible fact 34: only `ansible_collections` inside an entry of sys.path is found."""
    roots = [Path(entry) for entry in sys.path if (Path(entry) / COLLECTION / "galaxy.yml").is_file()]
    assert roots
    assert Path(fatline.__file__).parents[1] in roots


@pytest.mark.parametrize(
    "kind, name",
    [
        ("strategy", "linear"),
        ("strategy", "free"),
        ("strategy", "host_pinned"),
        ("connection", "ssh"),
        ("callback", "fatline"),
    ],
)
def test_ansible_doc_shows_each_door(
    installed: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    """No path configured anywhere: an empty configuration, another working directory."""
    program = Path(sys.executable).with_name("ansible-doc")
    if not program.exists():
        pytest.skip("ansible-core is not installed beside this Python")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "HOME": str(tmp_path)}
    result = subprocess.run(
        [program, "--json", "-t", kind, f"fatline.core.{name}"],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr.decode()
    document = json.loads(result.stdout)[f"fatline.core.{name}"]["doc"]
    assert document["short_description"]


def test_one_version_everywhere(installed: dict[str, Path]) -> None:
    version = (ROOT / "VERSION").read_text(encoding="ascii").strip()
    galaxy = (ROOT / "ansible_plugins" / "galaxy.yml").read_text(encoding="utf-8")
    assert fatline.__version__ == importlib.metadata.version("fatline") == version
    assert f"\nversion: {version}\n" in galaxy


def test_every_c_source_is_listed_once() -> None:
    """Rule of the two builds: setup.py and meson read one list."""
    lines = (ROOT / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    listed = [line.split()[1] for line in lines if line and not line.startswith("#")]
    present = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.c")}
    tools = {name for name in present if "/tools/" in name}
    assert sorted(listed) == sorted(present - tools)
