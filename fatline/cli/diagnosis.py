# SPDX-License-Identifier: BSD-3-Clause
"""What `fatline doctor` concludes. Pure: facts in, findings out, nothing touched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fatline.ansible import releases

GOOD, NOTE, FAULT = "ok", "note", "FAULT"

STRATEGIES = ("fatline.core.linear", "fatline.core.free", "fatline.core.host_pinned")
CALLBACK = "fatline.core.fatline"
CONNECTIONS = ("fatline.core.ssh", "fatline.core.local")
INVENTORY = "fatline.core.yaml"
INVENTORY_LINE = "enable_plugins = host_list, script, fatline.core.yaml, auto, yaml, ini, toml"
SERVED_TRANSPORTS = frozenset(
    (
        "smart",
        *(
            f"{prefix}{name}"
            for prefix in ("", "ansible.builtin.", "ansible.legacy.")
            for name in ("ssh", "local")
        ),
    )
)
# Those of collections, by their last word: a short name leads to the same plugin.
SERVED_PROGRAMS = frozenset(
    ("buildah", "chroot", "docker", "incus", "jail", "kubectl", "lxc", "lxd", "nsenter", "oc", "podman")
)

# Wire, ssh's stderr and process descriptor of each agent, and a client's share.
DESCRIPTORS_PER_HOST = 4
DESCRIPTORS_OF_MUX = 64
MANY_HOSTS = 500

CONFIGURE = """put one of these into ansible.cfg:
        [defaults]
        strategy = fatline.core.linear
      or, without the deprecation warning that ansible-core 2.19+ prints for strategies of others:
        [defaults]
        callbacks_enabled = fatline.core.fatline"""


@dataclass(frozen=True)
class Option:
    """A setting and where it comes from."""

    value: Any = None
    origin: str = "default"

    @property
    def chosen(self) -> bool:
        """Whether somebody set it."""
        return self.origin != "default"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    level: str
    text: str


@dataclass
class Facts:
    """What there is to judge."""

    core: str
    """Version of ansible-core."""
    package: str
    """Version of the Python package."""
    extension: str
    """Version compiled into the extension."""
    base: Mapping[str, Option] = field(default_factory=dict)
    """ansible-core's settings by name."""
    ssh: Mapping[str, Option] = field(default_factory=dict)
    """The ssh plugin's options by name."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """FATLINE_* variables."""
    collections: Sequence[tuple[Path, str]] = ()
    """Each place that holds the collection, with its version, in the order in which ansible-core looks."""
    other_ansible: str = ""
    """The ansible-playbook in PATH, if it belongs to another Python than this one."""
    yaml_misfit: str = ""
    """Why Fatline's YAML loader does not fit this ansible-core; empty if it does."""
    descriptors: tuple[int, int] = (0, 0)
    """Soft and hard limit of open files."""

    def option(self, name: str) -> Option:
        """A setting of ansible-core; unset where this release does not know it."""
        return self.base.get(name, Option())


def diagnose(facts: Facts) -> Iterator[Finding]:
    """Judge `facts`, the most important first."""
    yield from _door(facts)
    yield from _installation(facts)
    yield from _yaml(facts)
    yield from _fall_backs(facts)
    yield from _limits(facts)


def _door(facts: Facts) -> Iterator[Finding]:
    if facts.environment.get("FATLINE_DISABLE", "0") not in ("", "0"):
        yield Finding(FAULT, "not active: FATLINE_DISABLE is set; everything is stock ansible-core")
        return
    doors = list(_doors(facts))
    for text in doors:
        yield Finding(GOOD, f"active through {text}")
    if not doors:
        yield Finding(FAULT, f"not active: nothing in the configuration names Fatline; {CONFIGURE}")


def _doors(facts: Facts) -> Iterator[str]:
    strategy = facts.option("DEFAULT_STRATEGY")
    if strategy.value in STRATEGIES:
        yield f"the strategy {strategy.value} ({strategy.origin}); a play's own 'strategy:' bypasses it"
    callbacks = facts.option("CALLBACKS_ENABLED")
    if CALLBACK in (callbacks.value or ()):
        adhoc = (
            "" if facts.option("DEFAULT_LOAD_CALLBACK_PLUGINS").value else "; not in ad-hoc 'ansible' runs"
        )
        yield f"the callback {CALLBACK} ({callbacks.origin}){adhoc}"
    transport = facts.option("DEFAULT_TRANSPORT")
    if transport.value in CONNECTIONS:
        yield f"the connection {transport.value} ({transport.origin}): transport only"
    inventory = facts.option("INVENTORY_ENABLED")
    if INVENTORY in (inventory.value or ()):
        yield f"the inventory plugin {INVENTORY} ({inventory.origin}): YAML files only"


def _yaml(facts: Facts) -> Iterator[Finding]:
    if _off(facts, "FATLINE_YAML", default="1"):
        yield Finding(NOTE, "YAML files are parsed by ansible-core: FATLINE_YAML is 0")
    elif facts.yaml_misfit:
        yield Finding(NOTE, f"YAML files are parsed by ansible-core: {facts.yaml_misfit}")
    else:
        yield Finding(GOOD, "YAML files are parsed by Fatline's loader, once one of its plugins is loaded")
    enabled = facts.option("INVENTORY_ENABLED")
    names = list(enabled.value or ())
    if INVENTORY not in names:
        yield Finding(
            GOOD,
            "inventories are loaded by ansible-core's own plugins; large ones in YAML load faster with this "
            f"in the section [inventory] of ansible.cfg:\n        {INVENTORY_LINE}",
        )
    elif first := [name for name in ("auto", "yaml") if name in names[: names.index(INVENTORY)]]:
        yield Finding(
            NOTE,
            f"{INVENTORY} is enabled after {' and '.join(first)} ({enabled.origin}), too late to spare "
            f"the time that takes: {INVENTORY_LINE}",
        )


