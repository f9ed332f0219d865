# SPDX-License-Identifier: BSD-3-Clause
"""Get the collections that tests need: connections that Fatline stands in for, and become plugins.

    python tests/e2e/pypi_collections.py DIRECTORY

They are taken out of the ``ansible`` package, which bundles them; the rest of its 600 MB is not unpacked.
FATLINE_TEST_COLLECTIONS names the directory to the tests; ``make test`` does both. Without it the tests use
an ``ansible`` package that is installed already, or are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = ("community.docker", "community.general", "containers.podman", "kubernetes.core", "community.okd")
_HELPERS = ("community.library_inventory_filtering_v1",)
_PARTS = (
    "meta/",
    "plugins/become/",
    "plugins/connection/",
    "plugins/doc_fragments/",
    "plugins/module_utils/",
    "plugins/plugin_utils/",
)
_DEBIAN = Path("/usr/lib/python3/dist-packages/ansible_collections")


def installed() -> Path | None:
    """Return a directory for ANSIBLE_COLLECTIONS_PATH that holds all of them, or None."""
    chosen = os.environ.get("FATLINE_TEST_COLLECTIONS")
    spec = None if chosen else importlib.util.find_spec("ansible_collections")
    roots = (
        [Path(chosen) / "ansible_collections"]
        if chosen
        else [Path(p) for p in getattr(spec, "submodule_search_locations", None) or ()]
    )
    for root in (*roots, _DEBIAN):
        if all((root / name.replace(".", "/") / "plugins/connection").is_dir() for name in NEEDED[:4]):
            return root.parent
    return None


def fetch(directory: Path) -> None:
    """Download the package and unpack what is needed; SystemExit with words if it is not to be had."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--no-deps", "--only-binary=:all:", "--dest", scratch]
        got = subprocess.run([*pip, *options, "ansible"], capture_output=True, text=True, check=False)
        if got.returncode:
            raise SystemExit(f"Tests with collections will be skipped: {got.stderr.strip()[-400:]}")
        wheel = next(Path(scratch).glob("ansible-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory, [name for name in archive.namelist() if _is_needed(name)])


def _is_needed(name: str) -> bool:
    root, _, rest = name.partition("/")
    if root != "ansible_collections" or rest.count("/") < 2:
        return False
    namespace, collection, inside = rest.split("/", 2)
    if f"{namespace}.{collection}" not in NEEDED + _HELPERS:
        return False
    return "/" not in inside or inside.startswith(_PARTS)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
