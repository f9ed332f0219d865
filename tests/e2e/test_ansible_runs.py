# SPDX-License-Identifier: BSD-3-Clause
"""Playbooks through each door, held against stock ansible-core on the same targets."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_support import DOORS, PYTHON, Lab, difference, differences, normalised

from fatline.cli.sandbox import PrivateSshd

pytestmark = pytest.mark.timeout(300)

EVERYDAY = """
- hosts: all
  gather_facts: false
  vars:
    there: "{{ scratch }}/{{ ansible_port }}"
  tasks:
    - {name: ping, ping: }
    - {name: facts, setup: {gather_subset: ['!all', '!min', 'distribution']}}
    - {name: folder, file: {path: "{{ there }}", state: directory, mode: "0750"}}
    - {name: command, command: printf '%s' out}
    - {name: shell, shell: "echo out; echo err >&2; exit 3", ignore_errors: true}
    - {name: killed, shell: "kill -9 $$", ignore_errors: true}
    - {name: missing command, command: /nonexistent/program, ignore_errors: true}
    - {name: working folder, command: pwd, args: {chdir: /usr}}
    - {name: input, command: cat, args: {stdin: "to the module"}}
    - {name: unicode, command: "printf '%s' 'å∂ßƒ ☃ 🎉'"}
    - {name: environment, shell: 'echo "$FOO"', environment: {FOO: "bar 'baz' $x"}}
    - {name: python environment, shell: 'echo "$PYTHONFOO"', environment: {PYTHONFOO: "1"}}
    - {name: file, file: {path: "{{ there }}/touched", state: touch, mode: "0600"}}
    - {name: copy, copy: {content: "hello\\n", dest: "{{ there }}/copied", mode: "0640"}}
    - {name: copy again, copy: {content: "hello\\n", dest: "{{ there }}/copied", mode: "0640"}}
    - {name: large copy, copy: {src: "{{ local }}/large", dest: "{{ there }}/large"}}
    - {name: template, template: {src: "{{ local }}/page.j2", dest: "{{ there }}/page"}}
    - {name: line, lineinfile: {path: "{{ there }}/page", line: "last line"}}
    - {name: line in check mode, lineinfile: {path: "{{ there }}/page", line: "never"}, check_mode: true}
    - {name: stat, stat: {path: "{{ there }}/page"}}
    - {name: slurp, slurp: {src: "{{ there }}/page"}}
    - {name: loop, command: "printf '%s' {{ item }}", loop: [1, 2, 3]}
    - {name: raw, raw: "echo raw; echo more >&2; tty >/dev/null && echo terminal"}
    - {name: failing raw, raw: "exit 7", ignore_errors: true}
    - {name: script, script: "{{ local }}/script.sh one"}
    - {name: fetch, fetch: {src: "{{ there }}/large", dest: "{{ local }}/fetched/", flat: false}}
    - {name: async, command: printf async, async: 30, poll: 1}
    - {name: module error, lineinfile: {path: /nonexistent/file, line: x}, ignore_errors: true}
    - {name: bad argument, stat: {nothing: here}, ignore_errors: true}
    - {name: kind of connection, debug: {msg: "{{ ansible_connection | default('ssh') }}"}}
    - {name: delegated, command: printf here, delegate_to: "{{ groups.all | last }}"}
    - {name: condition, command: "false", when: inventory_hostname == 'nobody'}
    - {name: the rest, shell: "cd '{{ there }}' && ls -1"}
"""


@pytest.fixture
def lab(tmp_path: Path, sshd: PrivateSshd, make_sshd: Any, runtime_dir: Path) -> Iterator[Lab]:
    """Two private servers, files to copy, and nothing of the user's configuration."""
    (tmp_path / "large").write_bytes(os.urandom(700_000))
    (tmp_path / "page.j2").write_text("port {{ ansible_port }}\n")
    (tmp_path / "script.sh").write_text('#!/bin/sh\necho "script $1"\n')
    scratch = tmp_path / "there"
    scratch.mkdir()
    lab = Lab(tmp_path, {"one": sshd, "two": make_sshd()}, scratch=scratch, local=tmp_path)
    yield lab
    lab.close_masters(runtime_dir)


