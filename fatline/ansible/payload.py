# SPDX-License-Identifier: BSD-3-Clause
"""Take an AnsiballZ payload apart, or say that it is not one we know.

A payload is a Python program that ansible-core makes for every task: a wrapper, the module and its
``module_utils`` as a base64 zip, and the task's parameters. Three families of wrappers exist (ansible
fact 3): 2.14 to 2.18, 2.19 to 2.21 and 2.22. The agent does what the wrapper would do, so everything
outside the values must be a wrapper that was read by us, to the byte; a payload that differs in the
slightest is not parsed and runs cold, as it is. Nothing of ansible-core is imported here.

The zip is taken apart by `fatline.ansible.zips`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fatline.ansible import zips
from fatline.ansible.zips import Date, Warmable


class Wrapper(NamedTuple):
    """A wrapper text that we have read, and what it does that the others do not."""

    family: int
    site: str
    """Template of the sitecustomize.py that the wrapper adds to the zip; %s is the zip's path."""


_SITE_FIRST = 'import sys\nsys.path.insert(0,"%s")\n'
# 2.19 and 2.20 write the two characters backslash and n; kept, since a run must leave what stock leaves.
_SITE_ESCAPED = 'import sys\\nsys.path.insert(0,"%s")\\n'
_SITE_SPACED = 'import sys\nsys.path.insert(0, "%s")\n'

WRAPPERS: dict[str, Wrapper] = {
    # 2.14, 2.15
    "09d5d07228bb93bb5416635b579c6fb1157fcac817aa1c831bb5ceea484c11e2": Wrapper(214, _SITE_FIRST),
    # 2.16 to 2.18
    "d7c021798979b95340f336ea119053ed54a04b2eba39a020038f9f53318005e9": Wrapper(214, _SITE_FIRST),
    # 2.19, 2.20
    "bb68744cdf74ebc4fa323979510a57cba7004e5a31fae88d99838f5e6051eddb": Wrapper(219, _SITE_ESCAPED),
    # 2.21
    "c61f2b150e925f5205925cda916677ec6da29e895b1991dc565ceebbff3c00ec": Wrapper(219, _SITE_SPACED),
    # 2.22
    "1359526ad7699748828dc60e9acb06a712abcfddc91719951df9e0295370d317": Wrapper(222, _SITE_SPACED),
}
"""SHA-256 of a payload without its values -> the wrapper. tests/unit/test_payload.py says how to add one."""


class Payload(NamedTuple):
    """One module run as the agent wants it."""

    family: int
    module: str
    fqn: str
    profile: str
    params: bytes
    """The task's parameters: JSON. Never a blob, never in a log."""
    date: Date
    site_date: Date
    site: str
    rlimit_nofile: int
    secrets: tuple[str, ...]
    manifest: bytes
    """Name of the manifest's blob."""
    lines: tuple[int, ...]
    """Where the wrapper's steps stand in its text, for tracebacks: those of STEPS."""
    blobs: Mapping[bytes, bytes]
    """Every blob that the run needs, the manifest too. Payloads of one zip share it: not to be changed."""

    def exec_body(
        self, interpreter: str, env: Mapping[bytes, bytes], *, chained: bool = False
    ) -> dict[str, Any]:
        """Return the EXEC body of docs/protocol.md; the parameters travel as the run's stdin."""
        body: dict[str, Any] = {
            "mode": "module",
            "interpreter": interpreter,
            "env": env,
            "family": self.family,
            "module": self.module,
            "fqn": self.fqn,
            "profile": self.profile,
            "manifest": self.manifest,
            "date": self.date,
            "site": self.site,
            "site_date": self.site_date,
            "rlimit_nofile": self.rlimit_nofile,
            "lines": self.lines,
            "chained": chained,
        }
        if self.family >= 222:
            body["secrets"] = self.secrets
        return body


class Command(NamedTuple):
    """A remote command that runs an interpreter on its stdin, taken apart."""

    interpreter: str
    env: Mapping[bytes, bytes]
    """Shared by all who ask for the same command: not to be changed."""
    suffix: str
    """What stands behind the interpreter: nothing, or the ``&& sleep 0`` of pipelining before 2.22."""


