# SPDX-License-Identifier: GPL-3.0-or-later
"""Fatline's loader and that of the ansible-core installed: the same objects, warnings and errors."""

from __future__ import annotations

import copy
import gc
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.parsing.utils.yaml import from_yaml
from ansible.parsing.yaml.loader import AnsibleLoader
from ansible.utils.display import Display

from fatline.ansible import yaml_loader, yaml_versions
from fatline.ansible.comparison import differences

try:
    from ansible._internal._datatag._tags import Origin, SourceWasEncrypted, TrustedAsTemplate
except ImportError:  # before 2.19
    Origin = None

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "documents.json").read_text())

# Each is loaded by the extension, not by core.
HANDLED = VECTORS["handled"] | {
    "large integers": f"[9223372036854775808, -{10**30}, 0x{16**20:x}, {10**20}:30]",
    "long float": f"[0.{'123456789' * 12}]",
    "long key": f"? {'k' * 2000}\n: v\n",
    "many keys": "\n".join(f"key{i}: value{i}" for i in range(3000)),
    "deep": "[" * 600 + "]" * 600,
    "billion laughs": "a0: &a0 lol\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
}

# Each is left to core, which builds it or complains.
LEFT = VECTORS["left"] | {
    "too deep": "[" * 2000 + "]" * 2000,
    "lone surrogate": "a: \udce4\n",
}

# What version does what.
SOMETIMES = VECTORS["sometimes"]


class Spoken:
    """What core said, instead of showing it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self) -> list[str]:
        taken, self.lines = self.lines, []
        return taken


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoken]:
    """Let warnings and deprecations come to us, each as often as it is asked for."""
    spoken = Spoken()

    def note(self: Display, msg: str, *args: Any, **kwargs: Any) -> None:
        # Where the object came from is a part of what is shown.
        origin = Origin.get_tag(kwargs.get("obj")) if Origin is not None else None
        details = {name: value for name, value in kwargs.items() if name != "obj"}
        spoken.lines.append(f"{msg} {args} {details} {origin}")

    for method in ("warning", "deprecated", "debug"):
        monkeypatch.setattr(Display, method, note)
    yield spoken


def source(text: str, trusted: bool) -> Any:
    """The text as core's DataLoader hands it on."""
    if Origin is None:
        return text
    tags = [Origin(path="/some/file.yml")]
    return TrustedAsTemplate().tag(tags[0].tag(text)) if trusted else tags[0].tag(text)


def outcome(load: Any, data: Any) -> tuple[Any, str]:
    """What a loader returns, and what it raises in words."""
    try:
        return load(data, "/some/file.yml", True, None), ""
    except Exception as error:
        cause = error.__cause__ or getattr(error, "orig_exc", None)
        position = getattr(getattr(error, "obj", None), "ansible_pos", None) or getattr(error, "obj", None)
        return None, f"{type(error).__name__}: {error} ({type(cause).__name__}) {position}"


def load_or_leave(data: Any, *arguments: Any) -> Any:
    """Load with Fatline, or with core if it stands aside, as its callers do."""
    try:
        return yaml_loader.load(data, *arguments)
    except yaml_loader.NotHandled:
        pass
    return from_yaml(data, *arguments)


def check_same(text: str, spoken: Spoken, trusted: bool) -> None:
    data = source(text, trusted)
    spoken.take()
    theirs, their_error = outcome(from_yaml, data)
    their_words = spoken.take()
    ours, our_error = outcome(load_or_leave, data)
    assert our_error == their_error
    assert spoken.take() == their_words
    assert list(differences(ours, theirs)) == []


def test_the_installed_core_fits() -> None:
    assert yaml_loader.available() == ""


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", HANDLED)
def test_handled(name: str, trusted: bool, spoken: Spoken) -> None:
    yaml_loader.load(source(HANDLED[name], trusted), "/some/file.yml")
    check_same(HANDLED[name], spoken, trusted)


@pytest.mark.parametrize("name", LEFT)
def test_left_to_core(name: str, spoken: Spoken) -> None:
    with pytest.raises(yaml_loader.NotHandled):
        yaml_loader.load(source(LEFT[name], True), "/some/file.yml")
    assert not spoken.take()
    check_same(LEFT[name], spoken, True)


@pytest.mark.parametrize("name", SOMETIMES)
def test_handled_or_not(name: str, spoken: Spoken) -> None:
    check_same(SOMETIMES[name], spoken, True)


