"""The messages inside the CopyData of a WAL stream. All integers are big-endian.

Times are microseconds since 2000-01-01 00:00 UTC. Positions are "last byte + 1"; 0 is unknown.

Source: walsender.c, walreceiver.c (PostgreSQL 18).
"""

import struct
import time
from dataclasses import dataclass

from pgbackup.errors import ClientError, ProtocolViolation
from pgbackup.pg.lsn import Lsn

XLOG_DATA = ord("w")
KEEPALIVE = ord("k")

STATUS_UPDATE = ord("r")
HOT_STANDBY_FEEDBACK = ord("h")

XLOG_DATA_HEADER = struct.Struct("!cQQq")
KEEPALIVE_MESSAGE = struct.Struct("!cQq?")
STANDBY_STATUS = struct.Struct("!cQQQq?")
STANDBY_FEEDBACK = struct.Struct("!cqIIII")

EPOCH_DIFFERENCE = 946_684_800_000_000
"""Microseconds from 1970-01-01 to 2000-01-01."""


@dataclass(frozen=True, slots=True)
class XLogData:
    """WAL bytes. data: a view that is valid until the next receive."""

    start: Lsn
    server_end: Lsn
    send_time: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server's position, and whether it wants to hear from us at once."""

    server_end: Lsn
    send_time: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """How far a standby is; 0 is not known."""

    write: Lsn
    flush: Lsn
    apply: Lsn
    send_time: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class HotStandbyFeedback:
    """What a standby's queries need to see. A repository removes no rows, so nobody asks."""

    send_time: int


def now() -> int:
    """The time as these messages tell it."""
    return time.time_ns() // 1000 - EPOCH_DIFFERENCE


def parse_stream_message(payload: memoryview) -> XLogData | Keepalive:
    """Read a message of a physical WAL stream. Raises: ProtocolViolation."""
    kind = payload[0] if len(payload) else 0
    if kind == XLOG_DATA and len(payload) >= XLOG_DATA_HEADER.size:
        _, start, end, sent = XLOG_DATA_HEADER.unpack_from(payload)
        return XLogData(Lsn(start), Lsn(end), sent, payload[XLOG_DATA_HEADER.size :])
    if kind == KEEPALIVE and len(payload) >= KEEPALIVE_MESSAGE.size:
        _, end, sent, reply = KEEPALIVE_MESSAGE.unpack_from(payload)
        return Keepalive(Lsn(end), sent, reply)
    raise ProtocolViolation(
        f"the server sent an unknown or short message in its WAL stream ({len(payload)} bytes,"
        f" type {kind})"
    )


def standby_status(write: Lsn, flush: Lsn, apply: Lsn, *, reply: bool = False) -> bytes:
    """Build the feedback message 'r'."""
    return STANDBY_STATUS.pack(b"r", write, flush, apply, now(), reply)


def xlog_data_header(start: Lsn, server_end: Lsn) -> bytes:
    """Build what stands before the WAL bytes in a message 'w'."""
    return XLOG_DATA_HEADER.pack(b"w", start, server_end, now())


def keepalive(server_end: Lsn, *, reply: bool = False) -> bytes:
    """Build the message 'k'."""
    return KEEPALIVE_MESSAGE.pack(b"k", server_end, now(), reply)


def parse_standby_message(payload: bytes) -> StandbyStatus | HotStandbyFeedback:
    """Read what a standby says in its stream; bytes behind a message are ignored.

    Raises: ClientError for a short message, ProtocolViolation for an unknown one: after that
        PostgreSQL closes the connection without a word.
    """
    if not payload:
        raise ClientError("no data left in message", sqlstate="08P01")
    kind = payload[0]
    if kind not in (STATUS_UPDATE, HOT_STANDBY_FEEDBACK):
        raise ProtocolViolation(f'unexpected message type "{chr(kind)}"')
    try:
        if kind == HOT_STANDBY_FEEDBACK:
            return HotStandbyFeedback(STANDBY_FEEDBACK.unpack_from(payload)[1])
        _, write, flush, apply, sent, reply = STANDBY_STATUS.unpack_from(payload)
    except struct.error as error:
        raise ClientError("insufficient data left in message", sqlstate="08P01") from error
    return StandbyStatus(Lsn(write), Lsn(flush), Lsn(apply), sent, reply)
