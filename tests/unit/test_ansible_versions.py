# SPDX-License-Identifier: GPL-3.0-or-later
"""What Fatline rests on in the installed ansible-core."""

from __future__ import annotations

import ast
import importlib.util
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible
import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible.playbook.play_context import PlayContext
from ansible.plugins import loader
from ansible.plugins.connection import local as stock_local
from ansible.plugins.connection import ssh as stock_ssh
from ansible.plugins.loader import become_loader, connection_loader

from fatline.ansible import activate, local, transports, versions
from fatline.ansible.connection import AgentConnection
from fatline.ansible.ssh import Connection
from fatline.cli import diagnosis

COLLECTION = Path(__file__).parents[2] / "ansible_plugins"


@pytest.fixture(scope="module", autouse=True)
def collections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let core find collections, its own included; before 2.15 importing the loader was enough."""
    begin = getattr(loader, "init_plugin_loader", None)
    if begin is not None:
        begin()
    with pytest.MonkeyPatch.context() as patch:
        # Fatline's activation starts a mux.
        patch.setenv("FATLINE_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        yield


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An ssh connection as core's loader makes it, with Fatline active."""
    monkeypatch.delenv("FATLINE_DISABLE", raising=False)
    assert activate.activate()
    made = connection_loader.get("ssh", PlayContext(), os.devnull)
    made.set_options(var_options={})
    made.host = "192.0.2.1"
    return made


def test_this_ansible_core_fits() -> None:
    assert versions.misfit() == ""


@pytest.mark.parametrize(
    ("become_user", "directory"),
    [(None, "~/.ansible/tmp"), ("root", "~/.ansible/tmp"), ("login", "~/.ansible/tmp"), ("other", "")],
)
def test_core_makes_a_directory_for_all_but_unprivileged_accounts(
    connection: Any, become_user: str | None, directory: str
) -> None:
    connection.set_options(var_options={"ansible_user": "login"})
    connection._shell.set_options(var_options={})
    if become_user:
        plugin = become_loader.get("sudo")
        plugin.set_options(var_options={"ansible_become_user": become_user})
        connection.set_become_plugin(plugin)
    assert versions.directory_made_by_core(connection) == directory
    # Made by root it would be root's, and the login user could not use it.
    connection._shell.set_options(var_options={"ansible_remote_tmp": "/home/login/x"})
    assert versions.directory_made_by_core(connection) == ("" if become_user else "/home/login/x")


def test_an_ansible_core_that_does_not_fit_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(self: object, cmd: object, more: object) -> None:
        """Take other arguments than any release does."""

    monkeypatch.setattr(stock_ssh.Connection, "_bare_run", other)
    assert "_bare_run" in versions.misfit()


def test_core_s_loader_gives_fatline_s_class_under_core_s_name(connection: Any) -> None:
    """Ansible facts 20 and 21: the object keeps name, transport and aliases of ssh."""
    assert isinstance(connection, Connection)
    assert connection.transport == "ssh"
    assert connection._load_name == "ssh"
    assert connection.ansible_name == "ansible.builtin.ssh"
    assert connection.matches_name(["ssh"])
    assert connection.plugin_type == "connection"


@pytest.mark.parametrize("prefix", ["", "ansible.builtin.", "ansible.legacy."])
@pytest.mark.parametrize(("name", "ours"), [("ssh", Connection), ("local", local.Connection)])
def test_every_name_is_mapped(connection: Any, prefix: str, name: str, ours: type) -> None:
    found = connection_loader.get(prefix + name, PlayContext(), os.devnull)
    assert isinstance(found, ours)
    assert found.transport == name
    assert connection_loader.get(prefix + name, class_only=True) is ours


def test_the_doctor_knows_the_same_connections() -> None:
    for name in transports.names():
        assert diagnosis._is_served(name)
        assert diagnosis._is_served(name.rpartition(".")[2])
    assert not any(diagnosis._is_served(name) for name in ("winrm", "ansible.netcommon.network_cli"))
    assert len(transports.names()) == len(diagnosis.SERVED_PROGRAMS) + 2


@pytest.mark.parametrize("name", ["winrm", "psrp", "paramiko_ssh"])
def test_other_connections_are_not_touched(connection: Any, name: str) -> None:
    found = connection_loader.get(name, class_only=True)
    assert found is None or not issubclass(found, AgentConnection)