@pytest.mark.parametrize("door", ["callback", "connection"])
def test_every_result_is_the_one_that_stock_gives(lab: Lab, door: str) -> None:
    """Ansible facts 1, 2, 8, 9, 11, 20: one everyday playbook, once stock and once through each door."""
    expected = lab.playbook(EVERYDAY, door="stock")
    assert expected.rc == 0, expected.output
    for path in (lab.directory / "fetched", *(lab.directory / "there").iterdir()):
        shutil.rmtree(path)
    got = lab.playbook(EVERYDAY, door=door)
    assert got.rc == 0, got.output
    assert len(got.records) == len(expected.records)
    by_key = {(record.host, record.task): record for record in got.records}
    if door == "connection":
        # Behind this door alone the name is the plugin's own, wherever it is told (ansible fact 20).
        expected.records = [
            record for record in expected.records if record.task not in ("kind of connection", "delegated")
        ]
    differences = {
        (record.host, record.task): found
        for record in expected.records
        if (found := difference(record, by_key[record.host, record.task]))
    }
    assert not differences, f"stock and then Fatline: {differences}"


@pytest.mark.parametrize("door", ["strategy", "free", "host_pinned"])
def test_nearly_everything_runs_on_the_agent(lab: Lab, door: str) -> None:
    """What the results are is held against stock above; all doors lead to the same connection."""
    outcome = lab.playbook(EVERYDAY, door=door)
    assert outcome.rc == 0, outcome.output
    accelerated, commands, rest = outcome.summary()
    assert accelerated >= commands - 2, rest


def test_connection_still_reads_ssh(lab: Lab) -> None:
    """Ansible fact 20: `when: ansible_connection == 'ssh'` must hold behind the doors that map names."""
    text = """
- hosts: all
  gather_facts: false
  vars: {ansible_connection: ssh}
  tasks:
    - {name: asked, ping: , when: ansible_connection == 'ssh'}
"""
    for door in ("callback", "strategy"):
        outcome = lab.playbook(text, door=door)
        assert [record.status for record in outcome.records] == ["ok", "ok"], outcome.output
        assert outcome.summary()[0] == 2


@pytest.mark.parametrize("name", ["ssh", "smart", "ansible.builtin.ssh", "ansible.legacy.ssh"])
def test_each_name_of_ssh_is_served(lab: Lab, name: str) -> None:
    outcome = lab.adhoc("all", "-m", "ping", "-c", name)
    assert outcome.rc == 0, outcome.output
    assert outcome.summary()[0] == 2


def test_the_connection_door_works_alone(lab: Lab) -> None:
    """Ansible fact 28: no code in the main process; ad-hoc, so that no callback is loaded either."""
    outcome = lab.adhoc("all", "-m", "ping", "-vvv", door="connection")
    assert outcome.rc == 0, outcome.output
    assert outcome.output.count("fatline: ") == 2
    assert "fatline: stock" not in outcome.output


def test_the_switch_leaves_everything_stock(lab: Lab) -> None:
    for door in DOORS:
        outcome = lab.adhoc("one", "-m", "ping", "-vvv", door=door, FATLINE_DISABLE="1")
        assert outcome.rc == 0, outcome.output
        assert "fatline: accelerated" not in outcome.output
        # The local door leads nowhere else.
        assert ("> EXEC /bin/sh" if door == "local" else "SSH: EXEC") in outcome.output


def test_each_command_has_one_line_at_vvv(lab: Lab) -> None:
    """What ran warm, cold or through stock ssh, and why."""
    outcome = lab.adhoc("one", "-m", "command", "-a", "hostname", "-vvv")
    [told] = re.findall(r"fatline: (\w+): ([^\n]+)", outcome.output)
    # Its agent was booted ahead of it, unless the worker came first.
    assert told in (("cold", "new modules for the agent"), ("cold", "first run of a new agent"))
    outcome = lab.adhoc("one", "-m", "command", "-a", "hostname", "-vvv")
    assert re.findall(r"fatline: (\w+): ([^\n]+)", outcome.output) == [("warm", "modules held by the agent")]


