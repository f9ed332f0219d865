# SPDX-License-Identifier: BSD-3-Clause
"""The other end of a client's socket, in plain Python: frames as docs/protocol.md spells them out."""

from __future__ import annotations

import dataclasses
import socket
import struct

HEADER = struct.Struct("!2sBBIIIIIII")
MAGIC = b"\xfa\x71"
LAST = 2
DEAD = 999
DEADLINE = 10.0


@dataclasses.dataclass
class Frame:
    """One frame as it crosses the wire."""

    handle: int = 0
    payload: bytes = b""
    flags: int = 0
    dst_id: int = 0
    src_id: int = 0
    auth_id: int = 0
    reply_to: int = 0
    stream: int = 0

    def encode(self) -> bytes:
        """The bytes of the frame."""
        return (
            HEADER.pack(
                MAGIC,
                1,
                self.flags,
                self.dst_id,
                self.src_id,
                self.auth_id,
                self.handle,
                self.reply_to,
                self.stream,
                len(self.payload),
            )
            + self.payload
        )


class Peer:
    """Speaks frames on one end of a socket pair, as the mux would."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over the socket."""
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self._data = b""

    def send(self, *frames: Frame) -> None:
        """Send frames in one piece."""
        self.sock.sendall(b"".join(frame.encode() for frame in frames))

    def recv(self) -> Frame:
        """The next frame the client sent."""
        magic, version, flags, dst, src, auth, handle, reply_to, stream, length = HEADER.unpack(
            self._take(HEADER.size)
        )
        assert (magic, version) == (MAGIC, 1)
        return Frame(handle, self._take(length), flags, dst, src, auth, reply_to, stream)

    def welcome(self, context_id: int = 7) -> Frame:
        """Answer the client's HELLO; returns it."""
        hello = self.recv()
        self.send(Frame(hello.reply_to, struct.pack("!HI", 1, context_id), LAST))
        return hello

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            chunk = self.sock.recv(1 << 20)
            if not chunk:
                raise EOFError(f"the client hung up; {len(self._data)} bytes were left over")
            self._data += chunk
        taken, self._data = self._data[:size], self._data[size:]
        return taken
