"""The WAL that a backup needs: there, of this system, and without a gap or a damaged record.

Every record of every segment is checksummed and must name the one before it, so that nothing that
recovery would read is taken on trust. What a record means is not looked at.
"""

import struct
from collections.abc import Callable, Iterator

from crc32c import crc32c

from pgbackup.backup.stored import StoredBackup, read_history
from pgbackup.errors import CorruptData, NotFound, WrongSystem
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.pg.walfile import (
    FIRST_IS_CONTRECORD,
    LONG_HEADER_SIZE,
    LongHeader,
    check_pages,
    check_segment_header,
)
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import HistoryRecord

SHORT_HEADER_SIZE = 24  # bytes; xlog_internal.h, SizeOfXLogShortPHD
RECORD_HEADER_SIZE = 24  # bytes; xlogrecord.h, SizeOfXLogRecord
ALIGNMENT = 8  # bytes; MAXALIGN
OVERWRITE_CONTRECORD = 0x0008  # page flag: the record before was given up; xlog_internal.h
XLOG_SWITCH = 0x40  # of resource manager 0; pg_control.h

_PAGE = struct.Struct("<HHIQI")
_RECORD = struct.Struct("<IIQBBHI")


class WalRecords:
    """Walks the records of consecutive segments.

    position: behind the last record that was found right; None before the first.
    """

    def __init__(self) -> None:
        self.position: Lsn | None = None
        self._previous: int | None = None
        self._record_start = 0
        self._pending = bytearray()
        self._left = 0
        self._unknown = 0
        self._is_new = True
        self._has_switched = False

    def add(self, data: bytes, segment: Segment) -> None:
        """Check the next segment, or the beginning of one. Raises: CorruptData."""
        page_size = LongHeader.parse(data).page_size
        self._has_switched = False
        for at in range(0, len(data), page_size):
            end = min(at + page_size, len(data))
            begin = at + (SHORT_HEADER_SIZE if at else LONG_HEADER_SIZE)
            if self._has_switched:
                self._check_empty(data, begin, end, segment)
                continue
            begin = self._continue(data, at, min(begin, end), end, segment)
            if begin < end:
                self._walk_page(data, begin, end, segment)
        self._is_new = False

    def _continue(self, data: bytes, at: int, begin: int, end: int, segment: Segment) -> int:
        """Take what a record begun earlier has on this page; return where the next one begins."""
        if begin == end:
            return end
        _, info, _, _, remaining = _PAGE.unpack_from(data, at)
        if info & OVERWRITE_CONTRECORD:
            self._left, self._pending = 0, bytearray()
            self._previous = None
        wanted = self._left or self._unknown
        if self._is_new and not at and info & FIRST_IS_CONTRECORD:
            # The walk begins inside a record, of which the first part is not known.
            wanted = self._unknown = remaining
        if wanted != (remaining if info & FIRST_IS_CONTRECORD else 0):
            raise _damaged(segment, at, "the record before does not go on here")
        length = min(wanted, end - begin)
        if self._left:
            self._pending += data[begin : begin + length]
            self._left -= length
            if not self._left:
                self._check_record(self._pending, self._record_start, segment)
                self._pending = bytearray()
        else:
            self._unknown -= length
        if self._left or self._unknown:
            return end
        begin += length
        self.position = Lsn(segment.start + begin)
        return self._aligned(data, begin, end, segment)

    def _walk_page(self, data: bytes, at: int, end: int, segment: Segment) -> None:
        start = int(segment.start)
        while at < end and not self._has_switched:
            (length,) = struct.unpack_from("<I", data, at)
            if length < RECORD_HEADER_SIZE:
                raise _damaged(segment, at, "there is no record")
            if at + length > end:
                self._record_start = start + at
                self._pending = bytearray(data[at:end])
                self._left = length - (end - at)
                return
            self._check_record(memoryview(data)[at : at + length], start + at, segment)
            at = self._aligned(data, at + length, end, segment)
        if self._has_switched:
            self._check_empty(data, at, end, segment)

    def _check_record(self, record: bytearray | memoryview, start: int, segment: Segment) -> None:
        _, _, previous, info, manager, _, checksum = _RECORD.unpack_from(record)
        view = memoryview(record)
        if crc32c(view[:20], crc32c(view[RECORD_HEADER_SIZE:])) != checksum:
            raise _damaged(segment, start - segment.start, "its checksum is wrong")
        if self._previous is not None and previous != self._previous:
            raise _damaged(
                segment,
                start - segment.start,
                f"it follows a record at {Lsn(previous)}, not the one at {Lsn(self._previous)}",
            )
        self._previous = start
        self.position = Lsn(start + len(record))
        self._has_switched = manager == 0 and info & 0xF0 == XLOG_SWITCH

    def _aligned(self, data: bytes, at: int, end: int, segment: Segment) -> int:
        aligned = min(at + -at % ALIGNMENT, end)
        if any(data[at:aligned]):
            raise _damaged(segment, at, "bytes between records are not zero")
        return aligned

    def _check_empty(self, data: bytes, begin: int, end: int, segment: Segment) -> None:
        if data.count(0, begin, end) != max(end - begin, 0):
            raise _damaged(segment, begin, "something follows the end of WAL in this segment")


