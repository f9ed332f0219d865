# SPDX-License-Identifier: BSD-3-Clause
"""The module server: gives an agent the source of the modules that a called function needs, and of no others.

What may be asked for is a table, filled from the functions that are called: the module of each, and what
that imports, and so on (systems fact 8). A name is looked up in the table and never made into a path, so a
hostile target cannot read a settings module that merely happens to be importable here. Modules of the
standard library are the target's own.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec
from typing import Any, NamedTuple

OWN_PACKAGE = "fatline"

SCRIPT_MODULE = "fatline_script"
"""The name under which the functions of a `__main__` script live on the target."""


class NotCallable(TypeError):
    """A function that cannot be called remotely. The message says why and what to do."""


class Module(NamedTuple):
    """One module as the agent gets it."""

    name: str
    package: bool
    path: str
    source: bytes


class ModuleServer:
    """What the agents of one router may import from this process. Thread-safe."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        """`allow` names modules that are served besides the import closure of called functions."""
        self._table: dict[str, Module] = {}
        self._scanned: set[str] = set()
        self._lock = threading.Lock()
        for name in allow:
            self._admit_closure(name)

    def admit(self, function: Callable[..., Any]) -> tuple[str, str]:
        """Serve what `function` needs; returns module and function name for the call."""
        name = check_function(function)
        module = _module_name(function.__module__)
        self._admit_closure(module)
        return module, name

    def find(self, name: str) -> Module | None:
        """The module of that name, if it may be served."""
        with self._lock:
            return self._table.get(name)

    def _admit_closure(self, name: str) -> None:
        with self._lock:
            waiting = [name]
            while waiting:
                name = waiting.pop()
                if name in self._scanned:
                    continue
                self._scanned.add(name)
                module = _load(name)
                if module is not None:
                    self._table[name] = module
                    waiting += _imports(module)


def check_function(function: Callable[..., Any]) -> str:
    """The name to call `function` by on a target. NotCallable if it cannot be found there by any name."""
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if not inspect.isroutine(function) or not isinstance(name, str) or not isinstance(module, str):
        raise NotCallable(f"{function!r} is not a function; give a function defined at the top of a module")
    if name == "<lambda>":
        raise NotCallable("a lambda has no name to call it by on the target; define it with def")
    if "<locals>" in name:
        raise NotCallable(
            f"{name} is defined inside a function, so the target cannot import it; "
            f"move it to the top of {module} and pass what it closes over as arguments"
        )
    if "." in name:
        raise NotCallable(f"{name} is a method; call a function at the top of {module} instead")
    if getattr(sys.modules.get(module), name, None) is not function:
        raise NotCallable(f"{module}.{name} is another object than this function; call it by the name it has")
    return name


def _module_name(name: str) -> str:
    """The name a module is imported by on the target: its own, except for a script's `__main__`."""
    if name != "__main__":
        return name
    spec: ModuleSpec | None = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else SCRIPT_MODULE


def _load(name: str) -> Module | None:
    """The source of a module of this process; None for what is not served."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or name == "__main__":
        return None
    if top == OWN_PACKAGE:
        return _placeholder(name)
    if name == SCRIPT_MODULE:
        return _script(sys.modules["__main__"])
    spec = _spec(name)
    if spec is None:
        return None
    package = spec.submodule_search_locations is not None
    if spec.origin is None or not spec.has_location:
        # A namespace package is only its name; anything else without a file is built in.
        return Module(name, True, "", b"") if package else None
    read = getattr(spec.loader, "get_data", None)
    if read is None or not spec.origin.endswith(".py"):
        return None
    return Module(name, package, spec.origin, read(spec.origin))


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, without importing it or the packages above it."""
    spec: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if spec is not None:
        return spec
    path = None
    parent = name.rpartition(".")[0]
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def _script(main: types.ModuleType) -> Module:
    """The running script, up to the guard that keeps its main part from running on the target."""
    path = getattr(main, "__file__", None)
    if path is None:
        raise NotCallable("functions typed at a prompt have no source to send; put them into a module")
    with open(path, "rb") as file:
        source = file.read()
    lines = source.split(b"\n")
    for statement in ast.parse(source, path).body:
        if _is_guard(statement):
            return Module(SCRIPT_MODULE, False, path, b"\n".join(lines[: statement.lineno - 1]) + b"\n")
    raise NotCallable(
        f"{path} has no line 'if __name__ == \"__main__\":' before its main part, "
        "so importing it on the target would run it there"
    )


def _is_guard(statement: ast.stmt) -> bool:
    """Whether a statement is the `if` that compares `__name__` with `'__main__'`."""
    if not isinstance(statement, ast.If) or not isinstance(statement.test, ast.Compare):
        return False
    if not all(isinstance(operator, ast.Eq) for operator in statement.test.ops):
        return False
    sides = [statement.test.left, *statement.test.comparators]
    names = [side.id for side in sides if isinstance(side, ast.Name)]
    values = [side.value for side in sides if isinstance(side, ast.Constant)]
    return names == ["__name__"] and values == ["__main__"]


def _placeholder(name: str) -> Module | None:
    """What a script that imports this package gets on the target: the names, and words when they are used."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    lines = []
    for public in getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]:
        value = getattr(module, public)
        failure = isinstance(value, type) and issubclass(value, BaseException)
        lines.append(
            f"class {public}({'Exception' if failure else 'object'}):\n"
            "    def __init__(self, *args, **kwargs):\n"
            f"        raise RuntimeError('{name}.{public} works on the controller only')\n"
            if inspect.isroutine(value) or isinstance(value, type)
            else f"{public} = None\n"
        )
    package = hasattr(module, "__path__")
    return Module(name, package, f"<placeholder for {name}>", "".join(lines).encode())


def _imports(module: Module) -> Iterator[str]:
    """Every name that the source may import as a module, with the packages above each."""
    parent = module.name.rpartition(".")[0]
    if parent:
        yield from _with_parents(parent)
    try:
        tree = ast.parse(module.source)
    except (SyntaxError, ValueError):
        # Source for another Python than this one; it can still be run where it was meant to.
        return
    home = module.name if module.package else parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, home)
            if base is not None:
                yield from _with_parents(base)
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _absolute(node: ast.ImportFrom, home: str) -> str | None:
    """The full name of the module that a `from` statement names; None if it climbs out of its package."""
    if not node.level:
        return node.module
    levels = home.split(".") if home else []
    if node.level > len(levels):
        return None
    base = levels[: len(levels) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
