# SPDX-License-Identifier: GPL-3.0-or-later
"""``fatline inventory-check``, and the comparison that it and the other tests here rest on."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing import vault
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from inventories import SOURCES, VAULT_PASSWORD

from fatline.ansible import comparison, dataloader_versions, inventory_check, yaml_loader
from fatline.ansible.comparison import differences
from fatline.cli.main import main

SECRETS = [("default", VaultSecret(VAULT_PASSWORD))]


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FATLINE_DISABLE", raising=False)
    monkeypatch.delenv("FATLINE_YAML", raising=False)
    # From 2.19 on, a process sets its vault passwords once; here each call of `main` stands for a process.
    context = getattr(vault, "VaultSecretsContext", None)
    if context is not None:
        monkeypatch.setattr(context, "_current", None)


def found(ours: Any, theirs: Any) -> list[str]:
    return [str(difference) for difference in differences(ours, theirs, "d")]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        1.5,
        float("nan"),
        "x",
        b"x",
        [1, [2]],
        {"a": {"b": [1]}},
        {1, 2},
        datetime.date(2026, 1, 2),
    ],
    ids=repr,
)
def test_equal_values_do_not_differ(value: Any) -> None:
    assert found(value, value) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (1, 1.0, "d: type builtins.int, and builtins.float by core"),
        (1, True, "d: type builtins.int, and builtins.bool by core"),
        (0.0, -0.0, "d: 0.0, and -0.0 by core"),
        ([1, 2], [1], "d: 2 items, and 1 by core"),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "d['a'][1]['b']: 2, and 3 by core"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "d: keys"),
        ({"a": 1}, {"a": 1, "b": 2}, "d: keys"),
        ({1: "x"}, {True: "x"}, "d: keys"),
        ({1, 2}, {1, 3}, "d[1]: 2, and 3 by core"),
    ],
)
def test_what_differs_is_told_with_its_place(ours: Any, theirs: Any, text: str) -> None:
    assert found(ours, theirs)[0].startswith(text)


def test_shared_objects_must_be_shared_alike() -> None:
    one: list[int] = []
    assert found([one, one], [one, one]) == []
    assert "another object" in found([[], []], [one, one])[0]
    assert "another object" in found([one, one], [[], []])[0]


def test_objects_in_themselves_are_compared() -> None:
    ours: list[Any] = []
    theirs: list[Any] = []
    ours.append(ours)
    theirs.append(theirs)
    assert found(ours, theirs) == []
    assert found(ours, [theirs]) != []


def test_positions_and_tags_count(tmp_path: Path) -> None:
    path = tmp_path / "vars.yml"
    path.write_text("a: x\n")
    one = dataloader_versions.load_trusted(DataLoader(), str(path))
    path.write_text("a:  x\n")
    other = dataloader_versions.load_trusted(DataLoader(), str(path))
    assert one == other
    assert found(one, one) == []
    (difference,) = found(one, other)
    assert difference.startswith(f"d['a'] ({path}:1:5)")


def test_encrypted_values_are_compared_without_a_password(tmp_path: Path) -> None:
    path = tmp_path / "vars.yml"
    values = []
    for text in ("3031", "3031", "3032"):
        path.write_text(f"!vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  {text}\n")
        values.append(dataloader_versions.load_trusted(DataLoader(), str(path)))
    assert found(values[0], values[1]) == []
    assert found(values[0], values[2])[0].endswith("<hidden>, and <hidden> by core")


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that takes 2 for 3."""
    original = yaml_loader.load

    def load(data: Any, *args: Any, **kwargs: Any) -> Any:
        text = str(data).replace("2", "3")
        if comparison.AnsibleTagHelper is not None:
            text = comparison.AnsibleTagHelper.tag_copy(data, text)
        return original(text, *args, **kwargs)

    monkeypatch.setattr(yaml_loader, "load", load)


def test_no_difference_is_exit_code_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = SOURCES["group_vars and host_vars"].write(tmp_path)
    assert main(["inventory-check", start]) == 0
    assert capsys.readouterr().out == f"{start}: no difference; 1 documents, 2 hosts, 3 groups\n"


def test_a_directory_is_compared_file_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = SOURCES["directory"].write(tmp_path)
    assert main(["inventory-check", start]) == 0
    assert ": no difference; 4 documents" in capsys.readouterr().out


def test_a_file_with_a_fault_is_the_same_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = SOURCES["a syntax error"].write(tmp_path)
    assert main(["inventory-check", start]) == 0
    assert ": no difference; 1 documents (1 parsed by ansible-core in the end)" in capsys.readouterr().out


@pytest.mark.usefixtures("spoiled")
def test_a_difference_is_exit_code_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text("all:\n  hosts:\n    a: {x: 1, y: b2}\n")
    assert main(["inventory-check", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"['all']['hosts']['a']['y'] ({path}:3:18): 'b3', and 'b2' by core" in said
    assert "inventory['hosts']['a']['variables']['y']" in said


@pytest.mark.usefixtures("spoiled")
def test_the_number_of_lines_is_limited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text("all:\n  hosts:\n" + "".join(f"    h{number}: {{x: 2}}\n" for number in range(5)))
    assert main(["inventory-check", "--show", "3", str(path)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.usefixtures("spoiled")
def test_values_of_an_encrypted_file_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "vars.yml"
    path.write_bytes(VaultLib(SECRETS).encrypt(b"a: secret2\n"))
    shown = " ".join(str(difference) for difference in inventory_check.check_document(str(path), SECRETS))
    assert "secret2" not in shown


def test_a_file_that_is_not_there_is_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inventory-check", str(tmp_path / "missing")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_vault_password_is_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    password = tmp_path / "password"
    password.write_bytes(VAULT_PASSWORD)
    path = tmp_path / "hosts.yml"
    path.write_bytes(VaultLib(SECRETS).encrypt(b"all:\n  hosts:\n    a:\n    b:\n"))
    assert main(["inventory-check", "--vault-password-file", str(password), str(path)]) == 0
    assert "2 hosts" in capsys.readouterr().out
