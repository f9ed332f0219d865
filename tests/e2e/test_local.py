# SPDX-License-Identifier: BSD-3-Clause
"""Tasks on the controller itself: ``connection: local``, ``delegate_to: localhost``, ``local_action``."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_support import Lab, differences
from e2e_support import children, status_value, wait_for, wait_gone

from fatline import mux
from fatline.cli.sandbox import PrivateSshd
from fatline.client import Client

pytestmark = pytest.mark.timeout(600)

# A lookup runs in the worker: what it changes there, modules started from it inherit.
CHANGES = """
import os
from ansible.plugins.lookup import LookupBase

class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        if terms[0] == "environment":
            os.environ["CHANGED_BY_LOOKUP"] = terms[1]
        elif terms[0] == "umask":
            os.umask(int(terms[1], 8))
        return [""]
"""

# What a process tells of what it has inherited, without numbers that no two runs have in common.
SURROUNDINGS = (
    "env | grep -v -e ^ANSIBLE_ -e ^FATLINE_ -e ^RECORD_FILE= | sort; pwd; umask; id; ps -o tty= -p $$; "
    "grep -e ^Sig[BI] -e ^Cap -e ^NoNew /proc/self/status; ulimit -n; ls /proc/self/fd"
)

EVERYTHING = """
- hosts: here
  gather_facts: false
  tasks:
    - {name: facts, setup: {gather_subset: ['!all', '!min', 'user', 'python']}}
    - {name: inherited, command: sh surroundings.sh}
    - {name: inherited again, command: sh surroundings.sh}
    - {name: changed environment, command: "sh surroundings.sh {{ lookup('changes', 'environment', 'a b') }}"}
    - {name: changed umask, command: "sh surroundings.sh {{ lookup('changes', 'umask', '0027') }}"}
    - {name: environment, command: sh surroundings.sh, environment: {FOO: "bar 'baz' $x"}}
    - name: start-up environment
      shell: 'echo "$LC_ALL$PYTHONFOO"'
      environment: {PYTHONFOO: "1", LC_ALL: C}
    - {name: killed module, killed: , ignore_errors: true}
    - {name: crashed module, crashed: , ignore_errors: true}
    - {name: input, command: cat, args: {stdin: "to the module"}}
    - {name: terminal, shell: "tty; test -r /dev/tty && echo readable; cat", ignore_errors: true}
    - {name: file, file: {path: touched, state: touch, mode: "0600"}}
    - {name: default mode, copy: {content: "hello", dest: "{{ playbook_dir }}/copied"}}
    - {name: stat, stat: {path: copied, get_checksum: true}}
    - {name: raw, raw: "echo raw; echo more >&2; pwd"}
    - {name: script, script: surroundings.sh}
    - {name: fetch, fetch: {src: "{{ playbook_dir }}/copied", dest: fetched/, flat: true}}
    - {name: async, command: printf async, async: 30, poll: 1}
    - {name: loop, command: "printf '%s' {{ item }}", loop: [1, 2, 3, 4]}
    - {name: old action, local_action: command pwd}
    - {name: once, command: pwd, run_once: true, delegate_to: localhost}
    - {name: as nobody, command: id -un, become: true, become_user: nobody}
    - {name: as nobody pipelined, command: id -un, become: true, become_user: nobody,
       vars: {ansible_pipelining: true}}
    - {name: files explicitly, command: pwd, vars: {ansible_pipelining: false}}
    - {name: kind, debug: {msg: "{{ ansible_connection }}"}}
- hosts: localhost
  gather_facts: true
  gather_subset: ['!all', '!min', 'python']
  tasks:
    - {name: implicit, command: "sh surroundings.sh"}
    - {name: implicit python, debug: {var: ansible_facts.python}}
    - {name: implicit interpreter, debug: {var: ansible_python_interpreter}}
    - {name: implicit package facts, package_facts: , no_log: true}