def test_activation_happens_once(connection: Any) -> None:
    loader = connection_loader.get_with_context
    assert activate.activate()
    assert connection_loader.get_with_context is loader


def test_pipelining_is_reported_where_it_was_left_open(connection: Any) -> None:
    assert connection.get_option("pipelining") is True


@pytest.mark.parametrize("name", ["ansible_pipelining", "ansible_ssh_pipelining"])
def test_an_explicit_false_is_honoured(connection: Any, name: str) -> None:
    """Ansible fact 12."""
    connection.set_options(var_options={name: False})
    assert connection.get_option("pipelining") is False


def test_pipelining_is_the_user_s_own_choice_under_become(connection: Any) -> None:
    """Ansible fact 12: requiretty refuses a pipelined sudo."""
    connection.set_become_plugin(become_loader.get("sudo"))
    assert connection.get_option("pipelining") is False


def test_core_before_2_19_asks_for_the_option_on_behalf_of_a_module() -> None:
    """Anybody else who reads it, as core does for `ansible_pipelining`, boots no privileged agent."""

    def _is_pipelining_enabled(module_style: str, wrap_async: bool = False) -> bool:
        return get_option()

    def get_option() -> bool:
        return versions.asks_for_pipelining()

    assert _is_pipelining_enabled("new")
    assert not _is_pipelining_enabled("new", wrap_async=True)
    assert not get_option()


def test_a_forced_terminal_has_no_pipelining(connection: Any) -> None:
    connection.set_options(var_options={"ansible_ssh_extra_args": "-o RequestTTY=force"})
    assert connection.get_option("pipelining") is False


