# SPDX-License-Identifier: BSD-3-Clause
"""What the doctor concludes from which facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fatline.cli.diagnosis import CALLBACK, CONNECTIONS, FAULT, GOOD, INVENTORY, NOTE, Facts, Option, diagnose

STOCK_SSH_ARGS = Option("-C -o ControlMaster=auto -o ControlPersist=60s")
CONFIGURED = Facts(
    core="2.19.14",
    package="1.0",
    extension="1.0",
    base={
        "DEFAULT_STRATEGY": Option("fatline.core.linear", "/etc/ansible/ansible.cfg"),
        "DEFAULT_TRANSPORT": Option("ssh"),
        "CALLBACKS_ENABLED": Option([]),
    },
    ssh={"ssh_args": STOCK_SSH_ARGS},
    collections=[(Path("/site/ansible_collections/fatline/core"), "1.0")],
    descriptors=(1024, 524288),
)


def with_base(**options: Option) -> Facts:
    return replace(CONFIGURED, base={**CONFIGURED.base, **options})


def with_ssh(**options: Option) -> Facts:
    return replace(CONFIGURED, ssh={**CONFIGURED.ssh, **options})


def texts(facts: Facts, level: str) -> str:
    return "\n".join(finding.text for finding in diagnose(facts) if finding.level == level)


def test_a_configured_installation_has_nothing_to_complain_of() -> None:
    assert texts(CONFIGURED, FAULT) == texts(CONFIGURED, NOTE) == ""
    assert "active through the strategy fatline.core.linear (/etc/ansible/ansible.cfg)" in texts(
        CONFIGURED, GOOD
    )


def test_without_a_door_the_line_to_write_is_shown() -> None:
    facts = with_base(DEFAULT_STRATEGY=Option("linear"))
    assert "not active" in texts(facts, FAULT)
    assert "strategy = fatline.core.linear" in texts(facts, FAULT)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (with_base(CALLBACKS_ENABLED=Option([CALLBACK], "cfg")), "the callback fatline.core.fatline"),
        (with_base(DEFAULT_TRANSPORT=Option(CONNECTIONS[0], "cfg")), "the connection fatline.core.ssh"),
        (
            with_base(
                DEFAULT_STRATEGY=Option("linear"), INVENTORY_ENABLED=Option([INVENTORY, "auto"], "cfg")
            ),
            "the inventory plugin fatline.core.yaml (cfg): YAML files only",
        ),
    ],
)
def test_every_door_is_recognised(facts: Facts, words: str) -> None:
    assert words in texts(facts, GOOD)
    assert texts(facts, FAULT) == ""


def test_whether_the_yaml_loader_serves_is_told() -> None:
    assert "YAML files are parsed by Fatline's loader" in texts(CONFIGURED, GOOD)
    assert "other parameters" in texts(
        replace(CONFIGURED, yaml_misfit="from_yaml has other parameters"), NOTE
    )
    assert "FATLINE_YAML is 0" in texts(replace(CONFIGURED, environment={"FATLINE_YAML": "0"}), NOTE)


def test_become_turned_off_is_told_even_where_it_is_not_the_rule() -> None:
    assert "FATLINE_BECOME is 0" in texts(replace(CONFIGURED, environment={"FATLINE_BECOME": "0"}), NOTE)
    assert "FATLINE_BECOME" not in texts(CONFIGURED, NOTE)


def test_the_line_for_inventories_is_shown_where_it_is_missing_or_comes_too_late() -> None:
    assert "enable_plugins = " in texts(CONFIGURED, GOOD)
    early = with_base(INVENTORY_ENABLED=Option(["script", INVENTORY, "auto", "yaml"], "cfg"))
    assert "enable_plugins" not in texts(early, GOOD) + texts(early, NOTE)
    late = with_base(INVENTORY_ENABLED=Option(["auto", INVENTORY, "yaml"], "cfg"))
    assert "fatline.core.yaml is enabled after auto (cfg)" in texts(late, NOTE)


@pytest.mark.parametrize(("value", "disabled"), [("1", True), ("0", False), ("", False)])
def test_the_switch_that_disables_everything(value: str, disabled: bool) -> None:
    facts = replace(CONFIGURED, environment={"FATLINE_DISABLE": value})
    assert ("FATLINE_DISABLE" in texts(facts, FAULT)) is disabled


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (replace(CONFIGURED, extension="0.9"), "the extension is of version 0.9"),
        (replace(CONFIGURED, collections=[]), "cannot find the collection"),
        (
            replace(CONFIGURED, collections=[(Path("/old"), "0.9")]),
            "the collection in /old is of version 0.9",
        ),
        # Ansible fact 34: a system ansible cannot see a virtual environment.
        (replace(CONFIGURED, other_ansible="/usr/bin/ansible-playbook"), "belongs to another Python"),
    ],
)
def test_faults_of_the_installation(facts: Facts, words: str) -> None:
    assert words in texts(facts, FAULT)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (with_base(DEFAULT_TRANSPORT=Option("paramiko", "cfg")), "transport is paramiko"),
        # Ansible fact 12: only an explicit false counts, which its origin tells.
        (with_ssh(pipelining=Option(False, "env: ANSIBLE_PIPELINING")), "pipelining is turned off"),
        (with_base(ANSIBLE_PIPELINING=Option(False, "cfg")), "pipelining is turned off"),
        (with_base(DEFAULT_KEEP_REMOTE_FILES=Option(True, "env")), "remote files are kept"),
        (with_base(DEFAULT_EXECUTABLE=Option("/bin/bash", "cfg")), "modules are never accelerated below"),
        (with_base(DEFAULT_BECOME=Option(True, "cfg")), "become is on"),
        (with_ssh(ssh_executable=Option("/opt/dropbear", "cfg")), "/opt/dropbear"),
        (with_ssh(ssh_args=Option("-o RequestTTY=force", "cfg")), "RequestTTY=force"),
        (with_ssh(ssh_args=Option("-C", "cfg")), "no ControlPersist"),
        (with_ssh(ssh_common_args=Option("-oControlPath=~/.ssh/cm-%C", "cfg")), "ControlPath of your own"),
        (replace(CONFIGURED, core="2.99.0"), "2.99.0 is not among the tested"),
        (replace(CONFIGURED, descriptors=(64, 256)), "about 48 hosts"),
    ],
)
def test_what_falls_back_is_noted_and_is_no_fault(facts: Facts, words: str) -> None:
    assert words in texts(facts, NOTE)
    assert texts(facts, FAULT) == ""


def test_pipelining_left_alone_is_not_mentioned() -> None:
    facts = with_ssh(pipelining=Option(False, "default"))
    assert "pipelining" not in texts(facts, NOTE)


def test_the_first_option_wins_as_in_ssh() -> None:
    facts = with_ssh(ssh_args=Option("-o ControlPersist=5m -o 'ControlPersist no'", "cfg"))
    assert "ControlPersist=5m" in texts(facts, GOOD)


def test_a_hidden_copy_of_the_collection_is_noted() -> None:
    first, second = Path("/first"), Path("/second")
    facts = replace(CONFIGURED, collections=[(first, "1.0"), (second, "0.9")])
    assert "/second is hidden by /first" in texts(facts, NOTE)
