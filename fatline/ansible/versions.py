# SPDX-License-Identifier: GPL-3.0-or-later
"""The one module that knows ansible-core's versions and its private names.

Private names used, and why there is no public way:

``PluginLoader.get_with_context``
    wrapped, so that ``ssh`` leads to Fatline's class while ``ansible_connection`` keeps its value
    (ansible facts 20 and 21).
``ssh.Connection._bare_run``
    overridden: it has one signature in all supported releases and lies below core's retries, messages
    and UNREACHABLE (ansible fact 14).
``ssh.Connection._build_command``
    extended and called: core's own ssh arguments are the ones that the agent's ssh must have.
``ssh.Connection._file_transport_command``
    overridden: the common point of put_file and fetch_file, after their checks.
``ssh.Connection.sshpass_pipe``, ``shm``, ``_init_shm``, ``_sshpass_cmd``
    core's ways of handing a password to ssh (ansible fact 15).
``ssh.AnsibleControlPersistBrokenPipeError``, ``b_NOT_SSH_ERRORS``
    so that a failed boot is reported exactly as core reports a failed ssh.
``ssh.Connection._examine_output``, ``_flags``, ``local.Connection._ensure_become_success``
    core's own reading of what a become plugin's command says before its success mark; the latter is there
    from 2.19 on.
``C.config`` and ``_resolve_option_variables``, ``PlayContext``
    the origin of an option, the registration of options under a second name (ansible fact 22), and the
    recipe that core itself uses for ``meta: reset_connection`` to build a connection in the main process.

Nothing is gated on a version number: what a release lacks is noticed by its absence. Of a newer one than all
tested (``releases``) ``activate`` says so once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import ansible
import jinja2
from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleAuthenticationFailure, AnsibleConnectionFailure, AnsibleError
from ansible.playbook.block import Block
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.connection import local as stock_local
from ansible.plugins.connection import ssh as stock_ssh
from ansible.plugins.loader import connection_loader
from ansible.release import __version__
from jinja2 import nodes

try:
    from ansible._internal._templating._engine import TemplateEngine
except ImportError:  # before 2.19
    from ansible.template import Templar as TemplateEngine

CORE_VERSION: str = __version__
StockConnection = stock_ssh.Connection
StockLocal = stock_local.Connection

# Actions that boot no agent: they run on the controller alone, or ask nothing of the target that would need
# one (ansible fact 13: network gear is managed with raw).
_WITHOUT_AGENT = frozenset(
    prefix + name
    for prefix in ("", "ansible.builtin.", "ansible.legacy.")
    for name in (
        "add_host", "assert", "debug", "fail", "group_by", "import_role", "import_tasks", "include",
        "include_role", "include_tasks", "include_vars", "meta", "pause", "raw", "script", "set_fact",
        "set_stats", "validate_argument_spec", "wait_for_connection",
    )
)  # fmt: skip

# The second form is a decorator that does not tell what it wraps (2.19 to 2.21).
_BARE_RUN = (["self", "cmd", "in_data", "sudoable", "checkrc"], ["self", "args", "kwargs"])
_METHODS = ("_bare_run", "_build_command", "_file_transport_command", "_run", "reset")


class RunLost(AnsibleAuthenticationFailure):  # type: ignore[misc]
    """The connection broke after the command may have started: UNREACHABLE, and never tried again.

    Rule 13. Core's retry loop leaves exactly one family of failures alone, those of authentication, so
    this is one of them, with its own words.
    """

    # From 2.19 on core puts this in front of every message.
    _default_message = ""


def misfit() -> str:
    """Say what this ansible-core lacks that the ssh connection rests on; empty if all is there."""
    missing = [name for name in _METHODS if not hasattr(StockConnection, name)]
    if missing:
        return f"ansible-core {CORE_VERSION} has no ssh.Connection.{missing[0]}"
    parameters = list(inspect.signature(StockConnection._bare_run).parameters)
    if parameters not in _BARE_RUN:
        return f"ansible-core {CORE_VERSION} calls ssh.Connection._bare_run with {', '.join(parameters)}"
    return ""


def is_core_class(candidate: Any, known: Any) -> bool:
    """Say whether a class is the one of core's that we know.

    By its file: asked for by full name first, the loader imports it once more under another module name.
    """
    if not isinstance(candidate, type) or candidate.__name__ != known.__name__:
        return False
    return _file_of(candidate) == _file_of(known)


def _file_of(connection_class: type) -> str | None:
    module = sys.modules.get(connection_class.__module__)
    return getattr(module, "__file__", None)


# What a worker imports when it runs its first module, by name because not every release has it.
_IMPORTED_LATE = (
    "encodings.ascii",
    "ansible.module_utils._internal._json._profiles._module_legacy_c2m",
    "ansible.module_utils._internal._json._profiles._module_legacy_m2c",
)


def preload() -> None:
    """Do in the main process what each of its forked workers would do again for itself.

    Core keeps what it found of plugins and options, and Python the patterns that it compiled; the connection
    that is made here is only there to have them looked up.
    """
    for name in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _shipped()
    with contextlib.suppress(Exception):
        connection = connection_loader.get("ssh", PlayContext(), os.devnull)
        connection.set_options(var_options={})
        connection.is_pipelining_enabled()
        connection._shell.set_options(var_options={})


def text_types() -> tuple[type, ...]:
    """Return the types that a playbook's texts have; from 2.19 on there is one that carries tags."""
    try:
        from ansible.module_utils._internal._datatag import _AnsibleTaggedStr
    except ImportError:
        return (str,)
    return (str, _AnsibleTaggedStr)


