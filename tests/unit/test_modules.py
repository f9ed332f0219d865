# SPDX-License-Identifier: BSD-3-Clause
"""Which modules a target may have, and which functions it can be asked to call."""

from __future__ import annotations

import functools
import importlib
import os
import platform
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fatline.modules import SCRIPT_MODULE, ModuleServer, NotCallable, check_function

FILES = {
    "shop/__init__.py": "",
    "shop/till.py": (
        "import json\nfrom . import prices\nfrom .stock.shelf import count\n"
        "def total():\n    import shop.late\n    return prices.of() * count()\n"
    ),
    "shop/prices.py": "def of():\n    return 2\ndef never():\n    from ... import outside\n",
    "shop/late.py": "",
    "shop/settings.py": "PASSWORD = 'hunter2'\n",
    "shop/stock/__init__.py": "",
    "shop/stock/shelf.py": "def count(): return 3\n",
    "unrelated.py": "",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A package of the caller's own."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop.till")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "unrelated")]:
        del sys.modules[name]


def served(server: ModuleServer, *names: str) -> list[str]:
    return [name for name in names if server.find(name) is not None]


def test_the_import_closure_of_a_called_function_is_served(shop: types.ModuleType) -> None:
    server = ModuleServer()
    assert server.admit(shop.total) == ("shop.till", "total")
    closure = ("shop", "shop.till", "shop.prices", "shop.late", "shop.stock", "shop.stock.shelf")
    assert served(server, *closure) == list(closure)
    till = server.find("shop.till")
    assert till is not None
    assert (till.package, till.source.decode()) == (False, FILES["shop/till.py"])
    package = server.find("shop")
    assert package is not None
    assert package.package


def test_nothing_else_is_served(shop: types.ModuleType) -> None:
    """Only the import closure, or settings leak (systems fact 8)."""
    server = ModuleServer()
    server.admit(shop.total)
    importlib.import_module("unrelated")
    paths = ("shop/settings", "../shop/settings", "/etc/passwd", "shop.till.", ".shop", "")
    assert served(server, "shop.settings", "unrelated", "json", "os", "__main__", "pytest", *paths) == []


def test_nothing_is_served_before_a_call(shop: types.ModuleType) -> None:
    assert served(ModuleServer(), "shop", "shop.till") == []


def test_the_allow_list_is_served(shop: types.ModuleType) -> None:
    server = ModuleServer(allow=["shop.settings"])
    assert served(server, "shop", "shop.settings", "shop.till") == ["shop", "shop.settings"]


def test_the_standard_library_is_the_targets_own() -> None:
    server = ModuleServer(allow=["json"])
    assert server.admit(platform.node) == ("platform", "node")
    assert served(server, "platform", "json", "json.decoder") == []


def test_scanning_imports_nothing(shop: types.ModuleType) -> None:
    ModuleServer().admit(shop.total)
    assert "shop.late" not in sys.modules


def test_a_module_for_another_python_is_served_as_it_is(
    tmp_path: Path, shop: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop/late.py").write_text("print 'old'\n")
    server = ModuleServer()
    server.admit(shop.total)
    late = server.find("shop.late")
    assert late is not None
    assert late.source == b"print 'old'\n"


def top() -> None:
    """A function that can be called."""


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    @functools.wraps(function)
    def wrapper() -> None:
        function()

    return wrapper


@decorated
def wrapped() -> None:
    """A function that is found under its name although it closes over another."""


class Class:
    def method(self) -> None:
        """No function of a module."""

    def __call__(self) -> None:
        """No function at all."""


def closure() -> Callable[[], None]:
    def inner() -> None:
        return None

    return inner


def stranger() -> None:
    """Replaced below, as a monkey patch would."""


original_stranger = stranger
stranger = top


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "lambda"),
        (closure(), "inside a function"),
        (Class.method, "method"),
        (Class().method, "method"),
        (Class(), "not a function"),
        (Class, "not a function"),
        (functools.partial(top), "not a function"),
        (original_stranger, "another object"),
        (None, "not a function"),
        ("os.getpid", "not a function"),
        ("".join, "not a function|method"),
    ],
)
def test_what_a_target_could_not_find_is_refused_in_words(function: Any, words: str) -> None:
    with pytest.raises(NotCallable, match=words):
        check_function(function)


@pytest.mark.parametrize(("function", "name"), [(top, "top"), (wrapped, "wrapped"), (os.getpid, "getpid")])
def test_a_function_at_the_top_of_a_module_can_be_called(function: Callable[..., Any], name: str) -> None:
    assert check_function(function) == name


SCRIPT = """\
import fatline
from fatline.errors import RemoteError
import helper

def work():
    try:
        return helper.VALUE
    except RemoteError:
        return None

if __name__ == "__main__":
    from fatline.modules import ModuleServer
    server = ModuleServer()
    print(server.admit(work))
    for name in ("fatline_script", "helper", "fatline", "fatline.errors"):
        print(name, "=" * 20)
        print(server.find(name).source.decode())
"""


def run_script(folder: Path, text: str, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "helper.py").write_text("VALUE = 7\n")
    (folder / "deploy.py").write_text(text)
    return subprocess.run(
        [sys.executable, *(command or ("deploy.py",))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_is_served_up_to_its_guard(tmp_path: Path) -> None:
    ran = run_script(tmp_path, SCRIPT)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"('{SCRIPT_MODULE}', 'work')\n")
    script = ran.stdout.split("=" * 20)[1]
    assert "def work" in script
    assert "__main__" not in script
    assert "VALUE = 7" in ran.stdout


def test_a_script_run_by_name_is_served_under_that_name(tmp_path: Path) -> None:
    text = SCRIPT.replace("fatline_script", "deploy")
    ran = run_script(tmp_path, text, "-m", "deploy")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("('deploy', 'work')\n")


def test_this_package_is_served_as_a_placeholder(tmp_path: Path) -> None:
    """A script imports the library; the target needs its names and nothing of it."""
    namespace: dict[str, Any] = {}
    server = ModuleServer(allow=["fatline.errors"])
    for name in ("fatline", "fatline.errors"):
        module = server.find(name)
        assert module is not None
        exec(compile(module.source, module.path, "exec"), namespace)
    assert issubclass(namespace["RemoteError"], Exception)
    with pytest.raises(RuntimeError, match=r"fatline\.Router works on the controller only"):
        namespace["Router"]()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SCRIPT.replace('if __name__ == "__main__":', "if True:"), "has no line"),
        (
            SCRIPT.replace('if __name__ == "__main__":', 'if __name__ != "__main__":\n    pass\nelse:'),
            "has no line",
        ),
    ],
)
def test_a_script_without_a_guard_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    ran = run_script(tmp_path, text)
    assert ran.returncode == 1
    assert words in ran.stderr.splitlines()[-1]


def test_a_function_typed_at_a_prompt_is_refused_in_words(tmp_path: Path) -> None:
    ran = run_script(
        tmp_path,
        "",
        "-c",
        "from fatline.modules import ModuleServer\ndef f(): pass\nModuleServer().admit(f)",
    )
    assert "put them into a module" in ran.stderr.splitlines()[-1]