"""

MODULES = {
    "killed.py": "import os\nfrom ansible.module_utils.basic import AnsibleModule\nos.kill(os.getpid(), 9)\n",
    "crashed.py": "from ansible.module_utils.basic import AnsibleModule\nraise RuntimeError('crashed')\n",
}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A directory with an inventory of local hosts."""
    for folder, files in (
        ("lookup_plugins", {"changes.py": CHANGES}),
        ("library", MODULES),
        (".", {"surroundings.sh": SURROUNDINGS + "\n"}),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    lab = Lab(tmp_path, {})
    lab.seconds = 300
    lab.hosts = {"here": {"ansible_connection": "local"}}
    lab.write()
    return lab


@pytest.mark.parametrize("door", ["callback", "local"])
def test_every_result_is_the_one_that_stock_gives(lab: Lab, door: str) -> None:
    """Environment, working directory, umask, terminal, interpreter, descriptors: all of it is inherited."""
    if door == "local":
        # Behind this door alone the name is the plugin's own.
        lab.hosts = {"here": {}}
        lab.write()
        lab.variables["ansible_connection"] = "local"
    stock = lab.playbook(
        EVERYTHING, door="stock", **({"ANSIBLE_TRANSPORT": "local"} if door == "local" else {})
    )
    assert stock.rc == 0, stock.output
    for name in ("touched", "copied", "fetched/copied"):
        (lab.directory / name).unlink()
    got = lab.playbook(EVERYTHING, door=door)
    assert got.rc == 0, got.output
    found = differences(stock, got)
    if door == "local":
        del found["here: kind"]
    assert not found, f"stock and then Fatline: {found}"
    if door == "callback":
        # Behind the connection door nobody prints a summary.
        accelerated, _, rest = got.summary()
        assert accelerated >= 20, rest


def test_the_agents_end_with_the_run(lab: Lab) -> None:
    """A local agent's environment is that of its run, so nothing of it may be there for the next one."""
    outcome = lab.playbook("- hosts: here\n  gather_facts: false\n  tasks: [{ping: }, {ping: }]\n")
    assert outcome.summary() == (2, 2, ", 1 agent booted")
    native = mux.find()
    assert native is not None
    client = Client(native)
    wait_for("the agent's end", lambda: status_value(client, "agents") == "0")


PIDS = """
- hosts: here
  gather_facts: false
  tasks:
    - {name: warm, ping: }
    - {name: long, shell: "echo $$ > pids.new; mv pids.new pids; exec sleep 600"}
"""


def started(lab: Lab) -> int:
    """Wait for the long task's process."""
    text = wait_for(
        "the long task", lambda: (lab.directory / "pids").exists() and (lab.directory / "pids").read_text()
    )
    return int(text)


def ends(pid: int) -> bool:
    """Say whether a process that has been told to end does so; end it if not."""
    try:
        wait_gone([pid], timeout=10)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        return False
    return True


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_local_commands_exactly_where_it_does_in_stock(lab: Lab, signum: int) -> None:
    """Rule 2: core kills the process group of its workers, in which an agent's children are not."""
    ended = {}
    for door in ("stock", "callback"):
        process, record = lab.start_playbook(PIDS, door=door)
        pid = started(lab)
        (lab.directory / "pids").unlink()
        process.send_signal(signum)
        lab.finish(process, record)
        ended[door] = ends(pid)
    assert ended["stock"] == ended["callback"]


def test_a_killed_agent_makes_the_host_unreachable(lab: Lab) -> None:
    """Rules 2 and 13: the task may have run, so nobody runs it again."""
    process, record = lab.start_playbook(PIDS, door="callback")
    pid = started(lab)
    os.kill(agent_of(pid), signal.SIGKILL)
    outcome = lab.finish(process, record)
    os.kill(pid, signal.SIGKILL)
    assert outcome.of("long").status == "unreachable", outcome.output
    assert "here" in outcome.output and "unreachable=1" in outcome.output


def agent_of(pid: int) -> int:
    """Return the agent above a module's command: the topmost of its forks, which keep its command line."""
    agent = parent_of(pid)
    while command_line(parent_of(agent)) == command_line(agent):
        agent = parent_of(agent)
    return agent


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def parent_of(pid: int) -> int:
    """Return the process that has started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


TERMINAL = """
- hosts: here
  gather_facts: false
  tasks:
    - {name: warm, ping: }
    - {name: terminal, shell: "ps -o tty= -p $$; (echo seen > /dev/tty) && echo written"}
"""


def test_the_controlling_terminal_is_stock_s(lab: Lab) -> None:
    """Before 2.19 workers keep it: a local program may ask at it; later ones have a session of their own."""
    seen = {}
    for door in ("stock", "callback"):
        playbook = lab.directory / "terminal.yml"
        playbook.write_text(TERMINAL)
        seen[door] = on_terminal(lab, playbook, door)
    stock, got = (
        [line.strip() for line in text.splitlines() if "stdout" in line or "unreachable=" in line]
        for text in seen.values()
    )
    assert len(stock) >= 2
    assert [("/dev/tty" in line, "written" in line) for line in stock] == [
        ("/dev/tty" in line, "written" in line) for line in got
    ]
    assert ("seen" in seen["stock"].split()) == ("seen" in seen["callback"].split())


def on_terminal(lab: Lab, playbook: Path, door: str) -> str:
    """Run a playbook with a controlling terminal; returns what was printed on it."""
    environment = lab.environment(
        **(
            {"FATLINE_DISABLE": "1"}
            if door == "stock"
            else {"ANSIBLE_CALLBACKS_ENABLED": "fatline.core.fatline"}
        )
    )
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(lab.directory)
        os.execve(program, [program, "-i", str(lab.inventory), "-v", str(playbook)], environment)
    printed = []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        printed.append(piece)
    os.close(terminal)
    os.waitpid(pid, 0)
    return b"".join(printed).decode()


MEETING = """
- hosts: all
  gather_facts: false
  serial: 12
  tasks:
    - {name: warm, ping: , delegate_to: localhost, run_once: true}
    - name: meeting
      delegate_to: localhost
      shell: |
        touch meeting/{{ inventory_hostname }}
        for i in $(seq 600); do
          test $(ls meeting | wc -l) -ge 12 && exit 0
          sleep 0.1
        done
        exit 1
    - {name: answered, command: "printf '%s' {{ inventory_hostname }}", delegate_to: localhost}
    - {name: looped, local_action: "command printf {{ item }}", loop: [a, b]}
    - {name: once, command: printf once, delegate_to: localhost, run_once: true}
"""


def test_many_hosts_delegate_to_this_one_at_the_same_time(lab: Lab) -> None:
    """Up to forks in parallel: each waits for all of the others."""
    lab.hosts = {f"host{number:02}": {"ansible_host": "192.0.2.1"} for number in range(12)}
    lab.write()
    (lab.directory / "meeting").mkdir()
    outcome = lab.playbook(MEETING, "-f", "12")
    assert outcome.rc == 0, outcome.output
    answers = {
        record.host: record.result["stdout"] for record in outcome.records if record.task == "answered"
    }
    assert answers == {name: name for name in lab.hosts}
    assert outcome.summary()[0] >= 1 + 12 + 12 + 24 + 1


MIXED = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: there, command: sh -c 'echo $SSH_CONNECTION | wc -w'}
    - {name: here, command: sh -c 'echo $SSH_CONNECTION | wc -w; pwd', delegate_to: localhost}
    - {name: action, local_action: command pwd}
    - {name: there again, command: sh -c 'echo $SSH_CONNECTION | wc -w'}
    - {name: other way, command: sh -c 'echo $SSH_CONNECTION | wc -w', delegate_to: one}
    - name: fact
      setup: {gather_subset: ['!all', '!min', 'python']}
      delegate_to: localhost
      delegate_facts: true
    - {name: told, debug: {msg: "{{ hostvars.localhost.ansible_facts.python.executable | default('none') }}"}}
    - {name: variables, debug: {msg: "{{ ansible_connection | default('unset') }}"}}
"""


@pytest.fixture
def mixed(tmp_path: Path, sshd: PrivateSshd, runtime_dir: Path) -> Iterator[Lab]:
    """One host behind ssh, one that is this machine."""
    lab = Lab(tmp_path, {"one": sshd})
    lab.hosts["two"] = {"ansible_connection": "local"}
    lab.write()
    yield lab
    lab.close_masters(runtime_dir)


def test_ssh_and_this_machine_in_one_play(mixed: Lab) -> None:
    """`delegate_to: localhost` within ssh plays, and the other way round."""
    stock = mixed.playbook(MIXED, door="stock")
    assert stock.rc == 0, stock.output
    got = mixed.playbook(MIXED)
    assert got.rc == 0, got.output
    key = lambda record: (record.task, record.host)  # noqa: E731
    for outcome in (stock, got):
        outcome.records.sort(key=key)
    found = differences(stock, got)
    assert not found, f"stock and then Fatline: {found}"
    assert got.of("here", "one").result["stdout"].splitlines() == ["0", str(mixed.directory)]
    assert (
        got.of("other way", "two").result["stdout"] == "1"
        or got.of("other way", "two").result["stdout"] == "4"
    )
    accelerated, commands, rest = got.summary()
    assert accelerated == commands, rest


def test_nothing_is_left_when_the_controller_is_killed(lab: Lab) -> None:
    """The run's end is noticed by the mux as well: nobody is attached to the agent any more."""
    process, record = lab.start_playbook(PIDS, door="callback")
    pid = started(lab)
    agent = agent_of(pid)
    for number in (process.pid, *children(process.pid)):
        os.kill(number, signal.SIGKILL)
    lab.finish(process, record)
    os.kill(pid, signal.SIGKILL)
    wait_gone([agent], timeout=60)
