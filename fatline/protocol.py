# SPDX-License-Identifier: BSD-3-Clause
"""The numbers of the wire protocol, under the names of ``docs/protocol.md``.

Each number comes from ``csrc/core/protocol.def`` through the extension; the names are spelled out so that
type checkers and readers see them, and a test holds both lists equal.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fatline import _native

PAYLOAD_MAX: int = _native.PAYLOAD_MAX
"""Longest payload of one frame, in bytes."""

PROTOCOL_VERSION: int = _native.PROTOCOL_VERSION
"""The one version of the protocol this build speaks."""


class Handle(IntEnum):
    """What a message is for (frame field ``handle``)."""

    GET_MODULE = _native.HANDLES["GET_MODULE"]
    CALL_FUNCTION = _native.HANDLES["CALL_FUNCTION"]
    FORWARD_LOG = _native.HANDLES["FORWARD_LOG"]
    ADD_ROUTE = _native.HANDLES["ADD_ROUTE"]
    DEL_ROUTE = _native.HANDLES["DEL_ROUTE"]
    ALLOCATE_ID = _native.HANDLES["ALLOCATE_ID"]
    SHUTDOWN = _native.HANDLES["SHUTDOWN"]
    LOAD_MODULE = _native.HANDLES["LOAD_MODULE"]
    FORWARD_MODULE = _native.HANDLES["FORWARD_MODULE"]
    DETACHING = _native.HANDLES["DETACHING"]
    CALL_SERVICE = _native.HANDLES["CALL_SERVICE"]
    GET_RESOURCE = _native.HANDLES["GET_RESOURCE"]
    LOAD_RESOURCE = _native.HANDLES["LOAD_RESOURCE"]
    HELLO = _native.HANDLES["HELLO"]
    PUT_BLOB = _native.HANDLES["PUT_BLOB"]
    NEED_BLOB = _native.HANDLES["NEED_BLOB"]
    DROP_BLOB = _native.HANDLES["DROP_BLOB"]
    EXEC = _native.HANDLES["EXEC"]
    CANCEL = _native.HANDLES["CANCEL"]
    FILE = _native.HANDLES["FILE"]
    DATA = _native.HANDLES["DATA"]
    CREDIT = _native.HANDLES["CREDIT"]
    PING = _native.HANDLES["PING"]
    ATTACH = _native.HANDLES["ATTACH"]
    OPEN = _native.HANDLES["OPEN"]
    ABANDON = _native.HANDLES["ABANDON"]
    RETIRE = _native.HANDLES["RETIRE"]
    STATUS = _native.HANDLES["STATUS"]
    STOP = _native.HANDLES["STOP"]
    IS_DEAD = _native.HANDLES["IS_DEAD"]
    FIRST_DYNAMIC = _native.HANDLES["FIRST_DYNAMIC"]


class Kind(IntEnum):
    """First payload byte of a message on a reply handle."""

    STARTED = _native.KINDS["STARTED"]
    STDOUT = _native.KINDS["STDOUT"]
    STDERR = _native.KINDS["STDERR"]
    EXIT = _native.KINDS["EXIT"]
    REFUSED = _native.KINDS["REFUSED"]
    GRANT = _native.KINDS["GRANT"]
    RESULT = _native.KINDS["RESULT"]
    ERROR = _native.KINDS["ERROR"]
    OPENED = _native.KINDS["OPENED"]
    CHUNK = _native.KINDS["CHUNK"]
    WANT_BLOB = _native.KINDS["WANT_BLOB"]
    WANT_MODULE = _native.KINDS["WANT_MODULE"]
    LOG = _native.KINDS["LOG"]
    PONG = _native.KINDS["PONG"]


class Flag(IntFlag):
    """Frame field ``flags``."""

    COMPRESSED = _native.FLAGS["COMPRESSED"]
    LAST = _native.FLAGS["LAST"]
    SECRET = _native.FLAGS["SECRET"]


class Refusal(IntEnum):
    """Why an agent refused a call before it started."""

    STALE = _native.REFUSALS["STALE"]
    BUSY = _native.REFUSALS["BUSY"]
    UNSUPPORTED = _native.REFUSALS["UNSUPPORTED"]
    MALFORMED = _native.REFUSALS["MALFORMED"]
    BLOB_MISSING = _native.REFUSALS["BLOB_MISSING"]


class Death(IntEnum):
    """What an IS_DEAD says about the request it answers."""

    NOT_SENT = _native.DEATHS["NOT_SENT"]
    LOST = _native.DEATHS["LOST"]
    REJECTED = _native.DEATHS["REJECTED"]
    OVERRUN = _native.DEATHS["OVERRUN"]


class AttachState(IntEnum):
    """Answer to ATTACH."""

    FOUND = _native.ATTACH_STATES["FOUND"]
    LEASE = _native.ATTACH_STATES["LEASE"]
    NONE = _native.ATTACH_STATES["NONE"]
