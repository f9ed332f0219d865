# SPDX-License-Identifier: BSD-3-Clause
"""fatline.protocol against the one table it stands on."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import pytest

import fatline
from fatline import _native, errors, protocol


@pytest.mark.parametrize(
    "names, table",
    [
        (protocol.Handle, _native.HANDLES),
        (protocol.Kind, _native.KINDS),
        (protocol.Flag, _native.FLAGS),
        (protocol.Refusal, _native.REFUSALS),
        (protocol.Death, _native.DEATHS),
        (protocol.AttachState, _native.ATTACH_STATES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_number_of_the_table_has_its_name(
    names: type[IntEnum] | type[IntFlag], table: dict[str, int]
) -> None:
    assert {name: int(member) for name, member in names.__members__.items()} == table
    assert len(set(table.values())) == len(table), "a number is used twice"


def test_limits() -> None:
    assert protocol.PAYLOAD_MAX == 1 << 20
    assert protocol.PROTOCOL_VERSION == 1


def test_one_version_for_package_and_extension() -> None:
    assert fatline.__version__ == _native.VERSION


def test_only_what_was_not_sent_may_be_sent_again() -> None:
    """Rule 13."""
    assert errors.Dead(protocol.Death.NOT_SENT, "no room").not_sent
    assert not errors.Dead(protocol.Death.LOST, "ssh ended").not_sent
    assert not errors.Dead(protocol.Death.REJECTED, "no such context").not_sent


def test_a_boot_error_names_host_stage_and_seconds() -> None:
    """Rule 1."""
    error = errors.BootError(
        "web1", "ready", 12.34, rc=255, stdout=b"", stderr=b"no route", reason="no route"
    )
    assert str(error) == "web1: no agent after 12.3 s, at stage ready: no route"


@pytest.mark.parametrize("name", ["Error", "Timeout", "Closed", "ProtocolError"])
def test_the_extensions_exceptions_are_one_family(name: str) -> None:
    assert issubclass(getattr(_native, name), _native.Error)
