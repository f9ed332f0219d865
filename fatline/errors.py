# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong, as one family of exceptions.

The extension has a family of its own (``fatline._native.Error``) for one socket and one frame; callers
of the library see only these.
"""

from __future__ import annotations

from fatline.protocol import Death, Refusal


class FatlineError(Exception):
    """Base of everything Fatline raises on purpose."""


class MuxError(FatlineError):
    """The mux cannot be started, or went away."""


class BootError(FatlineError):
    """An agent could not be started.

    Carries what the program that should have become its wire said and how it ended, so that a caller
    can report exactly what that program would have reported alone.
    """

    def __init__(
        self,
        label: str,
        stage: str,
        seconds: float,
        *,
        rc: int | None = None,
        stdout: bytes = b"",
        stderr: bytes = b"",
        reason: str = "",
    ) -> None:
        """Say who, at which stage, and with what last words."""
        words = f"{label}: no agent after {seconds:.1f} s, at stage {stage}"
        if reason:
            words += f": {reason}"
        super().__init__(words)
        self.label = label
        self.stage = stage
        self.seconds = seconds
        self.rc = rc
        self.stdout = stdout
        self.stderr = stderr
        self.reason = reason


class CallTimeout(FatlineError):
    """A deadline passed; the words name host, stage and seconds (rule 1)."""


class Refused(FatlineError):
    """The agent refused a call before anything ran: it may be sent another way (rule 13)."""

    def __init__(self, code: int, reason: str) -> None:
        """Take code and reason of a REFUSED."""
        super().__init__(reason)
        self.code = code
        self.reason = reason

    @property
    def stale(self) -> bool:
        """Whether a fresh agent would take the call."""
        return self.code == Refusal.STALE


class Dead(FatlineError):
    """The mux could not deliver a call, or its agent is gone."""

    def __init__(self, code: int, reason: str) -> None:
        """Take code and reason of an IS_DEAD."""
        super().__init__(reason)
        self.code = code
        self.reason = reason

    @property
    def not_sent(self) -> bool:
        """Whether no byte of the call left the mux: only then may it be tried again (rule 13)."""
        return self.code == Death.NOT_SENT


class RemoteError(FatlineError):
    """An exception of the called function, told by the agent in text (never pickled)."""

    def __init__(self, type: str, message: str, traceback: str = "", errno: int | None = None) -> None:
        """Take what the agent told of an exception."""
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.errno = errno