def test_every_ssh_program_rides_fatline_s_control_path(
    connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ansible fact 17; ``ssh -O`` of a reset included."""
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(tmp_path / "run"))
    paths = set()
    for binary, subsystem, arguments in (
        ("ssh", "ssh", ("host", "true")),
        ("ssh", "ssh", ("-O", "check", "host")),
        ("sftp", "sftp", ("[host]",)),
        ("scp", "scp", ("a", "host:b")),
    ):
        argv = connection._build_command(binary, subsystem, *arguments)
        paths |= {argument for argument in argv if b"ControlPath" in argument}
    (path,) = paths
    assert path.startswith(f'ControlPath="{tmp_path}/run/cp-'.encode())


def test_a_chosen_control_path_is_left_alone(connection: Any) -> None:
    connection.set_options(var_options={"ansible_control_path": "/home/u/%%h"})
    argv = connection._build_command("ssh", "ssh", "host", "true")
    assert b'ControlPath="/home/u/%h"' in argv


def test_a_lost_run_is_unreachable_and_passes_core_s_retry_loop_once(connection: Any) -> None:
    """Rule 13: core retries every failure but those of authentication."""
    assert issubclass(versions.RunLost, AnsibleConnectionFailure)
    connection.set_option("reconnection_retries", 3)
    calls = []

    @stock_ssh._ssh_retry  # type: ignore[untyped-decorator]
    def run(self: Any, cmd: list[bytes]) -> None:
        calls.append(cmd)
        versions.run_lost(self, b"the wire closed", has_input=True)

    with pytest.raises(versions.RunLost, match="the wire closed"):
        run(connection, [b"ssh"])
    assert len(calls) == 1


@pytest.mark.parametrize(("has_input", "end"), [(True, "boo\n"), (False, "boo")])
def test_a_lost_run_keeps_the_end_of_line_where_core_keeps_it(
    connection: Any, has_input: bool, end: str
) -> None:
    with pytest.raises(versions.RunLost) as caught:
        versions.run_lost(connection, b"boo\n", has_input=has_input)
    assert caught.value.args[0].endswith(end)


def test_what_a_lost_run_said_is_censored_under_no_log(connection: Any) -> None:
    """Rule 8."""
    connection._play_context.no_log = True
    with pytest.raises(versions.RunLost) as caught:
        versions.run_lost(connection, b"open-sesame", has_input=True)
    assert "open-sesame" not in str(caught.value)


@pytest.mark.parametrize("rc", [1, 2, 4, 5])
def test_sshpass_s_status_reaches_core_s_loop(connection: Any, rc: int) -> None:
    """Ansible fact 14: 2.22's own `_bare_run` puts sshpass in front of the list that the loop reads."""
    command = [b"ssh", b"host"]
    versions.ssh_failed(connection, command, rc, b"", has_input=False)
    assert (command[0] == b"sshpass") == hasattr(connection, "_sshpass_cmd")


@pytest.mark.parametrize(
    ("name", "shipped"),
    [
        ("ansible/module_utils/basic.py", True),
        ("ansible/module_utils/common/text/converters.py", True),
        ("ansible/module_utils/facts/__init__.py", True),
        ("ansible/module_utils/of_a_user.py", False),
        ("ansible/module_utils/../release.py", False),
        ("ansible/modules/ping.py", False),
        ("ansible_collections/a/b/plugins/module_utils/c.py", False),
    ],
)
def test_what_ansible_core_ships(name: str, shipped: bool) -> None:
    """Only these may be imported by an agent's warm parent."""
    crc = zlib.crc32((Path(ansible.__file__).parent.parent / name).read_bytes()) if shipped else 0
    assert versions.ships(name, crc) is shipped
    assert not versions.ships(name, crc + 1)


@pytest.mark.parametrize(
    ("loop", "certain"),
    [
        ("{{ packages }}", True),
        ("{{packages}}", True),
        ("{{ none_yet }}", False),
        ("{{ unknown }}", False),
        ("{{ packages }} ", False),
        ("{{ packages | default([]) }}", False),
        ("{{ packages + none_yet }}", False),
        ("{{ range(3) }}", True),
        ("{{ range(1, 4) | list }}", True),
        ("{{ range(4, 1) | list }}", False),
        ("{{ range(count) | list }}", False),
        ("{{ range(3) | shuffle }}", False),
        ("{{ range('3') }}", False),
        ("{{ range(1, 2, 0) }}", False),
        ("{{ ['a', packages] }}", True),
        ("{{ [] }}", False),
        ("{{ lookup('pipe', 'false') }}", False),
        ("{{ query('pipe', 'false') | list }}", False),
        ("{{ packages", False),
        ("{% if true %}x{% endif %}", False),
        ("", False),
    ],
)
def test_loops_that_are_certain_to_have_items(loop: str, certain: bool) -> None:
    """Ansible fact 33: found without templating, which could run a lookup."""
    assert versions._names_items(loop, {"packages": ["{{ a }}"], "none_yet": [], "count": 3}) is certain


def test_a_range_of_the_user_s_own_is_not_a_range() -> None:
    assert not versions._names_items("{{ range(3) }}", {"range": "of hills"})


@pytest.mark.parametrize("stock", [stock_ssh, stock_local], ids=["ssh", "local"])
def test_the_fragment_has_every_option_of_core_s_plugin(stock: Any) -> None:
    """Ansible fact 23."""
    path = COLLECTION / "plugins" / "doc_fragments" / Path(stock.__file__).name
    spec = importlib.util.spec_from_file_location("fragment", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fragment = yaml.safe_load(module.ModuleDocFragment.DOCUMENTATION)["options"]
    assert fragment == (yaml.safe_load(stock.DOCUMENTATION).get("options") or {})


@pytest.mark.parametrize("path", sorted(COLLECTION.glob("plugins/*/*.py")), ids=lambda path: path.parent.name)
def test_documentation_is_literal(path: Path) -> None:
    """Ansible fact 23: ansible-doc reads it without importing the file."""
    if path.parent.name == "doc_fragments":
        return
    assignments = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    first = next(node for node in assignments if getattr(node.targets[0], "id", "") == "DOCUMENTATION")
    assert isinstance(first.value, ast.Constant)


def test_the_collection_is_of_the_package_s_version() -> None:
    """Ansible fact 34."""
    galaxy = yaml.safe_load((COLLECTION / "galaxy.yml").read_text())
    assert galaxy["version"] == (COLLECTION.parent / "VERSION").read_text().strip()


def test_a_collection_of_another_version_is_not_active(tmp_path: Path) -> None:
    plugin = tmp_path / "plugins" / "strategy" / "linear.py"
    (tmp_path / "galaxy.yml").write_text("version: 99.0.0\n")
    assert "99.0.0" in activate._collection_mismatch(str(plugin))
    assert activate._collection_mismatch(str(COLLECTION / "plugins" / "strategy" / "linear.py")) == ""