@dataclass(frozen=True)
class _Values:
    """What the wrapper of a payload holds."""

    wrapper: Wrapper
    module: str
    fqn: str
    profile: str
    params: str
    site_date: Date
    rlimit_nofile: int
    secrets: tuple[str, ...]
    zip_text: bytes
    lines: tuple[int, ...]

    def __post_init__(self) -> None:
        # The module's name becomes part of a file name on the target, the other one is imported.
        _require(_MODULE.fullmatch(self.module) is not None and _FQN.fullmatch(self.fqn) is not None)


class _Unknown(Exception):
    """The payload is none that we know."""


def parse(in_data: bytes, warmable: Warmable, shared: Path | None = None) -> Payload | None:
    """Take a payload apart; None if it is not exactly what a known wrapper would be.

    warmable(name, crc32) says of a file in the zip whether ansible-core itself ships it, as it is, under
    ``module_utils``: only such files may be imported by the agent's warm parent. `shared` is a directory of
    this run alone, in which its processes tell each other what they have seen of a zip.
    """
    try:
        values = _parse_new(in_data) if _CALL in in_data else _parse_old(in_data)
        return _payload(values, zips.read(values.zip_text, warmable, shared))
    except (_Unknown, zips.Unreadable, ValueError, SyntaxError, UnicodeError, RecursionError):
        return None


# ---- the wrapper --------------------------------------------------------------------------------------

# Where the values stand: (text before, text after). A value is what lies between; everything else must be
# the wrapper, so a wrong find changes the digest and is noticed. Values hold no newline: repr() escapes it.
_OLD_PLACES: Sequence[tuple[bytes, bytes]] = (
    (b"", b"\n"),
    (b"            os.chdir('/')\n", b"\n    import sys\n    import __main__\n"),
    (b"\n    ZIPDATA = ", b"\n"),
    (b"zinfo.date_time = ", b"\n"),
    (b"basic._ANSIBLE_ARGS = json_params\n", b"\n        runpy.run_module("),
    (b"mod_name=", b", init_globals=dict(_module_fqn="),
    (b", init_globals=dict(_module_fqn=", b", _modlib_path"),
    (b"runpy.run_module(mod_name=", b", init_globals=None,"),
    (b"\n    ANSIBALLZ_PARAMS = ", b"\n"),
    (b"tempfile.mkdtemp(prefix=", b")\n"),
    (b"os.path.join(temp_path, ", b")\n"),
)

_CALL = b'\n\n\nif __name__ == "__main__":\n    _ansiballz_main(\n'
_NEW_KEYS = (
    b"ansible_module", b"module_fqn", b"profile", b"date_time", b"rlimit_nofile", b"params", b"extensions",
    b"secrets", b"zip_data",
)  # fmt: skip

STEPS = (
    b"    _ansiballz_main(",
    b"tempfile.mkdtemp(prefix=",
    b"modlib.write(",
    b"            invoke_module(",
    b"        from ansible.module_utils",
    b"run_module(",
)
"""The statements of a wrapper that are on the stack when something fails, as they begin."""

_RLIMIT = re.compile(
    rb"""
    import resource

    existing_soft, existing_hard = resource\.getrlimit\(resource\.RLIMIT_NOFILE\)

    # adjust soft limit subject to existing hard limit
    requested_soft = min\(existing_hard, (-?\d+)\)

    if requested_soft != existing_soft:
        try:
            resource\.setrlimit\(resource\.RLIMIT_NOFILE, \(requested_soft, existing_hard\)\)
        except ValueError:
            # some platforms \(eg macOS\) lie about their hard limit
            pass
"""
)
_OLD_DATE = re.compile(rb"\( ?(\d+), (\d+), (\d+), (\d+), (\d+), (\d+)\)")
_NEW_DATE = re.compile(
    rb"datetime\.datetime\((\d+), (\d+), (\d+), (\d+), (\d+)(?:, (\d+))?(?:, \d+)?, "
    rb"tzinfo=datetime\.timezone\.utc\)"
)
_SIMPLE_STRING = re.compile(rb"'([\x20-\x26\x28-\x5b\x5d-\x7e]*)'")
_OLD_PREFIX = re.compile(rb"'ansible_([\w.]+)_payload_'|'ansible_' \+ '([\w.]+)' \+ '_payload_'")
_OLD_FILE = re.compile(rb"'ansible_([\w.]+)_payload\.zip'|'ansible_' \+ '([\w.]+)' \+ '_payload\.zip'")
_MODULE = re.compile(r"[\w.]+")
_FQN = re.compile(r"\w+(\.\w+)*")