@pytest.mark.parametrize("pipelining", ["True", "False"])
def test_the_ssh_command_is_told_at_vvv_whoever_runs_it(lab: Lab, pipelining: str) -> None:
    """ansible-core's own target `shell` reads there how the command line was built."""
    told = []
    for door in ("stock", "strategy"):
        outcome = lab.adhoc("one", "-m", "ping", "-vvv", door=door, ANSIBLE_PIPELINING=pipelining)
        assert outcome.rc == 0, outcome.output
        lines = re.findall(r"SSH: EXEC .*", outcome.output)
        # The socket is each one's own, and so is the name of a temporary directory.
        told.append([re.sub(r'ControlPath="[^"]+"|ansible-(tmp|local)-[\w.-]+', "", line) for line in lines])
    expected, got = told
    assert expected and got == expected


def test_what_ran_warm_is_not_told_without_v(lab: Lab) -> None:
    outcome = lab.adhoc("one", "-m", "ping", FATLINE_SUMMARY="0")
    assert "fatline" not in outcome.output


def test_the_summary_goes_to_a_file_where_the_output_is_read_by_a_program(lab: Lab, tmp_path: Path) -> None:
    told = tmp_path / "told"
    for _ in range(2):
        outcome = lab.adhoc("one", "-m", "ping", FATLINE_SUMMARY="0", FATLINE_SUMMARY_FILE=str(told))
        assert "fatline" not in outcome.output
    lines = told.read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("fatline: accelerated 1 of 1 commands") for line in lines), lines


def test_raw_never_boots_an_agent(lab: Lab) -> None:
    """Ansible fact 13: network gear and bare machines are reached through raw."""
    outcome = lab.adhoc("all", "-m", "raw", "-a", "echo hello")
    accelerated, commands, reasons = outcome.summary()
    assert (accelerated, commands) == (0, 2)
    assert "booted" not in reasons


def test_pipelining_that_was_switched_off_stays_off(lab: Lab) -> None:
    """Ansible fact 12: an explicit False has its reasons."""
    outcome = lab.adhoc("one", "-m", "ping", "-vvv", ANSIBLE_PIPELINING="False")
    assert outcome.rc == 0, outcome.output
    assert "PUT " in outcome.output
    assert "module payload" not in outcome.output
    assert "booted" not in outcome.summary()[2]


def test_pipelining_that_was_left_open_is_used(lab: Lab) -> None:
    outcome = lab.adhoc("one", "-m", "ping", "-vvv")
    assert "PUT " not in outcome.output


@pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo")
def test_become_gives_what_stock_gives(lab: Lab) -> None:
    """All that is special about it is in test_become.py."""
    text = """
- hosts: one
  gather_facts: false
  tasks:
    - {name: plain, command: id -u}
    - {name: root, command: id -u, become: true}
    - {name: nobody, command: id -un, become: true, become_user: nobody}
"""
    expected = lab.playbook(text, door="stock")
    got = lab.playbook(text)
    for name in ("plain", "root", "nobody"):
        assert got.of(name).status == expected.of(name).status, got.output
        assert normalised(got.of(name).result) == normalised(expected.of(name).result)
    assert got.summary()[:2] == (3, 3)


def test_an_unreachable_host_is_told_as_stock_tells_it(lab: Lab) -> None:
    lab.hosts["one"]["ansible_port"] = 1
    lab.write()
    expected, got = (lab.playbook(PING, door=door) for door in ("stock", "callback"))
    assert got.rc == expected.rc == 4
    assert got.of("ping", "one").status == "unreachable"
    assert got.of("ping", "one").result["msg"] == expected.of("ping", "one").result["msg"]
    assert got.of("ping", "two").status == "ok"


def test_a_refused_login_is_told_as_stock_tells_it(lab: Lab) -> None:
    lab.hosts["one"]["ansible_user"] = "nobody-of-that-name"
    lab.write()
    expected, got = (lab.playbook(PING, door=door) for door in ("stock", "callback"))
    assert got.of("ping", "one").status == "unreachable"
    assert got.of("ping", "one").result["msg"] == expected.of("ping", "one").result["msg"]


def test_a_missing_interpreter_is_told_as_stock_tells_it(lab: Lab) -> None:
    lab.variables["ansible_python_interpreter"] = "/nonexistent/python3"
    lab.write()
    expected, got = (lab.playbook(PING, door=door) for door in ("stock", "callback"))
    assert got.of("ping", "one").status == expected.of("ping", "one").status == "failed"
    assert got.of("ping", "one").result["rc"] == expected.of("ping", "one").result["rc"]
    assert "no Python" in got.summary()[2]