# ---- options ----------------------------------------------------------------------------------------


def option_origin(connection: Any, option: str, variables: Mapping[str, Any] | None) -> str:
    """Say where an option's value comes from: ``default``, or a place the user wrote it in."""
    origins = getattr(connection, "_origins", None)
    if origins is not None and option in origins:
        return str(origins[option])
    _, origin = C.config.get_config_value_and_origin(
        option, plugin_type="connection", plugin_name=connection._load_name, variables=variables
    )
    return str(origin)


def pipelining_is_open(connection: Any, variables: Mapping[str, Any] | None) -> bool:
    """Say whether the user has left it to the defaults if modules are pipelined over this connection."""
    try:
        return option_origin(connection, "pipelining", variables) == "default"
    except (AnsibleError, KeyError):
        # A plugin without the option: core takes the configuration's.
        return str(C.config.get_config_value_and_origin("ANSIBLE_PIPELINING")[1]) == "default"


def pipelining_is_off() -> bool:
    """Say whether the configuration, not a variable, switches pipelining off for ssh."""
    value, origin = C.config.get_config_value_and_origin(
        "pipelining", plugin_type="connection", plugin_name="ssh"
    )
    return origin != "default" and not value


def register_options(connection: Any, name: str) -> None:
    """Make a connection's option definitions known under a second name (ansible fact 22)."""
    if not C.config.has_configuration_definition("connection", name):
        options = C.config.get_configuration_definitions("connection", connection._load_name)
        C.config.initialize_plugin_configuration_definitions("connection", name, options)


def is_wrapped(become: Any, command: str) -> bool:
    """Say whether core has wrapped a command into this become plugin's; it does not for the same user."""
    mark = getattr(become, "success", None)
    return bool(mark and mark in command)


def connection_password(connection: Any) -> str | None:
    """Return the password that core would hand to ssh."""
    password = connection.get_option("password") or connection._play_context.password
    return None if password is None else str(password)


def scratch_directory() -> str:
    """Return the directory that only this run uses; core puts temporary key files into it."""
    return str(C.DEFAULT_LOCAL_TMP)


# ---- spawning ssh as core does -----------------------------------------------------------------------