def _cut(data: bytes, places: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, list[bytes]]:
    """Split data into its values and the digest of everything else."""
    rest, values, at = [], [], 0
    for before, after in places:
        start = data.index(before, at) + len(before)
        end = data.index(after, start)
        rest.append(data[at:start])
        values.append(data[start:end])
        at = end
    rest.append(data[at:])
    return _digest(tuple(rest)), values


@functools.lru_cache(16)
def _digest(rest: tuple[bytes, ...]) -> bytes:
    """Return the digest of a wrapper without its values: of the same one in every item of a loop."""
    return hashlib.sha256(b"\0".join(rest)).digest()


_lines_cache: dict[tuple[bytes, int], tuple[int, ...]] = {}


def _lines(in_data: bytes, digest: bytes, shift: int) -> tuple[int, ...]:
    """Return the line of each of STEPS; shift is what a value adds to the lines of this wrapper."""
    key = digest, shift
    if key not in _lines_cache:
        begin = in_data.index(b"import shutil\n")
        _lines_cache[key] = tuple(in_data.count(b"\n", 0, in_data.index(step, begin)) + 1 for step in STEPS)
    return _lines_cache[key]


def _wrapper(digest: bytes) -> Wrapper:
    try:
        return WRAPPERS[digest.hex()]
    except KeyError:
        raise _Unknown("a wrapper that we have not read") from None


def _parse_old(in_data: bytes) -> _Values:
    """2.14 to 2.18: the values stand where they are used."""
    digest, values = _cut(in_data, _OLD_PLACES)
    wrapper = _wrapper(digest)
    shebang, rlimit, zipped, date, coverage, fqn, fqn_again, fqn_debug, params, prefix, file = values
    _require(shebang.startswith(b"#!") and not coverage and fqn == fqn_again == fqn_debug)
    module = _match(_OLD_PREFIX, prefix)
    _require(module == _match(_OLD_FILE, file))
    limit = int(_match(_RLIMIT, rlimit)) if rlimit else 0
    zip_text = zipped[3:-3] if zipped.startswith(b'"""') else zipped[1:-1]
    return _Values(
        wrapper,
        module.decode(),
        _string(fqn),
        "",
        _string(params),
        _date(_OLD_DATE, date),
        limit,
        (),
        zip_text,
        _lines(in_data, digest, rlimit.count(b"\n")),
    )


def _parse_new(in_data: bytes) -> _Values:
    """From 2.19 on: the values are the arguments of one call at the end."""
    keys = _new_keys(in_data)
    digest, values = _cut(in_data, new_places(in_data))
    wrapper = _wrapper(digest)
    _require(values[0].startswith(b"#!"))
    value = dict(zip(keys, values[1:], strict=True))
    _require(value[b"extensions"] == b"{}")
    return _Values(
        wrapper, _string(value[b"ansible_module"]), _string(value[b"module_fqn"]), _string(value[b"profile"]),
        _string(value[b"params"]), _date(_NEW_DATE, value[b"date_time"]), int(value[b"rlimit_nofile"]),
        _secrets(value.get(b"secrets", b"frozenset()")), value[b"zip_data"][1:-1],
        _lines(in_data, digest, 0),
    )  # fmt: skip


def _new_keys(in_data: bytes) -> list[bytes]:
    return [key for key in _NEW_KEYS if key != b"secrets" or b"\nsecrets=frozenset(" in in_data]


