"""WAL records of the two resource managers that tell of moments: transactions, and the WAL itself.

Pure: the main data of one record in, a value out. Records are found and proven elsewhere.
"""

import struct
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Timeline

RM_XLOG: Final = 0
RM_XACT: Final = 1

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # timestamp.h, POSTGRES_EPOCH_JDATE
_MICROSECOND = timedelta(microseconds=1)
_UNIX_START = (datetime(1970, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

_COMMIT, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED = 0x00, 0x20, 0x30, 0x40
_OPERATION = 0x70  # of the info of a transaction's record; xact.h, XLOG_XACT_OPMASK
_HAS_XINFO = 0x80
_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE = 0x00, 0x10
_RESTORE_POINT, _END_OF_RECOVERY = 0x70, 0x90
_KIND = 0xF0  # of the info of any record; xlogrecord.h, XLR_RMGR_INFO_MASK

_CHECKPOINT = struct.Struct("<QII48xq")  # redo, timeline, previous timeline, time; pg_control.h
_RECOVERY_END = struct.Struct("<qII")  # xlog_internal.h, xl_end_of_recovery
_TIME = struct.Struct("<q")
_NAME_SIZE = 64  # bytes; xlog_internal.h, MAXFNAMELEN

_DATABASE, _SUBTRANSACTIONS, _RELATIONS, _TWO_PHASE = 0x01, 0x02, 0x04, 0x10
_INVALIDATIONS, _STATISTICS = 0x08, 0x100


class EventKind(IntEnum):
    """What else than transactions is noted of WAL."""

    RESTORE_POINT = 1
    CHECKPOINT_SHUTDOWN = 2
    CHECKPOINT_ONLINE = 3
    END_OF_RECOVERY = 4


class TransactionEnd(NamedTuple):
    """A commit or an abort.

    lsn:  where its record begins.
    time: microseconds since 2000-01-01 UTC.
    """

    lsn: Lsn
    time: int
    xid: int
    is_commit: bool


class WalEvent(NamedTuple):
    """A restore point, a checkpoint, or the end of a recovery.

    lsn:      where its record begins.
    time:     microseconds since 2000-01-01 UTC.
    name:     of a restore point.
    timeline: on which it goes on; of a restore point 0.
    previous: the timeline before; another one where a timeline begins.
    """

    lsn: Lsn
    kind: EventKind
    time: int
    name: str = ""
    timeline: int = 0
    previous: int = 0

    @property
    def is_fork(self) -> bool:
        """Tell whether a timeline begins here."""
        return self.timeline != self.previous


def to_datetime(time: int) -> datetime:
    """A time of PostgreSQL's, microseconds since 2000. One that no calendar has becomes its end."""
    return _EPOCH + min(max(time, _FIRST), _LAST) * _MICROSECOND


def from_datetime(time: datetime) -> int:
    """Microseconds since 2000 for a time with a zone."""
    return (time - _EPOCH) // _MICROSECOND


def parse_transaction(lsn: int, xid: int, info: int, data: bytes, major: int) -> TransactionEnd:
    """Read the main data of a commit's or an abort's record.

    Raises: CorruptData.
    Source: xactdesc.c, ParseCommitRecord and ParseAbortRecord (PostgreSQL 18)
    """
    operation = info & _OPERATION
    try:
        (time,) = _TIME.unpack_from(data)
        if operation in (_COMMIT_PREPARED, _ABORT_PREPARED) and info & _HAS_XINFO:
            xid = _prepared_xid(data, major)
    except struct.error:
        raise CorruptData(f'could not read WAL record "{Lsn(lsn)}": it is too short') from None
    return TransactionEnd(Lsn(lsn), time, xid, operation in (_COMMIT, _COMMIT_PREPARED))


def _prepared_xid(data: bytes, major: int) -> int:
    """The transaction that a record ends which another session wrote. Raises: struct.error."""
    (xinfo,) = struct.unpack_from("<I", data, _TIME.size)
    at = _TIME.size + 4
    if xinfo & _DATABASE:
        at += 8
    lists = (
        (_SUBTRANSACTIONS, 4),
        (_RELATIONS, 12),
        (_STATISTICS, 16 if major >= 18 else 12),
        (_INVALIDATIONS, 16),
    )
    for flag, size in lists:
        if xinfo & flag:
            (count,) = struct.unpack_from("<I", data, at)
            at += 4 + count * size
    if not xinfo & _TWO_PHASE:
        raise struct.error
    xid: int = struct.unpack_from("<I", data, at)[0]
    return xid


def parse_event(lsn: int, info: int, data: bytes) -> WalEvent:
    """Read the main data of a record of the resource manager XLOG.

    Raises: CorruptData.
    Source: xlogdesc.c, xlog_desc (PostgreSQL 18)
    """
    kind = info & _KIND
    try:
        if kind in (_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE):
            _, timeline, previous, seconds = _CHECKPOINT.unpack_from(data)
            is_online = kind == _CHECKPOINT_ONLINE
            return WalEvent(
                Lsn(lsn),
                EventKind.CHECKPOINT_ONLINE if is_online else EventKind.CHECKPOINT_SHUTDOWN,
                min(max(_UNIX_START + seconds * 1_000_000, _FIRST), _LAST),
                timeline=Timeline(timeline),
                previous=Timeline(previous),
            )
        if kind == _END_OF_RECOVERY:
            time, timeline, previous = _RECOVERY_END.unpack_from(data)
            return WalEvent(
                Lsn(lsn),
                EventKind.END_OF_RECOVERY,
                time,
                timeline=Timeline(timeline),
                previous=Timeline(previous),
            )
        (time,) = _TIME.unpack_from(data)
    except struct.error:
        raise CorruptData(f'could not read WAL record "{Lsn(lsn)}": it is too short') from None
    name = data[_TIME.size : _TIME.size + _NAME_SIZE].split(b"\0")[0]
    text = name.decode("utf-8", "surrogateescape")
    return WalEvent(Lsn(lsn), EventKind.RESTORE_POINT, time, text)
