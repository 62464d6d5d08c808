"""The messages inside the CopyData of a WAL stream. All integers are big-endian.

Times are microseconds since 2000-01-01 00:00 UTC. Positions are "last byte + 1"; 0 is unknown.

Source: walsender.c, walreceiver.c (PostgreSQL 18).
"""

import struct
import time
from dataclasses import dataclass

from pgbackup.errors import ProtocolViolation
from pgbackup.pg.lsn import Lsn

XLOG_DATA = ord("w")
KEEPALIVE = ord("k")

XLOG_DATA_HEADER = struct.Struct("!cQQq")
KEEPALIVE_MESSAGE = struct.Struct("!cQq?")
STANDBY_STATUS = struct.Struct("!cQQQq?")

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
    now = time.time_ns() // 1000 - EPOCH_DIFFERENCE
    return STANDBY_STATUS.pack(b"r", write, flush, apply, now, reply)
