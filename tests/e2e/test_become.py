# SPDX-License-Identifier: BSD-3-Clause
"""Privileged agents with real sudo: what tasks see, who may start one, and how each of them ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_support import Lab, Outcome
from become_support import Accounts, accounts, agents_by_sudo, processes_above, server
from e2e_support import LOSS_SECONDS, children, is_alive, wait_for, wait_gone

from fatline.cli.sandbox import Keys, PrivateSshd
from fatline.client import Client
from fatline.errors import Dead

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make accounts and a sudoers file"),
    pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo"),
]

# Logs in without a password for sudo; needs one; may run only some commands; is become; a second of that.
ROLES = ("free", "asked", "bound", "app", "other")

FREE = "{free} ALL=(ALL:ALL) NOPASSWD: ALL"
ASKED = "{asked} ALL=(ALL:ALL) ALL"

# Where the account that becomes another is: behind ssh, or right here.
EVERYWHERE = pytest.mark.parametrize("reached", ["ssh", "local"])

PLAY = """
- hosts: all
  gather_facts: false
  become: true
  tasks:
"""

# A module's own view of its process, from within the interpreter.
PROBE = """
import json, os, resource, sys
limits = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT_')}
umask = os.umask(0)
try:
    open('/dev/tty').close()
    tty = True
except OSError:
    tty = False
print(json.dumps({
    'ids': [os.getresuid(), os.getresgid(), sorted(os.getgroups())], 'cwd': os.getcwd(), 'umask': umask,
    'limits': limits, 'tty': tty, 'own': os.stat('/proc/self/environ').st_uid,
    'stdin': os.readlink('/proc/self/fd/0').split(':')[0],
    'environ': open('/proc/self/environ').read().split(chr(0)),
}))
"""


@pytest.fixture(scope="session")
def people() -> Iterator[Accounts]:
    """The accounts of all tests here."""
    yield from accounts(ROLES)


@pytest.fixture(scope="session")
def door_for_all(tmp_path_factory: pytest.TempPathFactory, ssh_keys: Keys) -> Iterator[PrivateSshd]:
    """A server on which every account can log in."""
    with tempfile.TemporaryDirectory(prefix="fatline-keys-") as public:
        os.chmod(public, 0o755)
        with server(tmp_path_factory.mktemp("sudo-sshd"), Path(public), ssh_keys) as started:
            yield started


@pytest.fixture
def reached() -> str:
    """How tests come to the account that they do not say it for."""
    return "ssh"


@pytest.fixture
def lab(
    tmp_path: Path, people: Accounts, door_for_all: PrivateSshd, runtime_dir: Path, reached: str
) -> Iterator[Lab]:
    """One host, reached as the account that needs no password."""
    people.permit(FREE, ASKED)
    people.log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fatline-become-") as open_to_all:
        directory = tmp_path if reached == "ssh" else Path(open_to_all)
        lab = Lab(directory, {"one": door_for_all}, app=people.name("app"), other=people.name("other"))
        lab.seconds = 300
        if reached == "local":
            directory.chmod(0o777)
            lab.hosts["one"] = {"ansible_connection": "local"}
            lab.settings["FATLINE_OWN_MUX"] = "1"
        log_in(lab, people, "free")
        yield lab
        lab.close_masters(runtime_dir)


def log_in(lab: Lab, people: Accounts, role: str) -> None:
    """Reach the host as another account."""
    if "ansible_connection" in lab.hosts["one"]:
        lab.user = people.name(role)
    else:
        lab.hosts["one"]["ansible_user"] = people.name(role)
    lab.write()


def play(*tasks: str, head: str = PLAY) -> str:
    """Return a playbook of tasks in flow style."""
    return head + "".join(f"    - {task}\n" for task in tasks)


def privileged_agents(people: Accounts) -> list[int]:
    """Return the agents that sudo has started for the account that needs no password."""
    return agents_by_sudo(people.name("free"))


def same(expected: Outcome, got: Outcome, *names: str) -> None:
    """Tasks of both runs have the same status and say the same."""
    for name in names:
        one, other = expected.of(name), got.of(name)
        assert one.status == other.status, got.output
        for key in ("msg", "rc", "stdout", "stderr", "module_stdout", "module_stderr"):
            assert masked(one.result.get(key)) == masked(other.result.get(key)), (name, key)


def masked(value: Any) -> Any:
    """Return text without what differs every time."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"BECOME-SUCCESS-\w+|key=\w+", "MARK", value)
    # On a terminal, which stock gives to local commands that are not pipelined, sudo ends the prompt's line.
    value = re.sub(r"password:\s*", "password:", value)
    return re.sub(r"ansible-tmp-[-0-9.]+", "TMP", value)


