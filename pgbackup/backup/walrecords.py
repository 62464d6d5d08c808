"""Walks the records of WAL: each has a right checksum and names the one before it.

What a record means is not looked at, except that a switch leaves the rest of its segment empty;
whoever wants to look is shown every record that was found right.
Never reads anything, and holds no more than the piece it is given, and of the record under way
what somebody wants to see.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from crc32c import crc32c

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.pg.walfile import (
    FIRST_IS_CONTRECORD,
    LONG_HEADER_SIZE,
    OVERWRITE_CONTRECORD,
    LongHeader,
)

SHORT_HEADER_SIZE = 24  # bytes; xlog_internal.h, SizeOfXLogShortPHD
RECORD_HEADER_SIZE = 24  # bytes; xlogrecord.h, SizeOfXLogRecord
ALIGNMENT = 8  # bytes; MAXALIGN
XLOG_SWITCH = 0x40  # of resource manager 0; pg_control.h

_MANAGER = 17  # offset in a record's header; xlogrecord.h
_CHECKED_HEADER = 20  # bytes of a record's header that its checksum covers; xlogrecord.h
_PAGE = struct.Struct("<HHIQI")
_RECORD = struct.Struct("<IIQBBHI")


class WalRecord(NamedTuple):
    """A record that was found right.

    start, end: end is behind its last byte, where the next begins but for padding.
    xid:        of the transaction that wrote it, 0 for none.
    manager:    number of its resource manager.
    body:       what follows the header; empty if nobody wants it of this manager.
    """

    start: Lsn
    end: Lsn
    xid: int
    manager: int
    info: int
    body: bytes


class WalRecords:
    """Walks the records of consecutive segments, which come in pieces of whole pages.

    Only the last piece of all may end inside a page. Of a record that goes on in the next piece
    no more is kept than its header and the checksum so far, unless its body is wanted: it can be
    as long as 1 GiB.

    position: behind the last record that was found right; None before the first.
    """

    def __init__(
        self,
        show: Callable[[WalRecord], object] | None = None,
        wanted: frozenset[int] = frozenset(),
    ) -> None:
        """Begin a walk.

        show:   called with each record that is right.
        wanted: the resource managers whose bodies are shown.
        """
        self.position: Lsn | None = None
        self._show = show
        self._wanted = wanted
        self._previous: int | None = None
        self._record = _Record(0, 0)
        self._unknown = 0
        self._is_new = True
        self._has_switched = False
        self._page_size = 0

    @property
    def is_inside(self) -> bool:
        """Tell whether a record has begun that the pieces so far do not end."""
        return bool(self._record.left or self._unknown)

    @property
    def last_start(self) -> Lsn | None:
        """Where the last record begins that was found right, if it was seen whole."""
        return None if self._previous is None else Lsn(self._previous)

    def add(self, data: bytes, segment: Segment, offset: int = 0) -> None:
        """Check the next piece.

        offset: where in the segment it begins.

        Raises: CorruptData.
        """
        if offset == 0:
            self._page_size = LongHeader.parse(data).page_size
            self._has_switched = False
        piece = _Piece(data, segment, offset)
        for at in range(0, len(data), self._page_size):
            end = min(at + self._page_size, len(data))
            begin = at + (SHORT_HEADER_SIZE if offset + at else LONG_HEADER_SIZE)
            if self._has_switched:
                piece.check_empty(begin, end)
                continue
            begin = self._continue(piece, at, min(begin, end), end)
            if begin < end:
                self._walk_page(piece, begin, end)
        self._is_new = False

    def _continue(self, piece: "_Piece", at: int, begin: int, end: int) -> int:
        """Take what a record begun earlier has on this page; return where the next one begins."""
        if begin == end:
            return end
        _, info, _, _, remaining = _PAGE.unpack_from(piece.data, at)
        if info & OVERWRITE_CONTRECORD:
            self._record = _Record(0, 0)
            self._previous = None
        wanted = self._record.left or self._unknown
        if self._is_new and piece.offset + at == 0 and info & FIRST_IS_CONTRECORD:
            # The walk begins inside a record, of which the first part is not known.
            wanted = self._unknown = remaining
        if wanted != (remaining if info & FIRST_IS_CONTRECORD else 0):
            raise piece.damaged(at, "the record before does not go on here")
        length = min(wanted, end - begin)
        if self._record.left:
            self._record.add(memoryview(piece.data)[begin : begin + length])
            if not self._record.left:
                self._check_record(piece, begin + length)
        else:
            self._unknown -= length
        if self._record.left or self._unknown:
            return end
        begin += length
        self.position = Lsn(piece.start + begin)
        return piece.aligned(begin, end)

    def _walk_page(self, piece: "_Piece", at: int, end: int) -> None:
        data = memoryview(piece.data)
        while at < end and not self._has_switched:
            (length,) = struct.unpack_from("<I", data, at)
            if length < RECORD_HEADER_SIZE:
                raise piece.damaged(at, "there is no record")
            self._record = _Record(piece.start + at, length, self._wanted)
            self._record.add(data[at : min(at + length, end)])
            if self._record.left:
                return
            self._check_record(piece, at + length)
            at = piece.aligned(at + length, end)
        if self._has_switched:
            piece.check_empty(at, end)

    def _check_record(self, piece: "_Piece", end: int) -> None:
        record = self._record
        _, xid, previous, info, manager, _, _ = _RECORD.unpack_from(record.header)
        if not record.is_right():
            raise piece.damaged(record.start - piece.start, "its checksum is wrong")
        if self._previous is not None and previous != self._previous:
            raise piece.damaged(
                record.start - piece.start,
                f"it follows a record at {Lsn(previous)}, not the one at {Lsn(self._previous)}",
            )
        self._previous = record.start
        self.position = Lsn(piece.start + end)
        self._has_switched = manager == 0 and info & 0xF0 == XLOG_SWITCH
        if self._show is not None:
            body = bytes(record.body)
            start = Lsn(record.start)
            self._show(WalRecord(start, self.position, xid, manager, info, body))


class _Record:
    """A record whose bytes come page by page.

    start:  position of its first byte.
    left:   bytes to come.
    wanted: the resource managers whose bodies are kept.
    """

    def __init__(self, start: int, length: int, wanted: frozenset[int] = frozenset()) -> None:
        self.start = start
        self.length = self.left = length
        self.header = b""
        self.body = bytearray()
        self._wanted = wanted
        self._checksum = 0

    def add(self, data: memoryview) -> None:
        self.left -= len(data)
        if len(self.header) < RECORD_HEADER_SIZE:
            rest = RECORD_HEADER_SIZE - len(self.header)
            self.header += data[:rest]
            data = data[rest:]
        if self._wanted and len(self.header) > _MANAGER and self.header[_MANAGER] in self._wanted:
            self.body += data
        self._checksum = crc32c(data, self._checksum)

    def is_right(self) -> bool:
        """Compare the checksum. Source: xlogreader.c, ValidXLogRecord (PostgreSQL 18)"""
        (stored,) = struct.unpack_from("<I", self.header, _CHECKED_HEADER)
        return crc32c(self.header[:_CHECKED_HEADER], self._checksum) == int(stored)


class _Piece:
    """Whole pages of a segment.

    offset: where in the segment they begin; start: their position.
    """

    def __init__(self, data: bytes, segment: Segment, offset: int) -> None:
        self.data = data
        self.offset = offset
        self.start = int(segment.start) + offset
        self._segment = segment

    def aligned(self, at: int, end: int) -> int:
        """Where the next record begins, or the end of the page. Raises: CorruptData."""
        aligned = min(at + -at % ALIGNMENT, end)
        if any(self.data[at:aligned]):
            raise self.damaged(at, "bytes between records are not zero")
        return aligned

    def check_empty(self, begin: int, end: int) -> None:
        """Raises: CorruptData."""
        if self.data.count(0, begin, end) != max(end - begin, 0):
            raise self.damaged(begin, "something follows the end of WAL in this segment")

    def damaged(self, at: int, reason: str) -> CorruptData:
        """What to raise for a record that begins at `at`, which may lie before this segment."""
        where = f"record at {Lsn(self.start + at)}"
        if self.offset + at < 0:
            where = "record from the one before"
        return CorruptData(f'could not read WAL segment "{self._segment}": {where}: {reason}')
