# SPDX-License-Identifier: GPL-3.0-or-later
"""Every document gives the same with Fatline's loader as with ansible-core's own.

The same object, that is, with the same tags or positions and shared parts, and the same warnings; or the
same error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible import constants as C
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from documents import ERRORS, all_documents
from grammar import texts
from hypothesis import HealthCheck, given, settings

from fatline.ansible import dataloader_versions, inventory_check, yaml_hook

SECRETS = [("default", VaultSecret(b"secret"))]
DOCUMENTS = all_documents()

# What no document that core loads is left to core for.
ORDINARY = ("ansible_shapes", "block_", "documents", "flow_", "plain", "quoted")


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fatline's loader in place, for this test only."""
    monkeypatch.delenv("FATLINE_DISABLE", raising=False)
    monkeypatch.delenv("FATLINE_YAML", raising=False)
    original = dataloader_versions.current_from_yaml()
    assert yaml_hook.install() == ""
    yield
    dataloader_versions.replace_from_yaml(original)


def assert_same(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert [str(found) for found in inventory_check.check_document(str(path), SECRETS)] == []


def test_there_are_enough_documents() -> None:
    assert len(DOCUMENTS) >= 300


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_the_same_as_core_s(name: str, tmp_path: Path) -> None:
    assert_same(DOCUMENTS[name], tmp_path / "document.yml")


@pytest.mark.parametrize("mode", ["ignore", "error"])
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if "duplicate" in name or "merge" in name])
def test_duplicate_keys_as_configured(
    name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = C.config.get_config_value

    def get_config_value(setting: str, *args: Any, **kwargs: Any) -> Any:
        return mode if setting == "DUPLICATE_YAML_DICT_KEY" else original(setting, *args, **kwargs)

    monkeypatch.setattr(C, "DUPLICATE_YAML_DICT_KEY", mode, raising=False)
    monkeypatch.setattr(C.config, "get_config_value", get_config_value)
    assert_same(DOCUMENTS[name], tmp_path / "document.yml")


def test_most_documents_are_not_left_to_core(tmp_path: Path) -> None:
    """A loader that leaves everything to core would be equal to core as well."""
    path = tmp_path / "document.yml"
    left, valid = [], 0
    for name, content in DOCUMENTS.items():
        path.write_bytes(content)
        yaml_hook.left_to_core.clear()
        try:
            dataloader_versions.load_trusted(DataLoader(), str(path))
        except Exception:
            continue
        valid += 1
        if yaml_hook.left_to_core:
            left.append(name)
    assert [name for name in left if name.startswith(ORDINARY)] == []
    assert len(left) < valid * 0.1


def test_documents_that_are_wrong_on_purpose_are(tmp_path: Path) -> None:
    wrong = 0
    path = tmp_path / "document.yml"
    documents = {name: content for name, content in DOCUMENTS.items() if name.startswith(ERRORS)}
    for content in documents.values():
        path.write_bytes(content)
        try:
            dataloader_versions.load_trusted(DataLoader(), str(path))
        except Exception:
            wrong += 1
    assert wrong > len(documents) * 0.7


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts())
def test_generated_documents(text: str, tmp_path: Path) -> None:
    assert_same(text.encode("utf-8", "surrogatepass"), tmp_path / "document.yml")
