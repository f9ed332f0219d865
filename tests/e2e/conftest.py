# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the end-to-end tests: private ssh servers, slow links and a mux of the test's own.

Everything is real: OpenSSH on loopback, the mux, agents in their own interpreters. No test shares a mux with
another or with the user, and none leaves a process behind.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pypi_collections
import pytest
from e2e_support import MakeRelay, MakeSshd, mux_pid, wait_gone

from fatline import client as client_module
from fatline import mux
from fatline.cli.bench.relay import Relay
from fatline.cli.sandbox import Keys, PrivateSshd, SandboxError
from fatline.client import Client, get_client
from fatline.router import Router


@pytest.fixture(scope="session")
def ssh_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """One pair of host and login keys for all servers."""
    return Keys.generate(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def collections() -> Path:
    """Where the collections are whose connection plugins Fatline stands in for."""
    found = pypi_collections.installed()
    if found is None:
        pytest.skip("the collections could not be fetched; see tests/e2e/pypi_collections.py")
    return found


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory, ssh_keys: Keys) -> Iterator[PrivateSshd]:
    """A server that takes any number of logins at a time."""
    try:
        with PrivateSshd(tmp_path_factory.mktemp("sshd"), keys=ssh_keys, max_startups="200") as server:
            yield server
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def make_sshd(tmp_path: Path, ssh_keys: Keys) -> Iterator[MakeSshd]:
    """Start further servers: `make_sshd(options=[...], environment={...}, max_startups="...")`."""
    with contextlib.ExitStack() as servers:

        def make(**settings: object) -> PrivateSshd:
            directory = Path(tempfile.mkdtemp(prefix="sshd-", dir=tmp_path))
            server = PrivateSshd(directory, keys=ssh_keys, **settings)  # type: ignore[arg-type]
            try:
                return servers.enter_context(server)
            except SandboxError as error:
                pytest.skip(str(error))

        yield make


@pytest.fixture
def make_relay() -> Iterator[MakeRelay]:
    """Put a link in front of a server: `make_relay(sshd, rtt=0.05)`."""
    with contextlib.ExitStack() as relays:

        def make(server: PrivateSshd, rtt: float = 0.0) -> Relay:
            return relays.enter_context(Relay((server.host, server.port), rtt))

        yield make


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The mux's directory: new for every test, and its mux ends with the test."""
    # Not below tmp_path: its name is long, and a socket's may not be.
    directory = Path(tempfile.mkdtemp(prefix="fatline-test-"))
    monkeypatch.setenv("FATLINE_RUNTIME_DIR", str(directory))
    monkeypatch.delenv("FATLINE_DISABLE", raising=False)
    yield directory
    _disconnect()
    _stop_mux()
    shutil.rmtree(directory)


@pytest.fixture
def client(runtime_dir: Path) -> Client:
    """This process's connection to the test's mux."""
    return get_client()


@pytest.fixture
def router(runtime_dir: Path) -> Iterator[Router]:
    """A router whose contexts end with the test."""
    with Router() as made:
        yield made


def _stop_mux() -> None:
    native = mux.find()
    if native is not None:
        client = Client(native)
        pid = mux_pid(client)
        client.stop()
        wait_gone([pid])


def _disconnect() -> None:
    if client_module._client is not None:
        client_module._client.close()