@dataclass
class Channel:
    """How core gives ssh its password: a prefix to the arguments, an environment, a pipe."""

    prefix: list[bytes] = field(default_factory=list)
    environ: dict[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    new_session: bool = False


@contextlib.contextmanager
def password_channel(connection: Any) -> Iterator[Channel]:
    """Prepare core's password mechanism for one more ssh; clean up whatever happens (ansible fact 15).

    Leave it only when ssh has logged in or ended: the askpass helper reads the shared memory late.
    """
    channel = Channel()
    try:
        _use_askpass(connection, channel)
        _use_sshpass(connection, channel)
        yield channel
    finally:
        close_sshpass_pipe(connection)
        _drop_shared_memory(connection)


def _use_askpass(connection: Any, channel: Channel) -> None:
    init = getattr(connection, "_init_shm", None)
    arguments = init() if init is not None else {}
    channel.environ = arguments.get("env")
    channel.new_session = bool(arguments.get("start_new_session"))


def _use_sshpass(connection: Any, channel: Channel) -> None:
    """Fill the pipe that sshpass reads; a password fits into it, so nobody has to read first."""
    command = getattr(connection, "_sshpass_cmd", None)
    if command is not None:
        channel.prefix = command()
    pipe = getattr(connection, "sshpass_pipe", None)
    if pipe:
        os.write(pipe[1], os.fsencode(connection_password(connection) or "") + b"\n")
        channel.pass_fds = (pipe[0],)


def _drop_shared_memory(connection: Any) -> None:
    memory = getattr(connection, "shm", None)
    if memory is None:
        return
    memory.close()
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()
    connection.shm = None


@contextlib.contextmanager
def own_sshpass_pipe(connection: Any) -> Iterator[None]:
    """Keep the pipe of the command that core has built while another ssh command is built and started."""
    kept = getattr(connection, "sshpass_pipe", None)
    connection.sshpass_pipe = None
    try:
        yield
    finally:
        connection.sshpass_pipe = kept


def close_sshpass_pipe(connection: Any) -> None:
    """Close the pipe of a command that will not be run after all."""
    for descriptor in getattr(connection, "sshpass_pipe", None) or ():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    connection.sshpass_pipe = None


# ---- becoming another user ----------------------------------------------------------------------------


def watch_escalation(connection: Any) -> dict[str, bool]:
    """Return the flags that core's own `_examine_output` will set from now on."""
    flags = dict.fromkeys(("become_prompt", "become_success", "become_error", "become_nopasswd_error"), False)
    connection._flags = flags
    return flags


def escalation_timeout(words: str) -> AnsibleError:
    """Return what core raises for a prompt that does not come: UNREACHABLE from 2.17 on, FAILED before."""
    unreachable = "AnsibleConnectionFailure('Timeout (" in inspect.getsource(stock_ssh)
    return AnsibleConnectionFailure(words) if unreachable else AnsibleError(words)


def becomes(connection: Any) -> bool:
    """Say whether core will wrap this connection's commands: not where become changes nothing."""
    plugin = connection.become
    if plugin is None:
        return False
    login = remote_user(connection)
    target = become_user(plugin, connection._play_context)
    return bool(C.BECOME_ALLOW_SAME_USER or target != login or not (target or login))


def become_user(plugin: Any, play_context: Any) -> str:
    """Return the account that a become plugin changes to; empty for its default."""
    return str(plugin.get_option("become_user", playcontext=play_context) or "")


def remote_user(connection: Any) -> str:
    """Return the account that commands run as, as far as core knows it; empty if ssh's configuration says."""
    try:
        user = connection.get_option("remote_user")
    except KeyError:
        user = connection._play_context.remote_user
    return str(user or "")


def directory_made_by_core(connection: Any) -> str:
    """Return the directory in which modules have their temporary files, if core would make it without a word.

    Core does where it copies modules, apart from those of an unprivileged account that it becomes: these make
    it themselves, as pipelined ones do, and warn of it. Core makes it as the login user; outside the home of
    whoever is become it must not come to be as somebody else's.
    """
    shell, plugin = connection._shell, connection.become
    try:
        directory = str(shell.get_option("remote_tmp"))
        target = become_user(plugin, connection._play_context) if plugin else ""
        if not target:
            return directory
        has_own = target in (*shell.get_option("admin_users"), remote_user(connection))
        return directory if has_own and directory.startswith("~/") else ""
    except KeyError:
        return ""


def local_become_trouble(connection: Any) -> str:
    """Say why core cannot take an agent on this machine past its become plugin; empty if it can."""
    if not hasattr(connection, "_ensure_become_success"):
        return f"local connections of ansible-core {CORE_VERSION} have no way of their own past a prompt"
    if not connection.get_option("become_strip_preamble"):
        return "what it prints itself is to be seen"
    return ""


def ensure_become_success(connection: Any, process: Any) -> None:
    """Let core wait for the success mark of a command on this machine, and answer its prompt.

    :param process: has `stdin`, `stdout` and `stderr`, as a `subprocess.Popen`.
    :raises AnsibleError: in core's words.
    """
    connection._ensure_become_success(process, None, True)


def keeps_remote_files() -> bool:
    """Say whether the user wants to see the files that core puts on targets."""
    return bool(C.DEFAULT_KEEP_REMOTE_FILES)


# More calls than lie between `asks_for_pipelining` and whoever has asked a connection for the option.
_ASKED_THROUGH = 8


def asks_for_pipelining() -> bool:
    """Say whether an option is asked for by core about to run a module, in releases before 2.19.

    Later ones ask the connection's `is_pipelining_enabled`; these read the option, as does whoever only
    wants to know what `ansible_pipelining` is.
    """
    frame = inspect.currentframe()
    for _ in range(_ASKED_THROUGH):
        if frame is None:
            break
        if frame.f_code.co_name == "_is_pipelining_enabled":
            return not frame.f_locals.get("wrap_async")
        frame = frame.f_back
    return False


# ---- failures in core's own words --------------------------------------------------------------------


def ssh_failed(connection: Any, cmd: list[bytes], rc: int, stderr: bytes, has_input: bool) -> None:
    """Raise what core's `_bare_run` raises when ssh itself ended with `rc`; return where it returns.

    For ssh that failed before anything was sent: core may try again.
    """
    words = stderr.decode(errors="replace")
    if rc in range(1, 7) and hasattr(connection, "_sshpass_cmd") and cmd[0] != b"sshpass":
        # Core's retry loop knows sshpass's exit status by the name of the program, which its own
        # `_bare_run` puts in front of this very list.
        cmd.insert(0, b"sshpass")
    if _host_key_trouble(connection, rc, stderr):
        raise AnsibleError(
            "Using a SSH password instead of a key is not possible because Host Key checking is enabled. "
            "Please add this host's fingerprint to your known_hosts file to manage this host."
        )
    if rc == 255 and b"mux_client_hello_exchange: write packet: Broken pipe" in stderr:
        raise stock_ssh.AnsibleControlPersistBrokenPipeError(
            f"Data could not be sent because of ControlPersist broken pipe: {words}"
        )
    if rc == 255 and has_input:
        raise AnsibleConnectionFailure(_not_sent(connection, words))


def run_lost(connection: Any, stderr: bytes, has_input: bool) -> NoReturn:
    """Raise UNREACHABLE for a command that may have run, in the words core uses for exit status 255.

    Without a context: from 2.19 on core would tell what was being handled here as the cause.
    """
    if connection._play_context.no_log:
        # Rule 8: what the command wrote is not repeated.
        raise RunLost("Failed to connect to the host via ssh: <error censored due to no log>") from None
    words = stderr.decode(errors="replace")
    if has_input:
        raise RunLost(_not_sent(connection, words)) from None
    # Here, and only here, core takes the end of the line away.
    raise RunLost(f"Failed to connect to the host via ssh: {words.rstrip()}") from None


def agent_lost(connection: Any, stderr: bytes) -> NoReturn:
    """Raise UNREACHABLE for a command that may have run; core has no words for these connections."""
    words = (
        "<error censored due to no log>"
        if connection._play_context.no_log
        else stderr.decode(errors="replace")
    )
    raise RunLost(f"The connection was lost: {words}")


def is_connection_failure(stdout: bytes, stderr: bytes) -> bool:
    """Say whether core takes an exit status of 255 with this output for a failure of ssh."""
    return not any(mark in stdout or mark in stderr for mark in stock_ssh.b_NOT_SSH_ERRORS)


def _not_sent(connection: Any, words: str) -> str:
    return (
        f'Data could not be sent to remote host "{connection.host}". '
        f"Make sure this host can be reached over ssh: {words}"
    )


def _host_key_trouble(connection: Any, rc: int, stderr: bytes) -> bool:
    if not connection_password(connection) or not connection.get_option("host_key_checking"):
        return False
    return rc == 6 or (
        hasattr(connection, "_init_shm")
        and (b"Host key verification failed" in stderr or b"can't open /dev/tty" in stderr)
    )


# ---- building a connection in the main process --------------------------------------------------------


def forks() -> int:
    """Return how many hosts core serves at the same time."""
    return int(context.CLIARGS.get("forks") or C.DEFAULT_FORKS)


def batch(play: Any) -> list[Any]:
    """Return the hosts of the current batch, in core's order, without those that an earlier play lost."""
    inventory = play.get_variable_manager()._inventory
    hosts = inventory.get_hosts(play.hosts, order=play.order)
    return [host for host in hosts if host.name not in play._removed_hosts]


def gathers_facts(play: Any) -> bool:
    """Say whether the play begins with the implicit setup task on every host."""
    if play.gather_facts is None:
        return bool(C.DEFAULT_GATHERING == "implicit")
    return play.gather_facts is True


class FirstTask(NamedTuple):
    """What decides whether a play's first task reaches every host."""

    when: bool
    run_once: bool
    delegate_to: bool
    loops: bool


def first_task(play: Any) -> FirstTask | None:
    """Look at the first task of a play; None if it is not certain which one that is."""
    task = _first_task(play)
    if task is None:
        return None
    return FirstTask(
        when=bool(task.when or task._parent.when),
        run_once=bool(task.run_once),
        delegate_to=bool(task.delegate_to),
        loops=bool(task.loop or task.loop_with),
    )


def first_loop_has_items(play: Any, host: Any) -> bool:
    """Say whether the first task's loop is certain to have items for a host.

    Found without templating, for that could run a lookup: only lists that are there as such are seen.
    """
    task = _first_task(play)
    if task is None or task.loop_with:
        return False
    if isinstance(task.loop, list):
        return bool(task.loop)
    variables = play.get_variable_manager().get_vars(play=play, host=host, task=task)
    return isinstance(task.loop, str) and _names_items(task.loop, variables)


def _names_items(text: str, variables: Mapping[str, Any]) -> bool:
    """Say whether an expression names a list with items, or is such a list or range itself."""
    try:
        (output,) = jinja2.Environment().parse(text).body
    except (jinja2.TemplateSyntaxError, ValueError):
        return False
    if not isinstance(output, nodes.Output) or len(output.nodes) != 1:
        return False
    expression: Any = output.nodes[0]
    if isinstance(expression, nodes.Name):
        value = variables.get(expression.name)
        return isinstance(value, list) and bool(value)
    if isinstance(expression, nodes.Filter) and expression.name == "list" and not expression.args:
        expression = expression.node
    if isinstance(expression, nodes.List):
        return bool(expression.items)
    return "range" not in variables and _is_range_with_items(expression)


def _is_range_with_items(expression: Any) -> bool:
    if not isinstance(expression, nodes.Call) or getattr(expression.node, "name", "") != "range":
        return False
    numbers: list[Any] = [getattr(argument, "value", None) for argument in expression.args]
    if expression.kwargs or not all(isinstance(number, int) for number in numbers):
        return False
    with contextlib.suppress(TypeError, ValueError):
        return bool(range(*numbers))
    return False


def _first_task(play: Any) -> Any:
    if _selects_tasks() or (play.roles and not play.pre_tasks):
        return None
    blocks = play.pre_tasks or play.tasks
    task = blocks[0].block[0] if blocks and blocks[0].block else None
    if not isinstance(task, Task) or task.action in _WITHOUT_AGENT:
        return None
    return task


def _selects_tasks() -> bool:
    """Say whether the command line leaves some tasks out."""
    chosen = set(context.CLIARGS.get("tags") or ()) - {"all"}
    return bool(chosen or context.CLIARGS.get("skip_tags") or context.CLIARGS.get("start_at_task"))


def connection_for(play: Any, play_context: Any, host: Any) -> tuple[Any, str | None]:
    """Build a host's connection as ``meta: reset_connection`` does; also its Python, if that is fixed."""
    manager, loader = play.get_variable_manager(), play.get_loader()
    task = Block.load({"meta": "noop"}, play=play, variable_manager=manager, loader=loader).block[0]
    variables = manager.get_vars(play=play, host=host, task=task)
    templar = TemplateEngine(loader=loader, variables=variables)
    fixed = play_context.set_task_and_variable_override(task=task, variables=variables, templar=templar)
    fixed.post_validate(templar=templar)
    fixed.remote_addr = fixed.remote_addr or host.address
    fixed.update_vars(variables)
    connection = connection_loader.get(fixed.connection, fixed, os.devnull)
    task_keys = {**task.dump_attrs(), "timeout": fixed.timeout}
    del task_keys["retries"]
    connection.set_options(task_keys=task_keys, var_options=_option_variables(connection, variables, templar))
    fixed.set_attributes_from_plugin(connection)
    connection.host = connection.get_option("host") or fixed.remote_addr
    return connection, _fixed_interpreter(variables, templar)


def _option_variables(connection: Any, variables: Any, templar: Any) -> dict[str, Any]:
    resolve = getattr(connection, "_resolve_option_variables", None)
    if resolve is not None:
        return dict(resolve(variables, templar))
    names = C.config.get_plugin_vars("connection", connection._load_name)
    return {name: templar.template(variables[name]) for name in names if name in variables}


def _fixed_interpreter(variables: Any, templar: Any) -> str | None:
    chosen = variables.get("ansible_python_interpreter")
    if chosen is None:
        chosen = C.config.get_config_value("INTERPRETER_PYTHON", variables=variables)
    else:
        chosen = templar.template(chosen)
    text = str(chosen or "auto")
    return None if text.startswith("auto") or not text.startswith("/") else text


# ---- payloads ----------------------------------------------------------------------------------------


def ships(name: str, crc: int) -> bool:
    """Say whether ansible-core itself ships this file of a payload's zip below ``module_utils``.

    Only such files may be imported by an agent's warm parent. A user's own file may take the place of one of
    them under the same name, and does whatever it likes when it is imported: the content counts as well.
    """
    return name in _shipped() and _checksum(name) == crc


@functools.cache
def _checksum(name: str) -> int:
    """Return the checksum, as zip has it, of a file that ansible-core ships."""
    return zlib.crc32((Path(ansible.__file__).parent.parent / name).read_bytes())


@functools.cache
def _shipped() -> frozenset[str]:
    """List what ansible-core ships, as it is named in a zip."""
    root = Path(ansible.__file__).parent
    return frozenset(
        "ansible/" + os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in os.walk(root / "module_utils")
        for file in files
        if file.endswith(".py")
    )
