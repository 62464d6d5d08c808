"""The record at which recovery stops: the same comparisons as the server's.

Pure: records in order in, the first that stops recovery out.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.pg.walrecord import EventKind, from_datetime, to_datetime
from pgbackup.repo.moments.walindex import SegmentNotes, WalIndex
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.restore.walsearch import Seen

XID_MASK = 0xFFFFFFFF


class StopPoint(NamedTuple):
    """Where recovery stops.

    end:      everything before this position is in the restored server.
    is_after: the record itself is replayed.
    time:     of the commit, abort or restore point, if it is one.
    """

    start: Lsn
    end: Lsn
    is_after: bool
    time: datetime | None
    xid: int | None
    name: str | None

    @property
    def reached(self) -> Lsn:
        """Behind the last byte that is replayed."""
        return self.end if self.is_after else self.start

    def __str__(self) -> str:
        side = "after" if self.is_after else "before"
        if self.name is not None:
            what = f'restore point "{self.name}"'
        elif self.xid is not None:
            what = f"the end of transaction {self.xid}"
        else:
            what = "the record"
        return f"{side} {what} at {self.start}"


def matcher(target: RecoveryTarget) -> Callable[[Seen], bool]:
    """Tells whether recovery stops at a record.

    Source: xlogrecovery.c, recoveryStopsBefore and recoveryStopsAfter (PostgreSQL 18)
    """
    match target.kind:
        case TargetKind.LSN:
            assert target.lsn is not None
            lsn = target.lsn
            return lambda seen: seen.start >= lsn
        case TargetKind.TIME:
            first = _first_stopping_time(target)
            return lambda seen: seen.transaction is not None and seen.transaction.time >= first
        case TargetKind.XID:
            assert target.xid is not None
            xid = target.xid & XID_MASK
            return lambda seen: seen.transaction is not None and seen.transaction.xid == xid
        case TargetKind.NAME:
            return lambda seen: is_restore_point(seen) and name_of(seen) == target.name
    raise AssertionError(f"{target.kind} is not looked for")


def passes(target: RecoveryTarget, index: WalIndex) -> Callable[[Segment, SegmentNotes], bool]:
    """Tells that recovery cannot stop in a segment, by what is noted of it."""
    match target.kind:
        case TargetKind.LSN:
            assert target.lsn is not None
            lsn = target.lsn
            return lambda segment, notes: segment.start + notes.last_record < lsn
        case TargetKind.TIME:
            first = _first_stopping_time(target)
            return lambda segment, notes: not notes.ends or notes.high_time < first
        case TargetKind.XID:
            assert target.xid is not None
            xid = target.xid & XID_MASK
            return lambda segment, notes: (
                not notes.ends or not notes.low_xid <= xid <= notes.high_xid
            )
    return _Named(target.name, index).passes


def first_stop(records: Iterable[Seen], target: RecoveryTarget) -> StopPoint | None:
    """The first of some records, in order, at which recovery stops."""
    stops = matcher(target)
    for seen in records:
        if stops(seen):
            return _stop_point(seen, target)
    return None


def is_restore_point(seen: Seen) -> bool:
    """Tell whether a record is a restore point."""
    return seen.event is not None and seen.event.kind is EventKind.RESTORE_POINT


def name_of(seen: Seen) -> str | None:
    """The name of a restore point."""
    return seen.event.name if seen.event is not None and is_restore_point(seen) else None


def _stop_point(seen: Seen, target: RecoveryTarget) -> StopPoint:
    is_after = target.kind is TargetKind.NAME or (
        target.is_inclusive and target.kind is not TargetKind.TIME
    )
    time = None
    if seen.transaction is not None:
        time = to_datetime(seen.transaction.time)
    elif is_restore_point(seen) and seen.event is not None:
        time = to_datetime(seen.event.time)
    xid = seen.transaction.xid if seen.transaction is not None else None
    return StopPoint(seen.start, seen.end, is_after, time, xid, name_of(seen))


def _first_stopping_time(target: RecoveryTarget) -> int:
    """The least time, in microseconds since 2000, of a transaction that is left out."""
    assert target.time is not None
    return from_datetime(target.time) + (1 if target.is_inclusive else 0)


class _Named:
    """Knows the segments that have a restore point of one name."""

    def __init__(self, name: str | None, index: WalIndex) -> None:
        self._name = name
        self._index = index
        self._numbers: dict[Timeline, set[int]] = {}

    def passes(self, segment: Segment, notes: SegmentNotes) -> bool:
        if segment.timeline not in self._numbers:
            found = self._index.timeline(segment.timeline)
            self._numbers[segment.timeline] = {
                event.lsn // segment.size
                for event in (() if found is None else found.events)
                if event.kind is EventKind.RESTORE_POINT and event.name == self._name
            }
        return segment.number not in self._numbers[segment.timeline]
