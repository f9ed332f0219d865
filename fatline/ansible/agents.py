# SPDX-License-Identifier: BSD-3-Clause
"""Finding a live agent for a connection, or booting one.

Nothing here knows Ansible: a connection says by its keys which agent it means, and how to start one.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fatline.client import Attachment, Client
from fatline.errors import CallTimeout, Dead, MuxError
from fatline.protocol import AttachState

# Systems fact 31: a wire that was silent for longer is probed, because the target may have lost power.
IDLE_SECONDS = 5.0
PROBE_SECONDS = 5.0

# An agent that fails its probe is retired, so a second one that fails was opened meanwhile by somebody
# else. Past this many the host is in trouble that stock ssh describes better.
_ATTEMPTS = 3


class Place(NamedTuple):
    """Which agent is meant, and how it is handed to the mux."""

    key: bytes
    alias: bytes
    label: str
    persist: int
    """Seconds that it stays when nobody is attached."""
    control_path: str | None = None
    """The socket of the ssh master that the connection shares, if it is Fatline's own."""
    transient: bool = False
    """Whether it must not outlive the run: the user wants no persistent connections."""
    owner: int = 0
    """The process that the agent ends with; 0 where it may outlive the run."""
    identity: bytes = b""
    """Names the settings of a privileged agent, whichever its interpreter."""

    @property
    def privileged(self) -> bool:
        """Whether a become plugin starts it."""
        return bool(self.identity)


Start = Callable[[Client, Place], int]
"""Boots an agent, hands its wire to the mux and returns its context id."""


class Agent(NamedTuple):
    """A live agent that this process's client is attached to."""

    context_id: int
    booted: bool = False
    key: bytes = b""
    """Under which it was obtained."""


class Answers:
    """Which agents have answered this process just now: those need not be asked for again.

    The items of a loop run in one process, and asking the mux costs each a round trip. A client stays
    attached to its agents, so what may have happened meanwhile may also happen between asking and calling.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._last: weakref.WeakKeyDictionary[Client, dict[bytes, tuple[int, float]]]
        self._last = weakref.WeakKeyDictionary()

    def note(self, client: Client, agent: Agent) -> None:
        """Remember that an agent has answered."""
        self._last.setdefault(client, {})[agent.key] = agent.context_id, time.monotonic()

    def forget(self, client: Client) -> None:
        """Ask for every agent again."""
        self._last.pop(client, None)

    def get(self, client: Client, key: bytes) -> Agent | None:
        """Return the agent of a key that has answered so lately that it needs no probe."""
        context_id, when = self._last.get(client, {}).get(key, (0, 0.0))
        if not context_id or time.monotonic() - when > IDLE_SECONDS:
            return None
        return Agent(context_id, key=key)


answers = Answers()


def obtain(client: Client, place: Place, start: Start, timeout: float) -> Agent:
    """Return the agent of `place`, booted with `start` if there is none.

    :raises BootError: from `start`; the lease is given back first, so that no other client waits in vain.
    """
    known = answers.get(client, place.key)
    if known is not None:
        return known
    for _ in range(_ATTEMPTS):
        found = client.attach(place.key, lease=True, timeout=timeout)
        if found.state == AttachState.LEASE:
            return Agent(_boot(client, place, start), booted=True, key=place.key)
        if _alive(client, found, place.control_path):
            return Agent(found.context_id, key=place.key)
    raise CallTimeout(
        f"{place.label}: {_ATTEMPTS} agents in turn did not answer within {PROBE_SECONDS:.0f} s"
    )


def find(client: Client, alias: bytes, control_path: str | None) -> Agent | None:
    """Return the newest agent of a connection, if it is alive; never boot one."""
    found = client.attach(alias, lease=False)
    if found.state != AttachState.FOUND or not _alive(client, found, control_path):
        return None
    return Agent(found.context_id)


def retire_all(client: Client, alias: bytes) -> int:
    """Let no further task find any agent of a connection; return how many there were."""
    answers.forget(client)
    count = 0
    for context_id in _attached(client, alias):
        client.retire(context_id)
        count += 1
    return count


def end_all(client: Client, alias: bytes, timeout: float) -> int:
    """End all agents of an alias and wait until nothing of them is left on the target; return how many.

    Rule 11. An ssh process ends after the program it ran, so its end says that the account is free. Calls
    under way are left alone: under stock as well, whoever removes an account in use is told so.
    """
    answers.forget(client)
    processes = []
    for context_id in _attached(client, alias):
        processes.append(_ssh_of(client, context_id))
        client.retire(context_id, now=True)
    deadline = time.monotonic() + timeout
    for pidfd in processes:
        if pidfd >= 0:
            select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
            os.close(pidfd)
    return len(processes)


def _ssh_of(client: Client, context_id: int) -> int:
    """Return a pidfd of the ssh process behind an agent; -1 if it is gone already."""
    match = re.search(rf"^agent {context_id} \S+ pid (\d+) ", client.status(), re.MULTILINE)
    try:
        return os.pidfd_open(int(match[1])) if match else -1
    except OSError:
        return -1


def _attached(client: Client, alias: bytes) -> Iterator[int]:
    """Yield each agent of a connection; the caller retires one before it asks for the next."""
    seen: set[int] = set()
    while True:
        found = client.attach(alias, lease=False)
        if found.state != AttachState.FOUND or found.context_id in seen:
            return
        seen.add(found.context_id)
        yield found.context_id


def _alive(client: Client, found: Attachment, control_path: str | None) -> bool:
    """Say whether an agent can be used; one that is silent is retired, with the connection it is on."""
    if found.idle_seconds <= IDLE_SECONDS:
        return True
    try:
        client.ping(found.context_id, PROBE_SECONDS)
    except Dead:
        return False
    except CallTimeout:
        _abandon_master(control_path)
        client.retire(found.context_id)
        return False
    return True


def _abandon_master(control_path: str | None) -> None:
    """Let no further ssh ride a master whose connection is dead: it would hang there for ever."""
    if control_path is not None:
        with contextlib.suppress(OSError):
            os.unlink(control_path)


def _boot(client: Client, place: Place, start: Start) -> int:
    """Boot an agent under the lease on its key; whatever fails gives the lease back."""
    try:
        return start(client, place)
    except BaseException:
        with contextlib.suppress(MuxError, CallTimeout, Dead):
            client.abandon(place.key)
        raise
