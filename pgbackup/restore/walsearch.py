"""Looks in archived WAL for the record at which recovery will stop.

Reads along a route, from its backup on, and passes over the segments of which the index says that
they cannot have it. Without an index everything up to the target is read.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pgbackup.backup.verification.wal import check_content
from pgbackup.backup.walrecords import WalRecord, WalRecords
from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.pg.walrecord import (
    RM_XACT,
    RM_XLOG,
    TransactionEnd,
    WalEvent,
    parse_event,
    parse_transaction,
)
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.moments.walindex import SegmentNotes, WalIndex
from pgbackup.restore.timelinepath import Route

_WANTED = frozenset({RM_XLOG, RM_XACT})
_ENDS = {0x00, 0x20, 0x30, 0x40}  # commit and abort, also of prepared transactions; xact.h
_EVENTS = {0x00, 0x10, 0x70, 0x90}  # checkpoints, restore point, end of recovery; pg_control.h

Passes = Callable[[Segment, SegmentNotes], bool]
"""Tells that a segment, by what is noted of it, need not be read."""


class Seen(NamedTuple):
    """A record that was read.

    transaction: that ends here, if one does.
    event:       restore point or checkpoint, if it is one.
    """

    start: Lsn
    end: Lsn
    transaction: TransactionEnd | None
    event: WalEvent | None


def nothing_passes(segment: Segment, notes: SegmentNotes) -> bool:
    """Have every segment read."""
    return False


class WalSearch:
    """Reads the WAL of one cluster."""

    def __init__(self, archive: WalArchive, system: int, index: WalIndex) -> None:
        self._archive = archive
        self._system = system
        self._index = index

    def records(self, route: Route, start: Lsn, passes: Passes = nothing_passes) -> Iterator[Seen]:
        """Yield the records of a route that begin at `start` or later, in order.

        Raises: CorruptData, WrongSystem, StorageError.
        """
        seen: list[Seen] = []

        def show(record: WalRecord) -> None:
            if record.start >= start:
                seen.append(_read(record, route.record.server_version // 10000))

        walk = WalRecords(show, _WANTED)
        for segment in route.segments(start):
            notes = self._index.notes(segment)
            # A record of the last segment may end in the unfinished one, which no notes know.
            is_last = route.unfinished is not None and segment.end == route.end
            if notes and not (is_last or walk.is_inside) and passes(segment, notes):
                walk = WalRecords(show, _WANTED)
                continue
            chunks = self._archive.chunks(segment.name, segment.size)
            check_content(walk, segment, self._system, chunks, _ignore)
            yield from seen
            seen.clear()
        yield from self._unfinished(route, walk, seen)

    def last_record(self, route: Route) -> Lsn | None:
        """Where the last whole record of a route begins."""
        size = route.record.wal_segment_size
        end = route.end
        while end > route.consistent:
            last = None
            for seen in self.records(route, Lsn(end - size)):
                last = seen.start
            if last is not None:
                return last
            end = Lsn(end - size)
        last = None
        for seen in self.records(route, route.start):
            last = seen.start
        return last

    def _unfinished(self, route: Route, walk: WalRecords, seen: list[Seen]) -> Iterator[Seen]:
        """What a receiver has of the next segment: it ends where it ends."""
        if route.unfinished is None:
            return
        segment = route.unfinished
        try:
            data = b"".join(self._archive.chunks(f"{segment.name}.partial"))
            content = data[: segment.size].ljust(segment.size, b"\0")
            check_content(walk, segment, self._system, iter([content]), _ignore)
        except (CorruptData, NotFound):
            pass  # the zeros behind what came; or it is complete by now, and has another name
        yield from seen
        seen.clear()


def _read(record: WalRecord, major: int) -> Seen:
    transaction, event = None, None
    if record.manager == RM_XACT and record.info & 0x70 in _ENDS:
        data = _main_data(record)
        transaction = parse_transaction(record.start, record.xid, record.info, data, major)
    elif record.manager == RM_XLOG and record.info & 0xF0 in _EVENTS:
        event = parse_event(record.start, record.info, _main_data(record))
    return Seen(record.start, record.end, transaction, event)


def _main_data(record: WalRecord) -> bytes:
    """What a record without blocks has to say.

    Source: xlogreader.c, DecodeXLogRecord (PostgreSQL 18)
    """
    lengths = {253: 3, 252: 5}  # origin, top-level transaction; xlogrecord.h
    at = 0
    while at < len(record.body) and record.body[at] in lengths:
        at += lengths[record.body[at]]
    if at < len(record.body) and record.body[at] in (255, 254):
        return record.body[at + (2 if record.body[at] == 255 else 5) :]
    raise CorruptData(f"could not read WAL record at {record.start}: it has no data of its own")


def _ignore(length: int) -> None:
    pass
