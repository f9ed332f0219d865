# SPDX-License-Identifier: BSD-3-Clause
"""A remote Python process and the calls into it (CALL_FUNCTION, docs/protocol.md section 6)."""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from fatline import boot, codec
from fatline.call import Answer, Call
from fatline.client import Client
from fatline.errors import Dead, FatlineError, MuxError
from fatline.files import raise_failure
from fatline.modules import Module, ModuleServer
from fatline.protocol import PAYLOAD_MAX, Flag, Handle, Kind

# Rule 1: every wait has a deadline. A function that may run longer is called with a `timeout` of its own.
CALL_SECONDS = 3600.0

END_SECONDS = 5.0

# A target may fill this process's log only so fast (systems fact 7).
LOG_LINES_PER_SECOND = 200
LOG_BURST = 1000
LOG_LINE_MAX = 8192

_NO_BLOBS = struct.pack("!H", 0)
_INFLATED_SIZE = struct.Struct("!I")


class Context:
    """A Python interpreter on a target, made by `fatline.Router`. Any number of threads may call into it.

    Calls run one at a time, in one process that lives as long as the context: what a function leaves in its
    module is there for the next.
    """

    def __init__(self, client: Client, modules: ModuleServer, label: str, booted: boot.Booted) -> None:
        """Take over a booted agent."""
        self.label = label
        """The host's name in errors and in the names of its loggers."""
        self._client = client
        self._modules = modules
        self._context_id = booted.context_id
        self._pid = booted.pid
        self._log = _RemoteLog(label)

    @property
    def context_id(self) -> int:
        """The agent's id in the mux."""
        return self._context_id

    def call(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = CALL_SECONDS,
        **kwargs: Any,
    ) -> Any:
        """Call `function` on the target and return what it returns.

        The function is one defined at the top of a module or script here; its module, and what that imports,
        is sent when the target asks for it. Arguments and result are None, bool, int, float, str, bytes, and
        lists and dictionaries of these; a tuple arrives as a list.

        Raises NotCallable for a function that the target could not find, TypeError for an argument that
        cannot travel, RemoteError for an exception of the function, Dead when the target is gone, and
        CallTimeout after `timeout` seconds (the target then finishes the call for itself).
        """
        module, name = self._modules.admit(function)
        body = {"module": module, "function": name, "args": list(args), "kwargs": kwargs}
        try:
            payload = codec.pack(body)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"an argument of {name} cannot be sent: {error}") from error
        with Call(self._client, self._context_id, timeout, label=self.label) as call:
            call.send(Handle.CALL_FUNCTION, (_NO_BLOBS, payload))
            return self._answers(call, name)

    def ping(self, timeout: float = 10.0) -> float:
        """Ask the agent for a sign of life; returns the round trip in seconds."""
        return self._client.ping(self._context_id, timeout)

    def shutdown(self) -> None:
        """End the agent and wait until the program that connected it is gone. Harmless when it is already."""
        with contextlib.suppress(Dead, MuxError):
            self._client.shutdown(self._context_id)
        boot.reap(self._pid, END_SECONDS)

    def _answers(self, call: Call, name: str) -> Any:
        while True:
            answer = call.receive(f"call of {name}")
            if answer.kind == Kind.RESULT:
                return codec.unpack(answer.body)
            if answer.kind == Kind.WANT_MODULE:
                self._serve(call, answer)
            elif answer.kind == Kind.LOG:
                self._log.take(answer)
            elif answer.kind != Kind.STARTED:
                raise_failure(answer, "a call")

    def _serve(self, call: Call, answer: Answer) -> None:
        name = codec.unpack(answer.body)
        if not isinstance(name, str):
            raise codec.Malformed("a module was asked for by something that is no name")
        module = self._modules.find(name)
        fields = {"name": name, "package": False, "path": "", "source": None}
        packed = codec.pack(fields if module is None else module._asdict())
        payload = _INFLATED_SIZE.pack(len(packed)) + zlib.compress(packed)
        _check_size(module, payload)
        call.send(Handle.LOAD_MODULE, payload, flags=Flag.COMPRESSED)


def _check_size(module: Module | None, payload: bytes) -> None:
    if module is not None and len(payload) > PAYLOAD_MAX:
        raise FatlineError(f"the module {module.name} is too large to send: {len(payload)} bytes compressed")


class _RemoteLog:
    """Passes a target's log records on to a logger of this process, escaped and at a bounded rate."""

    def __init__(self, label: str) -> None:
        self._logger = logging.getLogger(f"fatline.remote.{label}")
        self._lock = threading.Lock()
        self._budget = float(LOG_BURST)
        self._filled = time.monotonic()
        self._dropped = 0

    def take(self, answer: Answer) -> None:
        """Log one record, or count it as dropped."""
        record = codec.unpack(answer.body)
        if not isinstance(record, list) or len(record) != 3:
            raise codec.Malformed("a log record is not a list of three")
        name, level, text = record
        dropped = self._admit()
        if dropped is None:
            return
        if dropped:
            self._logger.warning("%d lines of the target's log were dropped", dropped)
        if not isinstance(level, int) or not logging.NOTSET <= level <= logging.CRITICAL:
            level = logging.INFO
        words = codec.printable(f"{name}: {text}"[:LOG_LINE_MAX])
        self._logger.log(level, "%s", words)

    def _admit(self) -> int | None:
        """How many records were dropped since the last one let through; None to drop this one too."""
        with self._lock:
            now = time.monotonic()
            self._budget = min(LOG_BURST, self._budget + (now - self._filled) * LOG_LINES_PER_SECOND)
            self._filled = now
            if self._budget < 1:
                self._dropped += 1
                return None
            self._budget -= 1
            dropped, self._dropped = self._dropped, 0
            return dropped
