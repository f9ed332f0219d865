# SPDX-License-Identifier: BSD-3-Clause
"""``fatline doctor --host``: reach one host with the library, then with ansible-core itself."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import time
from typing import Any

import fatline
from fatline.cli.tools import ansible_command
from fatline.errors import BootError, FatlineError

ASK_SECONDS = 60.0
CALL_SECONDS = 20.0
RUN_SECONDS = 120.0
SHOWN_STDERR_LINES = 5


def check(host: str, inventory: str | None) -> bool:
    """Print what reaching `host` took; whether both ways did."""
    source = ["-i", inventory] if inventory else []
    variables = _variables(host, source)
    if variables is None:
        return False
    return _boot(host, variables) & _ping(host, source)


def _variables(host: str, source: list[str]) -> dict[str, Any] | None:
    command = [*ansible_command("ansible-inventory"), *source, "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    if done.returncode:
        print(f"  not in the inventory: {done.stderr.strip()}")
        return None
    variables: dict[str, Any] = json.loads(done.stdout)
    return variables


def _boot(host: str, variables: dict[str, Any]) -> bool:
    """Boot an agent with the library: no password, no prompt, so that only keys and ssh itself are tried."""
    started = time.monotonic()
    try:
        with fatline.Router() as router:
            context = router.ssh(**_ssh_parameters(host, variables))
            booted = time.monotonic()
            version = context.call(platform.python_version, timeout=CALL_SECONDS)
            called = time.monotonic()
            context.call(platform.python_version, timeout=CALL_SECONDS)
            print(
                f"  agent: Python {version}, booted in {booted - started:.3f} s, "
                f"first call {_ms(called - booted)}, next {_ms(time.monotonic() - called)}"
            )
            return True
    except BootError as error:
        print(f"  agent: {error}")
        for line in error.stderr.decode(errors="replace").splitlines()[-SHOWN_STDERR_LINES:]:
            print(f"    ssh: {line!r}")
    except FatlineError as error:
        print(f"  agent: {error}")
    return False


def _ssh_parameters(host: str, variables: dict[str, Any]) -> dict[str, Any]:
    arguments = ["-o", "BatchMode=yes"]
    if key := variables.get("ansible_ssh_private_key_file", variables.get("ansible_private_key_file")):
        arguments += ["-i", os.path.expanduser(str(key))]
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        arguments += shlex.split(str(variables.get(name, "")))
    port = variables.get("ansible_port", variables.get("ansible_ssh_port"))
    return {
        "hostname": str(variables.get("ansible_host", variables.get("ansible_ssh_host", host))),
        "username": variables.get("ansible_user", variables.get("ansible_ssh_user")),
        "port": int(port) if port else None,
        "python_path": _interpreter(variables),
        "ssh_args": arguments,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _interpreter(variables: dict[str, Any]) -> str:
    named = str(variables.get("ansible_python_interpreter", "python3"))
    return "python3" if named.startswith("auto") else named


def _ping(host: str, source: list[str]) -> bool:
    """Run ``ansible -m ping`` twice under Fatline and show what it says of itself."""
    command = [*ansible_command("ansible"), *source, host, "-m", "ansible.builtin.ping", "-vvv"]
    environment = {**os.environ, "ANSIBLE_STRATEGY": "fatline.core.linear", "ANSIBLE_NOCOLOR": "1"}
    worked = True
    for attempt in ("first", "second"):
        started = time.monotonic()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
        )
        seconds = time.monotonic() - started
        verdict = "pong" if done.returncode == 0 else f"failed with status {done.returncode}"
        print(f"  ansible -m ping, {attempt} run: {verdict}, {seconds:.2f} s")
        for line in done.stdout.splitlines():
            if "fatline:" in line:
                print(f"    {line.strip()}")
        worked = worked and done.returncode == 0
    return worked