@pytest.mark.parametrize("mode", ["warn", "error", "ignore"])
@pytest.mark.parametrize("name", [name for name in HANDLED if name.startswith("duplicate")])
def test_duplicate_keys_as_configured(
    name: str, mode: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_DUPLICATE_YAML_DICT_KEY", mode)
    if Origin is None:  # read once there
        monkeypatch.setattr(constants, "DUPLICATE_YAML_DICT_KEY", mode)
    check_same(HANDLED[name], spoken, True)
    if mode == "error":
        with pytest.raises(yaml_loader.NotHandled):
            yaml_loader.load(source(HANDLED[name], True), "/some/file.yml")
    else:
        yaml_loader.load(source(HANDLED[name], True), "/some/file.yml")


@pytest.mark.parametrize("data", ["a: [ä, 1]\n".encode(), "a: ä".encode("utf-16"), b"[1]", b"\xff"])
def test_bytes(data: bytes, spoken: Spoken) -> None:
    theirs, their_error = outcome(from_yaml, data)
    ours, our_error = outcome(load_or_leave, data)
    assert (our_error, list(differences(ours, theirs))) == (their_error, [])


def test_reasons_tell_no_secrets() -> None:
    for text in ("a: !!int secret", "a: 2001-99-99", "secret: 1\nsecret: {[secret]: 1}"):
        with pytest.raises(yaml_loader.NotHandled) as caught:
            yaml_loader.load(source(text, True))
        assert "secret" not in str(caught.value) and "99" not in str(caught.value)


def test_results_can_be_copied() -> None:
    loaded = yaml_loader.load(source(HANDLED["play"], True), "/some/file.yml")
    assert list(differences(copy.deepcopy(loaded), loaded)) == []


def test_threads_do_not_meet() -> None:
    text = source(HANDLED["many keys"], True)
    wanted = yaml_loader.load(text, "/some/file.yml")
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: yaml_loader.load(text, "/some/file.yml"), range(20)):
            assert list(differences(loaded, wanted)) == []
    assert gc.isenabled()


# ---- where the loader stands aside -------------------------------------------------------------------


def misfit() -> str:
    """What `available` says in a process that begins now."""
    found = yaml_versions.family.__wrapped__()
    return found if isinstance(found, str) else ""


@pytest.fixture
def core_loader() -> type:
    """The class that core reads with."""
    loader = yaml_versions.family()
    assert isinstance(loader, yaml_versions.Family)
    return loader.core_loader  # type: ignore[no-any-return]


def test_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_versions, "HAS_LIBYAML", False)
    assert "no libyaml" in misfit()


def test_with_another_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml._yaml, "get_version_string", lambda: "0.1.4")
    assert "0.1.4" in misfit()


def test_with_another_implicit_type(monkeypatch: pytest.MonkeyPatch, core_loader: Any) -> None:
    kept = {first: list(entries) for first, entries in core_loader.yaml_implicit_resolvers.items()}
    monkeypatch.setattr(core_loader, "yaml_implicit_resolvers", kept)
    assert misfit() == ""
    core_loader.add_implicit_resolver("!word", re.compile("^word$"), ["w"])
    assert "implicit types" in misfit()


def test_with_another_constructor(monkeypatch: pytest.MonkeyPatch, core_loader: Any) -> None:
    monkeypatch.setattr(core_loader, "yaml_constructors", dict(core_loader.yaml_constructors))
    core_loader.add_constructor("!thing", lambda loader, node: None)
    assert misfit() == ""
    core_loader.add_constructor("tag:yaml.org,2002:str", lambda loader, node: "mine")
    assert "another tag:yaml.org,2002:str" in misfit()


def test_with_another_result(monkeypatch: pytest.MonkeyPatch, core_loader: Any) -> None:
    """A core that comes to build something else is noticed by the probe."""
    genuine = core_loader.construct_mapping
    monkeypatch.setattr(
        core_loader, "construct_mapping", lambda *args, **kwargs: {**genuine(*args, **kwargs), "new": 1}
    )
    assert "something else" in misfit()


tagged = pytest.mark.skipif(Origin is None, reason="tags came with ansible-core 2.19")


@tagged
def test_origin_without_a_file() -> None:
    for data in ("[x]", Origin(description="<unknown>", line_num=5, col_num=7).tag("a: [x]")):
        assert list(differences(yaml_loader.load(data), from_yaml(data))) == []


@tagged
def test_origin_within_a_file(spoken: Spoken) -> None:
    """Lines are counted from where the text stands in its file, in the words about duplicates too."""
    data = Origin(path="/some/file.yml", line_num=5, col_num=7).tag(
        "a:\n  b: x\n  b: 2000-01-01\n  c: [1000]\n"
    )
    theirs = from_yaml(data)
    words = spoken.take()
    assert list(differences(yaml_loader.load(data), theirs)) == []
    assert words and spoken.take() == words


@tagged
def test_encrypted_sources() -> None:
    """Where core notes their secrets (2.22), it loads them."""
    data = SourceWasEncrypted().tag(source("a: [x, 1000]", True))
    try:
        loaded = yaml_loader.load(data)
    except yaml_loader.NotHandled as reason:
        assert "secret" in str(reason)
        assert hasattr(AnsibleLoader(data), "_sensitive_source_data")
    else:
        assert list(differences(loaded, from_yaml(data))) == []
        assert not hasattr(AnsibleLoader(data), "_sensitive_source_data")


@pytest.mark.skipif(Origin is not None, reason="from 2.19 on secrets have nothing to do with loading")
def test_vaults_share_the_secrets() -> None:
    secrets = [("default", object())]
    loaded = yaml_loader.load(HANDLED["vault"], "/some/file.yml", True, secrets)
    assert loaded["a"].vault is loaded["b"].vault
    assert loaded["a"].vault.secrets is secrets