def attempts(people: Accounts) -> int:
    """Return how often sudo has turned somebody away."""
    return len(
        re.findall(
            r"incorrect password attempt|command not allowed|a password is required", people.log_text()
        )
    )


@EVERYWHERE
def test_a_module_finds_what_it_finds_under_stock(lab: Lab) -> None:
    """What sudo sets up is what the module sees: environment, ids, limits, umask, directory, terminal."""
    probe = lab.directory / "library"
    probe.mkdir()
    (probe / "probe.py").write_text(
        "from ansible.module_utils.basic import AnsibleModule\n"
        "def main():\n    module = AnsibleModule({})\n"
        f"    import io, contextlib\n    out = io.StringIO()\n"
        f"    with contextlib.redirect_stdout(out):\n        exec({PROBE!r}, {{}})\n"
        "    module.exit_json(found=out.getvalue())\n"
        "main()\n"
    )
    text = play(
        "{name: first, probe: }",
        "{name: root, probe: }",
        "{name: again, probe: }",
        "{name: app, probe: , become_user: '{{ app }}'}",
        "{name: shell, shell: 'id; umask; pwd; ulimit -a; env | sort; tty || true'}",
        "{name: login, shell: 'id; umask', become_flags: '-i'}",
    )
    changes = {"ANSIBLE_PIPELINING": "True", "ANSIBLE_LIBRARY": str(probe)}
    expected = lab.playbook(text, door="stock", **changes)
    got = lab.playbook(text, "-vvv", **changes)
    assert expected.rc == got.rc == 0, got.output
    for name in ("first", "root", "again", "app"):
        one, other = (json.loads(outcome.of(name).result["found"]) for outcome in (expected, got))
        one["environ"], other["environ"] = (sorted(map(masked, found["environ"])) for found in (one, other))
        # /proc/self/environ is what sudo gave to the interpreter that became the agent.
        assert without_command(one) == without_command(other)
    same(expected, got, "shell", "login")
    assert "fatline: warm" in got.output
    assert got.summary()[0] == got.summary()[1]


