"""What a client sends, out of the bytes of its connection: packets, then messages with a type.

The reader is told what has arrived, and asked for what is complete. It knows how long each message
may be before it is all there, so that a hostile client costs no more memory than that.

Source: pqcomm.c, pq_getmessage; postgres.c, SocketBackend (PostgreSQL 18).
"""

import struct
from typing import NamedTuple

from pgbackup.errors import ClientError, ProtocolViolation
from pgbackup.wire.startup import MAX_STARTUP_PACKET

COPY_DATA = ord("d")
COPY_DONE = ord("c")
COPY_FAIL = ord("f")
FLUSH = ord("H")
PASSWORD = ord("p")
QUERY = ord("Q")
SYNC = ord("S")
TERMINATE = ord("X")
FUNCTION_CALL = ord("F")
EXTENDED_QUERY = frozenset(b"PBEDC")
"""Messages of the extended protocol; a walsender takes none of them, and no function calls."""

MAX_AUTHENTICATION_MESSAGE = 4096
"""Bytes of any message of somebody whom we do not know yet."""

MAX_QUERY = 1 << 20
MAX_COPY_DATA = 1 << 16
"""What stock clients send of a manifest at once; all else in a COPY is shorter."""

MAX_OTHER = 10_000

_LIMITS = {
    **dict.fromkeys((COPY_DONE, COPY_FAIL, FLUSH, PASSWORD, SYNC, TERMINATE), MAX_OTHER),
    **dict.fromkeys((QUERY, FUNCTION_CALL, *EXTENDED_QUERY), MAX_QUERY),
    COPY_DATA: MAX_COPY_DATA,
}
_LENGTH = struct.Struct("!I")
_HEADER = struct.Struct("!BI")


class Message(NamedTuple):
    """kind: its type byte."""

    kind: int
    body: bytes


class FrontendReader:
    """Bytes in, packets and messages out.

    unread: what has arrived and was not asked for yet.
    """

    def __init__(self) -> None:
        self.unread = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has arrived; after that, ask until there is nothing complete."""
        self.unread += data

    def startup_packet(self) -> bytes | None:
        """Return the next packet without its length, if it is all there.

        Raises: ProtocolViolation.
        """
        if len(self.unread) < _LENGTH.size:
            return None
        length = _LENGTH.unpack_from(self.unread)[0] - _LENGTH.size
        if not 0 < length <= MAX_STARTUP_PACKET:
            raise ProtocolViolation("invalid length of startup packet")
        return self._take(_LENGTH.size, length)

    def message(self, limit: int = MAX_QUERY) -> Message | None:
        """Return the next message, if it is all there.

        limit: bytes of a message of any type; there is one for each type besides.

        Raises: ClientError for an unknown type, ProtocolViolation for a length.
        """
        if self.unread and self.unread[0] not in _LIMITS:
            raise ClientError(f"invalid frontend message type {self.unread[0]}", sqlstate="08P01")
        if len(self.unread) < _HEADER.size:
            return None
        kind, length = _HEADER.unpack_from(self.unread)
        length -= _LENGTH.size
        if not 0 <= length <= min(limit, _LIMITS[kind]):
            raise ProtocolViolation("invalid message length")
        body = self._take(_HEADER.size, length)
        return None if body is None else Message(kind, body)

    def _take(self, header: int, length: int) -> bytes | None:
        if len(self.unread) < header + length:
            return None
        body = bytes(self.unread[header : header + length])
        del self.unread[: header + length]
        return body


def query_text(body: bytes) -> str:
    """The text of a Query, which goes to its end. Raises: ClientError (08P01)."""
    text, nul, rest = body.partition(b"\0")
    if not nul:
        raise ClientError("invalid string in message", sqlstate="08P01")
    if rest:
        raise ClientError("invalid message format", sqlstate="08P01")
    return text.decode("utf-8", "surrogateescape")
