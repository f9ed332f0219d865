# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads are, to the byte, what core builds when it reads its cache of zips itself."""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible import constants as C
from ansible.executor import module_common
from ansible.parsing.dataloader import DataLoader
from ansible.plugins import loader
from ansible.template import Templar
from ansible.utils.collection_loader import AnsibleCollectionConfig

from fatline.ansible import archives

if not hasattr(module_common, "_CachedModule"):
    pytest.skip("ansible-core before 2.19", allow_module_level=True)

CACHED = module_common._CachedModule


class Clock(datetime.datetime):
    """A time that stands still, so that payloads can be compared."""

    @classmethod
    def now(cls, tz: Any = None) -> Clock:
        return cls(2026, 1, 2, 3, 4, 5, 6, tzinfo=tz)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[list[str]]:
    """The files that core itself reads, in a cache of this test's own."""
    if AnsibleCollectionConfig.collection_finder is None:
        loader.init_plugin_loader()
    read: list[str] = []
    genuine = CACHED.load
    genuine = getattr(genuine, "__wrapped__", genuine)

    def load(path: str) -> Any:
        read.append(path)
        return genuine(path)

    monkeypatch.setattr(CACHED, "load", staticmethod(load))
    monkeypatch.setattr(C, "DEFAULT_LOCAL_TMP", str(tmp_path))
    monkeypatch.setattr(datetime, "datetime", Clock)
    yield read


def payload(module: str, **arguments: Any) -> Any:
    path = loader.module_loader.find_plugin(f"ansible.builtin.{module}")
    variables = {"ansible_python_interpreter": "/usr/bin/python3"}
    templar = Templar(loader=DataLoader(), variables=variables)
    built = module_common.modify_module(
        module_name=module, module_path=path, module_args=arguments, templar=templar, task_vars=variables
    )
    return built.b_module_data, built.module_style, built.shebang


@pytest.mark.parametrize("module", ["command", "copy", "setup"])
def test_payloads_are_the_same(loads: list[str], module: str) -> None:
    arguments = [{"_raw_params": "echo 'a' \"b\""}, {"other": ["ä", 1, None]}]
    payload(module)
    expected = [payload(module, **given) for given in arguments]
    assert len(loads) == 2
    archives.install()
    assert [payload(module, **given) for given in arguments] == expected
    assert [payload(module, **given) for given in arguments] == expected
    assert len(loads) == 3, "core's cache is read once"


def test_a_cache_written_anew_is_read_anew(loads: list[str], tmp_path: pathlib.Path) -> None:
    archives.install()
    payload("ping")
    first = payload("ping")
    (cached,) = (path for path in tmp_path.rglob("*ping*") if not path.name.endswith(".lock"))
    module = CACHED.load.__wrapped__(str(cached))
    other = payload("command") and payload("command")
    source = next(path for path in tmp_path.rglob("*command*") if not path.name.endswith(".lock"))
    CACHED.load.__wrapped__(str(source)).dump(str(cached))
    assert payload("ping") != first
    module.dump(str(cached))
    assert payload("ping") == first
    assert payload("command") == other


def test_what_core_may_change_is_its_own(loads: list[str], tmp_path: pathlib.Path) -> None:
    archives.install()
    payload("ping")
    (cached,) = (path for path in tmp_path.rglob("*ping*") if not path.name.endswith(".lock"))
    CACHED.load(str(cached)).source_mapping["added"] = "here"
    assert "added" not in CACHED.load(str(cached)).source_mapping


def test_no_more_zips_are_kept_than_allowed(loads: list[str], tmp_path: pathlib.Path) -> None:
    archives.install()
    payload("ping")
    (cached,) = (path for path in tmp_path.rglob("*ping*") if not path.name.endswith(".lock"))
    copies = [tmp_path / f"copy{number}" for number in range(archives.KEPT + 1)]
    for copy in copies:
        copy.write_bytes(cached.read_bytes())
    for copy in copies:
        CACHED.load(str(copy))
    loads.clear()
    CACHED.load(str(copies[-1]))
    CACHED.load(str(copies[0]))
    assert loads == [str(copies[0])]


def test_text_is_quoted_as_repr_does() -> None:
    data = b"QUJD+/w="
    assert repr(archives.Base64(data)) == repr(data.decode())
    assert archives.Base64(data) == data.decode()
    assert json.dumps(archives.Base64(data)) == json.dumps(data.decode())
    for wrong in (b"a'b", b"a\\b", b"a\nb", b"\xff", b"a b"):
        with pytest.raises(ValueError, match="not base64"):
            archives.Base64(wrong)