def without_command(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a probe has found without the command that sudo was given: os.environ has the task's."""
    kept = [entry for entry in found["environ"] if not entry.startswith(("SUDO_COMMAND=", "_="))]
    return {**found, "environ": kept}


@EVERYWHERE
def test_a_password_goes_to_the_prompt_and_nowhere_else(lab: Lab, people: Accounts, client: Client) -> None:
    """Rule 7; the agent is one for root, and one for another account."""
    log_in(lab, people, "asked")
    secret = people.password("asked")
    text = play(
        "{name: root, command: id -un}",
        "{name: again, command: id -un}",
        "{name: app, command: id -un, become_user: '{{ app }}'}",
        "{name: argv, shell: 'cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr -d \"\\\\0\"'}",
    )
    outcome = run_with(lab, text, secret)
    assert [outcome.of(name).result["stdout"] for name in ("root", "again", "app")] == [
        "root",
        "root",
        people.name("app"),
    ], outcome.output
    assert outcome.summary()[:2] == (4, 4)
    assert secret not in outcome.of("argv").result["stdout"]
    assert secret not in outcome.output
    assert secret not in client.status()


def run_with(lab: Lab, text: str, password: str, door: str = "callback", **changes: str) -> Outcome:
    """Run a playbook with a become password from a file that only this test reads."""
    variables = lab.directory / "secret.json"
    variables.write_text(json.dumps({"ansible_become_password": password}))
    return lab.playbook(text, "-vvvv", "-e", f"@{variables}", door=door, **changes)


@EVERYWHERE
@pytest.mark.parametrize("pipelining", ["", "True"])
def test_a_wrong_password_fails_as_in_stock_with_as_many_attempts(
    lab: Lab, people: Accounts, pipelining: str, reached: str
) -> None:
    """Rule 9: no second attempt, which could lock the account."""
    log_in(lab, people, "asked")
    changes = {"ANSIBLE_PIPELINING": pipelining} if pipelining else {}
    text = play(
        "{name: wrong, command: id, ignore_errors: true}", "{name: again, command: id, ignore_errors: true}"
    )
    expected = run_with(lab, text, "nonsense", door="stock", **changes)
    stock_attempts = attempts(people)
    got = run_with(lab, text, "nonsense", **changes)
    same(expected, got, "wrong", "again")
    words = {"ssh": "Incorrect sudo password", "local": "Duplicate become password prompt"}[reached]
    assert words in got.of("wrong").result["msg"]
    assert attempts(people) - stock_attempts == stock_attempts


@EVERYWHERE
def test_a_missing_password_fails_as_in_stock(lab: Lab, people: Accounts, reached: str) -> None:
    log_in(lab, people, "asked")
    text = play("{name: missing, command: id}")
    expected, got = (lab.playbook(text, door=door) for door in ("stock", "callback"))
    same(expected, got, "missing")
    words = {"ssh": "Missing sudo password", "local": "a password is required"}[reached]
    assert words in got.of("missing").result["msg"]


@EVERYWHERE
def test_a_right_password_after_a_wrong_one(lab: Lab, people: Accounts) -> None:
    """Rule 9: an agent is reused only with the same password."""
    log_in(lab, people, "asked")
    secret = people.password("asked")
    text = play(
        "{name: wrong, command: id -un, ignore_errors: true, vars: {ansible_become_password: no}}",
        f"{{name: right, command: id -un, vars: {{ansible_become_password: {secret}}}}}",
        "{name: wrong again, command: id -un, ignore_errors: true, vars: {ansible_become_password: no}}",
        f"{{name: right again, command: id -un, vars: {{ansible_become_password: {secret}}}}}",
    )
    outcome = lab.playbook(text)
    assert [record.status for record in outcome.records] == ["failed", "ok", "failed", "ok"], outcome.output


@EVERYWHERE
def test_a_list_of_permitted_commands_gets_the_genuine_one(lab: Lab, people: Accounts) -> None:
    """Sudoers that permit what stock runs by default, and not an agent: refused once, not at every task."""
    log_in(lab, people, "bound")
    people.permit("{bound} ALL=(ALL) NOPASSWD: /bin/sh -c echo BECOME-SUCCESS-* ; */AnsiballZ_*.py")
    text = play(*(f"{{name: task {number}, command: id -un}}" for number in range(3)))
    expected, got = (lab.playbook(text, door=door) for door in ("stock", "callback"))
    assert expected.rc == 0, expected.output
    same(expected, got, "task 0", "task 1", "task 2")
    assert attempts(people) == 1, people.log_text()


def test_requiretty_gets_the_terminal_that_stock_gives_it(lab: Lab, people: Accounts) -> None:
    """Ansible fact 12."""
    people.permit(FREE, "Defaults:{free} requiretty")
    text = play("{name: first, command: id -un}", "{name: second, command: id -un}")
    expected, got = (lab.playbook(text, door=door) for door in ("stock", "callback"))
    assert expected.rc == 0, expected.output
    same(expected, got, "first", "second")


@EVERYWHERE
def test_the_next_become_sees_new_groups_and_rights(lab: Lab, people: Accounts) -> None:
    """Rule 10, ansible fact 27: groups, sudoers and limits, as the next sudo of stock's sees them."""
    group = f"{people.prefix}group"
    rights = people.sudoers
    limits = f"/etc/security/limits.d/{people.prefix}.conf"
    text = play(
        "{name: before, command: id -Gn, become_user: '{{ app }}'}",
        f"{{name: group, group: {{name: {group}}}}}",
        f"{{name: member, user: {{name: '{{{{ app }}}}', groups: {group}, append: true}}}}",
        "{name: after, command: id -Gn, become_user: '{{ app }}'}",
        "{name: limit, shell: ulimit -Hc}",
        f"{{name: new limit, copy: {{content: 'root hard core 12345', dest: {limits}}}}}",
        "{name: limit again, shell: ulimit -Hc}",
        f"{{name: remove, file: {{path: {rights}, state: absent}}}}",
        "{name: refused, command: id}",
    )
    outcomes = []
    for door in ("stock", "callback"):
        people.permit(FREE)
        try:
            outcomes.append(lab.playbook(text, door=door, ANSIBLE_PIPELINING="True"))
        finally:
            people.permit(FREE)
            Path(limits).unlink(missing_ok=True)
            os.system(f"gpasswd -d {people.name('app')} {group} >/dev/null 2>&1; groupdel {group}")
    expected, got = outcomes
    same(expected, got, "before", "after", "limit", "limit again", "refused")
    assert group in got.of("after").result["stdout"]
    assert got.of("refused").status == "failed"


@pytest.mark.parametrize("door", ["callback", "connection"])
def test_an_account_can_be_removed_right_after_it_was_become(lab: Lab, people: Accounts, door: str) -> None:
    """Rule 11, ansible fact 25: userdel refuses while a process of the account lives."""
    name = people.add("gone")
    text = play(
        f"{{name: used, command: id -un, become_user: {name}}}",
        f"{{name: removed, user: {{name: {name}, state: absent, remove: true}}}}",
    )
    outcome = lab.playbook(text, "-vvv", door=door, ANSIBLE_PIPELINING="True")
    assert outcome.rc == 0, outcome.output
    people.made.remove(name)
    assert outcome.output.count("first run of a new agent") == 2


@EVERYWHERE
def test_an_idle_account_is_free_after_a_moment(
    lab: Lab, people: Accounts, door_for_all: PrivateSshd
) -> None:
    """Rule 11: nobody of the run needs to ask for it; root's agent stays as long as the run."""
    marker = lab.directory / "marker"
    text = play(
        "{name: root, command: id -un}",
        "{name: used, command: id -un, become_user: '{{ app }}'}",
        f"{{name: wait, become: false, connection: local, wait_for: {{path: {marker}}}}}",
    )
    process, record = lab.start_playbook(text)
    try:
        wait_for("both agents to be used", lambda: record.exists() and '"used"' in record.read_text(), 60)
        agents = {pid: os.stat(f"/proc/{pid}").st_uid for pid in privileged_agents(people)}
        (root,) = (pid for pid, uid in agents.items() if uid == 0)
        for pid in agents:
            # Systems fact 2: a process that is not dumpable is closed to its own account.
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0
        wait_gone(pid for pid, uid in agents.items() if uid)
        assert is_alive(root)
    finally:
        marker.touch()
        lab.finish(process, record)
    wait_gone([root])


@EVERYWHERE
def test_a_killed_run_leaves_no_privileged_agent(
    lab: Lab, people: Accounts, door_for_all: PrivateSshd, client: Client
) -> None:
    """Rule 9: kill -9 of ansible-playbook itself, while somebody else uses the mux."""
    text = play("{name: root, command: id -un}", "{name: long, pause: {minutes: 5}}")
    process, record = lab.start_playbook(text)
    wait_for("the agent to be used", lambda: record.exists() and '"root"' in record.read_text(), 60)
    agents = privileged_agents(people)
    assert len(agents) == 1
    left = children(process.pid)
    process.kill()
    try:
        wait_gone(agents)
    finally:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
    assert client.status()


def test_another_run_cannot_reach_a_privileged_agent(lab: Lab, people: Accounts, client: Client) -> None:
    """Rule 9: neither by its key, which it does not know, nor by its id, which it can guess."""
    text = play("{name: root, command: id -un}", "{name: long, pause: {minutes: 5}}")
    process, record = lab.start_playbook(text)
    try:
        wait_for("the agent to be used", lambda: record.exists() and '"root"' in record.read_text(), 60)
        found = re.search(r"^agent (\d+) 127\.0\.0\.1:sudo:root ", client.status(), re.MULTILINE)
        assert found, client.status()
        with pytest.raises(Dead, match="another run"):
            client.ping(int(found[1]), 5.0)
    finally:
        process.kill()
        lab.finish(process, record)


@EVERYWHERE
@pytest.mark.parametrize("victim", ["agent", "sudo"])
def test_a_killed_agent_is_unreachable_within_two_seconds(
    lab: Lab, people: Accounts, door_for_all: PrivateSshd, victim: str
) -> None:
    """Rule 2; what comes later finds a new agent."""
    marker = lab.directory / "marker"
    text = play(
        "{name: first, command: id -un}",
        f"{{name: long, shell: 'echo $PPID >> {marker}; exec sleep 60', ignore_unreachable: true}}",
        "{name: after, command: id -un}",
    )
    process, record = lab.start_playbook(text)
    try:
        wait_for("the long task to run", lambda: marker.exists() and marker.read_text().strip(), 60)
        # On a slow machine that of the task before may still be about to end.
        running = processes_above(int(marker.read_text().split()[0]))
        (agent,) = [pid for pid in privileged_agents(people) if pid in running]
        target = agent if victim == "agent" else int(Path(f"/proc/{agent}/stat").read_text().split()[3])
        began = time.monotonic()
        os.kill(target, signal.SIGKILL)
        wait_for("the loss to be told", lambda: '"task": "long"' in record.read_text(), 30)
        seconds = time.monotonic() - began
        outcome = lab.finish(process, record)
    finally:
        process.kill()
        os.kill(int(marker.read_text().split()[0]), signal.SIGTERM)
    assert outcome.of("long").status == "unreachable", outcome.output
    assert seconds < LOSS_SECONDS
    assert outcome.of("after").status == "ok", outcome.output


@EVERYWHERE
def test_become_to_the_user_that_is_logged_in_needs_no_agent_of_its_own(lab: Lab, people: Accounts) -> None:
    """Core does not wrap such commands."""
    text = play(f"{{name: same, command: id -un, become_user: {people.name('free')}}}")
    expected, got = (lab.playbook(text, door=door) for door in ("stock", "callback"))
    same(expected, got, "same")
    assert got.summary() == (1, 1, ", 1 agent booted")


@EVERYWHERE
def test_a_user_who_wants_a_line_in_the_log_for_each_command_has_it(lab: Lab, people: Accounts) -> None:
    """An agent needs one sudo for all its tasks; FATLINE_BECOME=0 leaves every one of them to stock."""
    text = play(*(f"{{name: '{number}', command: id -un}}" for number in range(3)))
    logged = []
    for changes in ({"FATLINE_BECOME": "0"}, {}):
        people.log.unlink(missing_ok=True)
        outcome = lab.playbook(text, "-vvv", door="callback", ANSIBLE_PIPELINING="True", **changes)
        assert [outcome.of(str(number)).result["stdout"] for number in range(3)] == ["root"] * 3
        logged.append(len(re.findall("COMMAND=", people.log_text())))
        assert ("become: FATLINE_BECOME is 0" in outcome.output) == bool(changes)
    assert logged == [3, 1]


@EVERYWHERE
def test_what_no_agent_can_do_is_the_genuine_command(lab: Lab, people: Accounts) -> None:
    """raw, script, su, async, variables that Python reads at its start: all in one run with warm tasks."""
    script = lab.directory / "who.sh"
    script.write_text("#!/bin/sh\nid -un\n")
    # For files that another ordinary account is to read.
    shared = "ansible_shell_allow_world_readable_temp: true, ansible_remote_tmp: /tmp"
    secret = f"ansible_become_password: {people.password('app')}"
    su = f"become_method: su, vars: {{{secret}, {shared}}}"
    text = play(
        "{name: warm, command: id -un}",
        "{name: raw, raw: id -un}",
        f"{{name: script, script: {script}}}",
        f"{{name: su, command: id -un, become_user: '{{{{ app }}}}', {su}}}",
        "{name: async, command: id -un, async: 30, poll: 1}",
        "{name: start, shell: 'echo $LC_ALL; id -un', environment: {LC_ALL: C.UTF-8}}",
        "{name: copy, copy: {content: x, dest: /root/.fatline-test-of-become, mode: '0600'}}",
        "{name: slurp, slurp: {src: /root/.fatline-test-of-become}}",
        "{name: clean, file: {path: /root/.fatline-test-of-become, state: absent}}",
        "{name: facts, setup: {gather_subset: ['!all', min]}}",
        "{name: check, command: id -un, check_mode: true}",
        "{name: reset, meta: reset_connection}",
        "{name: again, command: id -un}",
    )
    expected, got = (lab.playbook(text, door=door) for door in ("stock", "callback"))
    assert expected.rc == got.rc == 0, got.output
    same(expected, got, "warm", "raw", "script", "su", "async", "start", "copy", "slurp", "check", "again")
    for fact in ("ansible_user_id", "ansible_user_dir", "ansible_real_user_id"):
        one, other = (outcome.of("facts").result["ansible_facts"][fact] for outcome in (expected, got))
        assert one == other