class WalCheck:
    """Checks all WAL of one backup.

    advance: told of the bytes read.
    """

    def __init__(
        self, backup: StoredBackup, archive: WalArchive, advance: Callable[[int], object]
    ) -> None:
        self._backup = backup
        self._record = backup.record
        self._archive = archive
        self._advance = advance
        self._walk = WalRecords()

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each thing that is wrong."""
        for wal_range in self._record.wal:
            self._walk = WalRecords()
            for segment in wal_range.segments(self._record.wal_segment_size):
                yield from self._attempt(segment, self._check_segment)
        if self._record.tail is not None:
            segment = Segment.parse(
                self._record.tail.removesuffix(".partial"), self._record.wal_segment_size
            )
            yield from self._attempt(segment, self._check_tail)
        for history in self._record.histories:
            yield from self._history_problems(history)

    def _attempt(self, segment: Segment, check: Callable[[Segment], object]) -> Iterator[str]:
        try:
            check(segment)
        except (NotFound, CorruptData, WrongSystem) as error:
            self._walk = WalRecords()
            yield error.message

    def _check_segment(self, segment: Segment) -> None:
        data = b"".join(self._archive.chunks(segment.name, segment.size))
        check_pages(data, segment, self._record.system_identifier)
        self._walk.add(data, segment)
        self._advance(len(data))

    def _check_tail(self, segment: Segment) -> None:
        assert self._record.tail is not None
        data = self._backup.read(self._record.tail)
        check_segment_header(data, segment, self._record.system_identifier)
        if segment.start + len(data) != self._record.stop_lsn:
            raise CorruptData(
                f'could not use WAL "{self._record.tail}": it ends at {segment.start + len(data)},'
                f" the backup at {self._record.stop_lsn}"
            )
        self._walk.add(data, segment)
        self._advance(segment.size)

    def _history_problems(self, listed: HistoryRecord) -> Iterator[str]:
        record = self._record
        start = WalPosition(record.timeline, record.start_lsn)
        stop = WalPosition(record.stop_timeline, record.stop_lsn)
        try:
            timeline = Timeline.parse_hex(listed.name[:8])
            history = TimelineHistory.parse(timeline, read_history(self._archive, listed))
            if timeline == record.stop_timeline:
                history.path(start, stop)
        except (NotFound, CorruptData) as error:
            yield error.message


def _damaged(segment: Segment, at: int, reason: str) -> CorruptData:
    return CorruptData(
        f'could not read WAL segment "{segment}": record at {Lsn(segment.start + at)}: {reason}'
        if at >= 0
        else f'could not read WAL segment "{segment}": record from the one before: {reason}'
    )