def test_an_interpreter_that_is_no_python_is_given_up_alone(lab: Lab) -> None:
    """Each fails as in stock; what comes after it with a Python is warm."""
    task = "{ping: , ignore_errors: true, vars: {ansible_python_interpreter: /bin/true}}"
    text = f"- hosts: one\n  gather_facts: false\n  tasks: [{task}, {task}, {{name: good, ping: }}]\n"
    expected, got = (lab.playbook(text, "-vvv", door=door) for door in ("stock", "callback"))
    assert not differences(expected, got)
    assert got.of("good").status == "ok", got.output
    accelerated, commands, rest = got.summary()
    assert commands - accelerated == 2, rest
    assert "no agent: output ended without READY" in rest


@pytest.mark.parametrize("password", [None, "not-needed"])
def test_a_runtime_directory_that_cannot_be_made_fails_no_task(lab: Lab, password: str | None) -> None:
    """With a password the connection's name rests on a key that is kept in that directory."""
    if password is not None:
        lab.variables["ansible_password"] = password
        lab.write()
    text = (
        PING
        + '    - {name: copy, copy: {content: x, dest: "{{ scratch }}/x"}}\n    - meta: reset_connection\n'
    )
    outcome = lab.playbook(text, FATLINE_RUNTIME_DIR="/nonexistent/directory")
    assert outcome.rc == 0, outcome.output
    assert "cannot make the runtime directory" in outcome.summary()[2]


def test_a_discovered_interpreter_runs_warm(lab: Lab) -> None:
    """Discovery runs plain commands; the first payload then names the interpreter (ansible fact 13)."""
    lab.variables["ansible_python_interpreter"] = "auto_silent"
    lab.write()
    text = PING + "    - {name: again, command: hostname}\n"
    outcome = lab.playbook(text)
    assert outcome.rc == 0, outcome.output
    accelerated, _, rest = outcome.summary()
    assert accelerated >= 4, rest


def test_two_interpreters_have_two_agents(lab: Lab) -> None:
    """Systems fact 15: warm only in the very interpreter that the payload names."""
    text = """
- hosts: one
  gather_facts: false
  tasks:
    - {name: first, ping: }
    - {name: second, ping: , vars: {ansible_python_interpreter: "{{ other }}"}}
    - {name: third, ping: }
"""
    other = lab.directory / "another-python"
    other.symlink_to(PYTHON)
    outcome = lab.playbook(text, "-e", f"other={other}")
    assert "2 agents booted" in outcome.summary()[2]
    assert outcome.rc == 0, outcome.output
    assert all(record.status == "ok" for record in outcome.records)


def test_no_log_is_honoured_at_vvv(lab: Lab) -> None:
    """Rule 8."""
    text = """
- hosts: one
  gather_facts: false
  tasks:
    - {name: secret, command: echo open-sesame, no_log: true}
"""
    outcome = lab.playbook(text, "-vvv")
    fatline_lines = [line for line in outcome.output.splitlines() if "fatline" in line]
    assert fatline_lines
    assert not any("open-sesame" in line for line in fatline_lines)


def test_the_delegated_address_is_printed(lab: Lab) -> None:
    """Ansible fact 22: under a connection's full name, 2.22 asks for its options by that name."""
    text = """
- hosts: one
  gather_facts: false
  tasks:
    - {name: there, ping: , delegate_to: two}
"""
    expected, got = (lab.playbook(text, door=door) for door in ("stock", "connection"))
    line = re.search(r"ok: \[one -> [^\]]+\]", expected.output)
    assert line and line[0] in got.output


def test_free_prints_its_own_task_headers(lab: Lab) -> None:
    """Ansible fact 31: a renamed free prints results under the wrong task header."""
    expected = lab.playbook(PING, door="stock", ANSIBLE_STRATEGY="free")
    got = lab.playbook(PING, door="free")

    def headers(output: str) -> int:
        return len(re.findall(r"^TASK ", output, re.MULTILINE))

    assert headers(got.output) == headers(expected.output)


PING = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: ping, ping: }
"""
