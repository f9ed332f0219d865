# SPDX-License-Identifier: BSD-3-Clause
"""The library's front door: make remote Python interpreters and call functions in them.

import fatline

def uptime():
    with open("/proc/uptime") as file:
        return float(file.read().split()[0])

if __name__ == "__main__":
    with fatline.Router() as router:
        print(router.ssh("web1.example.com").call(uptime))
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Sequence

from fatline import boot
from fatline.client import Client, get_client
from fatline.context import Context
from fatline.errors import FatlineError
from fatline.modules import ModuleServer
from fatline.protocol import AttachState

# Time enough for a person to answer a host key question or to find the phone with the one-time password.
CONNECT_SECONDS = 120.0

_KEY_BYTES = 32


class Router:
    """Makes contexts and ends them. A context manager; `close` does the same by hand.

    Every context is an agent of its own, and ends with this process at the latest.
    """

    def __init__(self, allow_modules: Iterable[str] = ()) -> None:
        """`allow_modules` names modules that targets may import besides what called functions import."""
        self._client: Client = get_client()
        self._modules = ModuleServer(allow_modules)
        self._contexts: list[Context] = []
        self._lock = threading.Lock()

    def local(
        self, python_path: str | Sequence[str] = sys.executable, connect_timeout: float = CONNECT_SECONDS
    ) -> Context:
        """A context in a new interpreter on this machine."""
        launched = boot.launcher(_candidates(python_path), "functions")
        return self._start("local", ["/bin/sh", "-c", launched.command], launched, connect_timeout)

    def ssh(
        self,
        hostname: str,
        username: str | None = None,
        port: int | None = None,
        python_path: str | Sequence[str] = "python3",
        ssh_args: Sequence[str] = (),
        *,
        ssh_path: str = "ssh",
        connect_timeout: float = CONNECT_SECONDS,
    ) -> Context:
        """A context on a host reached by the user's own OpenSSH, with its configuration, agent and prompts.

        `python_path` may list several interpreters, of which the first that the host has is used; `ssh_args`
        are added to ssh's command line as they are. Raises BootError, which carries what ssh said.
        """
        if not hostname or hostname.startswith("-"):
            raise ValueError(f"not a host name: {hostname!r}")
        launched = boot.launcher(_candidates(python_path), "functions")
        argv = [ssh_path, *boot.wire_options(ssh_path), *ssh_args]
        if username is not None:
            argv += ["-l", username]
        if port is not None:
            argv += ["-p", str(port)]
        argv += ["--", hostname, launched.command]
        return self._start(hostname, argv, launched, connect_timeout)

    def close(self) -> None:
        """Shut every context down."""
        with self._lock:
            contexts, self._contexts = self._contexts, []
        for context in contexts:
            with contextlib.suppress(FatlineError):
                context.shutdown()

    def __enter__(self) -> Router:
        """Return the router itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the router."""
        self.close()

    def _start(
        self, label: str, argv: Sequence[str], launched: boot.Launcher, connect_timeout: float
    ) -> Context:
        deadline = time.monotonic() + connect_timeout
        # Never found by another attach: a context's state is its owner's.
        key = secrets.token_bytes(_KEY_BYTES)
        attachment = self._client.attach(key)
        assert attachment.state == AttachState.LEASE, "a random key cannot be in use"
        try:
            booted = boot.start_agent(
                self._client, key, argv, launched, label=label, deadline=deadline, bound=True
            )
        except BaseException:
            with contextlib.suppress(FatlineError):
                self._client.abandon(key)
            raise
        context = Context(self._client, self._modules, label, booted)
        with self._lock:
            self._contexts.append(context)
        return context


def _candidates(python_path: str | Sequence[str]) -> Sequence[str]:
    return [python_path] if isinstance(python_path, str) else python_path