def _off(facts: Facts, name: str, default: str) -> bool:
    return facts.environment.get(name, default) in ("", "0")


def _installation(facts: Facts) -> Iterator[Finding]:
    if facts.extension != facts.package:
        yield Finding(
            FAULT,
            f"the extension is of version {facts.extension}, the package of {facts.package}: "
            "install Fatline again",
        )
    yield from _collection(facts)
    if releases.series(facts.core) in releases.TESTED:
        yield Finding(GOOD, f"ansible-core {facts.core} is a tested release")
    else:
        yield Finding(
            NOTE, f"ansible-core {facts.core} is not among the tested releases; what does not fit falls back"
        )
    if facts.other_ansible:
        yield Finding(
            FAULT,
            f"ansible-playbook in PATH is {facts.other_ansible}, which belongs to another Python "
            "and cannot see this Fatline",
        )


def _collection(facts: Facts) -> Iterator[Finding]:
    if not facts.collections:
        yield Finding(FAULT, "ansible-core cannot find the collection fatline.core: install Fatline again")
        return
    path, version = facts.collections[0]
    if version != facts.package:
        yield Finding(
            FAULT,
            f"the collection in {path} is of version {version}, the package of {facts.package}: "
            "remove that copy or bring both to one version",
        )
    else:
        yield Finding(GOOD, f"package, extension and collection are of version {version}")
    for other, _ in facts.collections[1:]:
        yield Finding(NOTE, f"another copy of the collection in {other} is hidden by {path}")


def _fall_backs(facts: Facts) -> Iterator[Finding]:
    transport = facts.option("DEFAULT_TRANSPORT")
    if transport.value and not _is_served(str(transport.value)):
        yield Finding(
            NOTE,
            f"transport is {transport.value} ({transport.origin}), which is left alone; "
            "docs/connections.md lists those that are accelerated",
        )
    for option in (facts.ssh.get("pipelining", Option()), facts.option("ANSIBLE_PIPELINING")):
        if option.chosen and option.value is False:
            yield Finding(
                NOTE,
                f"pipelining is turned off ({option.origin}): modules go as files, the stock way; "
                "remove that line, Fatline needs none",
            )
            break
    if facts.option("DEFAULT_KEEP_REMOTE_FILES").value:
        yield Finding(NOTE, "remote files are kept (ANSIBLE_KEEP_REMOTE_FILES): modules go the stock way")
    shell = facts.option("DEFAULT_EXECUTABLE")
    if shell.chosen and shell.value != "/bin/sh":
        yield Finding(
            NOTE,
            f"executable is {shell.value} ({shell.origin}): modules are never accelerated below another "
            "shell than /bin/sh, nor where ansible_shell_executable names one",
        )
    if _off(facts, "FATLINE_BECOME", default="1"):
        yield Finding(NOTE, "tasks with become go the stock way: FATLINE_BECOME is 0")
    elif facts.option("DEFAULT_BECOME").value:
        yield Finding(
            NOTE, "become is on for all tasks: modules run on privileged agents where the plugin takes input"
        )
    yield from _ssh_arguments(facts)


def _is_served(transport: str) -> bool:
    known = transport in SERVED_TRANSPORTS or transport in CONNECTIONS
    return known or transport.rpartition(".")[2] in SERVED_PROGRAMS


def _ssh_arguments(facts: Facts) -> Iterator[Finding]:
    executable = facts.ssh.get("ssh_executable", Option("ssh"))
    if executable.chosen:
        yield Finding(
            NOTE, f"ssh_executable is {executable.value} ({executable.origin}); OpenSSH is expected"
        )
    words = [
        option
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args")
        for option in _ssh_options(str(facts.ssh.get(name, Option("")).value or ""))
    ]
    keys = {word.partition("=")[0].strip().lower(): word.partition("=")[2] for word in reversed(words)}
    if keys.get("requesttty", "").lower() == "force":
        yield Finding(NOTE, "RequestTTY=force in ssh_args: commands go the stock way")
    if "controlpath" in keys or facts.ssh.get("control_path", Option()).chosen:
        yield Finding(NOTE, "a ControlPath of your own is used as it is, for agents too")
    if keys.get("controlpersist", "no").lower() in ("no", "0"):
        yield Finding(
            NOTE, "no ControlPersist in ssh_args: agents end with each run, the next boots them anew"
        )
    else:
        yield Finding(GOOD, f"agents outlive a run by ControlPersist={keys['controlpersist']}")


def _ssh_options(arguments: str) -> Iterator[str]:
    """The values of ``-o`` in an ssh command line."""
    try:
        words = iter(shlex.split(arguments))
    except ValueError:
        return
    for word in words:
        if word == "-o":
            yield next(words, "").replace(" ", "=", 1)
        elif word.startswith("-o"):
            yield word[2:].replace(" ", "=", 1)


def _limits(facts: Facts) -> Iterator[Finding]:
    soft, hard = facts.descriptors
    # The mux raises its own soft limit; only the hard one binds it.
    hosts = (hard - DESCRIPTORS_OF_MUX) // DESCRIPTORS_PER_HOST
    if hard < 0:
        yield Finding(GOOD, f"open files: {soft}, hard limit none")
    elif hosts < MANY_HOSTS:
        yield Finding(
            NOTE, f"open files: hard limit {hard}, enough for about {max(hosts, 0)} hosts at a time"
        )
    else:
        yield Finding(GOOD, f"open files: {soft}, hard limit {hard}: enough for more than {MANY_HOSTS} hosts")