def new_places(in_data: bytes) -> list[tuple[bytes, bytes]]:
    """Return where the values of a payload of 2.19 or later stand, as _cut() wants it."""
    first, *others, last = _new_keys(in_data)
    shebang, call = (b"", b"\n"), (_CALL + first + b"=", b",\n")
    # The zip is long, and a longer text behind it is found faster.
    archive = (b",\n" + last + b"=", b",\n)\n")
    return [shebang, call, *((b",\n" + key + b"=", b",\n") for key in others), archive]


def _payload(values: _Values, archive: zips.Zip) -> Payload:
    return Payload(
        values.wrapper.family, values.module, values.fqn, values.profile, values.params.encode(),
        archive.date, values.site_date, values.wrapper.site, values.rlimit_nofile, values.secrets,
        archive.manifest, values.lines, archive.blobs,
    )  # fmt: skip


def _require(condition: bool) -> None:
    if not condition:
        raise _Unknown("a value that a wrapper would not have")


def _match(pattern: re.Pattern[bytes], value: bytes) -> bytes:
    match = pattern.fullmatch(value)
    if match is None:
        raise _Unknown("a value that a wrapper would not have")
    return next(group for group in match.groups() if group is not None)


def _string(value: bytes) -> str:
    simple = _SIMPLE_STRING.fullmatch(value)
    if simple:
        return simple[1].decode("ascii")
    text = ast.literal_eval(value.decode("utf-8"))
    _require(isinstance(text, str))
    return str(text)


def _date(pattern: re.Pattern[bytes], value: bytes) -> Date:
    match = pattern.fullmatch(value)
    if match is None:
        raise _Unknown("a date that a wrapper would not have")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
    # repr() of a datetime leaves out seconds only when microseconds are 0 too, so one number is seconds.
    return year, month, day, hour, minute, second


def _secrets(value: bytes) -> tuple[str, ...]:
    inside = value.removeprefix(b"frozenset(").removesuffix(b")")
    found = ast.literal_eval(inside.decode("utf-8")) if inside else set()
    _require(isinstance(found, set) and all(isinstance(secret, str) for secret in found))
    return tuple(sorted(found))


# ---- the command --------------------------------------------------------------------------------------

_SHELL = "/bin/sh -c "
_SUFFIX = " && sleep 0"
_INTERPRETER = re.compile(r"[A-Za-z0-9_./+-]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@functools.lru_cache(64)
def parse_command(cmd: str) -> Command | None:
    """Take apart the remote command of a pipelined module (ansible fact 2); None for any other shape.

    The shapes are ``/bin/sh -c`` with an interpreter, assignments of ``environment:`` in front of it and
    ``&& sleep 0`` behind it. The command is put together again from the parts and compared, so nothing that
    a shell would treat specially goes unnoticed.
    """
    try:
        words = shlex.split(cmd)
    except ValueError:
        return None
    if len(words) != 3 or cmd != _SHELL + shlex.quote(words[2]):
        return None
    inner = words[2].removesuffix(_SUFFIX)
    suffix = words[2][len(inner) :]
    try:
        *assignments, interpreter = shlex.split(inner)
    except ValueError:
        return None
    env = {}
    for word in assignments:
        match = _ASSIGNMENT.fullmatch(word)
        if match is None:
            return None
        env[match[1]] = match[2]
    again = [f"{name}={shlex.quote(value)}" for name, value in env.items()] + [interpreter]
    if not _INTERPRETER.fullmatch(interpreter) or " ".join(again) != inner:
        return None
    return Command(interpreter, {_bytes(name): _bytes(value) for name, value in env.items()}, suffix)


_FILE_RUN = re.compile(r"/ansible-tmp-[^/]+/(AnsiballZ_|async_wrapper)")


def runs_file(cmd: str) -> bool:
    """Say whether a command runs a module that has been copied, which stock does without pipelining."""
    preparations = ("chmod ", "chown ", "setfacl ", "rm ")
    return bool(_FILE_RUN.search(cmd)) and not any(f"'{word}" in cmd for word in preparations)


def fills_file(cmd: str) -> bool:
    """Say whether a command writes its input to a file: core copies files through a pipe with it."""
    return cmd.startswith("dd of=")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
