# SPDX-License-Identifier: GPL-3.0-or-later
"""Make one run use Fatline: what all doors call, once, in the main process."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display

import fatline
from fatline.ansible import (
    ahead,
    archives,
    arrivals,
    defaults,
    imports,
    keys,
    keywords,
    owned,
    parsers,
    releases,
    run,
    summary,
    templates,
    transports,
    versions,
    yaml_hook,
)
from fatline.ansible.switches import disabled

display = Display()
_lock = threading.Lock()


def activate(plugin_file: str | None = None) -> bool:
    """Serve ``ssh``, ``local`` and others with Fatline's connections; say whether Fatline is active.

    Called again, or in a fork of a process in which it was called, it does nothing more. `plugin_file` is
    the door's own file: the collection around it must be of this package's version (ansible fact 34).
    """
    if disabled():
        return False
    with _lock:
        if is_active():
            return True
        yaml_hook.install()
        trouble = versions.misfit() or _collection_mismatch(plugin_file)
        if trouble:
            # Rule 12 forbids warnings inside a task; this is the main process, before the first one.
            display.warning(f"fatline is not active: {trouble}")
            return False
        if remark := releases.remark(versions.CORE_VERSION):
            display.warning(f"fatline: {remark}")
        owned.settle(in_main=True)
        _map_connections()
        arrivals.install()
        atexit.register(_at_exit, os.getpid())
        run.begin()
        return True


def begin_play(play: Any, play_context: Any) -> None:
    """Start connecting a play's hosts; look up meanwhile what every worker would look up for itself."""
    ahead.connect(play, play_context)
    _spare_the_workers()
    ahead.reap()


def print_summary() -> None:
    """Print the counts of this run, once."""
    this = run.current()
    if this.summary_printed or this.main_pid != os.getpid():
        return
    this.summary_printed = True
    display.display(summary.text(this.totals()))


def is_active() -> bool:
    """Say whether this process, or the one it was forked from, has been activated."""
    return bool(getattr(connection_loader.get_with_context, "fatline", False))


def _map_connections() -> None:
    """Let core's loader make its own connection, then turn it into Fatline's.

    Name, options and everything else that core attaches to the object stay those of ``ssh``, ``local`` and so
    on (ansible facts 20 and 21). A user's own plugin of such a name is another class, and left alone.
    """
    original = connection_loader.get_with_context

    @functools.wraps(original)
    def get_with_context(name: str, *args: Any, **kwargs: Any) -> Any:
        result = original(name, *args, **kwargs)
        found = result.object
        if isinstance(found, type):
            return result._replace(object=transports.accelerated(found) or found)
        ours = transports.accelerated(type(found))
        if ours is not None:
            found.__class__ = ours
        return result

    get_with_context.fatline = True  # type: ignore[attr-defined]
    connection_loader.get_with_context = get_with_context


@functools.cache
def _spare_the_workers() -> None:
    """Do once what every forked worker would do again: imports, and names that stay the same."""
    parsers.install()
    defaults.install()
    versions.preload()
    imports.install().refresh()
    archives.install()
    templates.install()
    keywords.install()
    keys.control_path(b"")


def _collection_mismatch(plugin_file: str | None) -> str:
    """Say how the collection's version differs from the package's; empty if it does not."""
    if plugin_file is None:
        return ""
    manifest = Path(plugin_file).resolve().parents[2] / "galaxy.yml"
    try:
        version = str(yaml.safe_load(manifest.read_text(encoding="utf-8"))["version"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        # Installed by ansible-galaxy, which writes MANIFEST.json instead.
        version = _manifest_version(manifest.with_name("MANIFEST.json"))
    if version in ("", fatline.__version__):
        return ""
    return (
        f"the collection fatline.core is of version {version}, the package fatline of {fatline.__version__}"
    )


def _manifest_version(manifest: Path) -> str:
    try:
        return str(yaml.safe_load(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return ""


def _at_exit(main_pid: int) -> None:
    """End what belongs to this run; forks that end as processes usually do have no part in it."""
    if os.getpid() != main_pid:
        return
    ahead.stop()
    this = run.current()
    if summary.wanted() and not this.summary_printed:
        print_summary()
    summary.append(this.totals())
    this.end()
    owned.end()
