"""Finds in a WAL segment the records that tell of moments, without walking all of them.

Pages are joined to one stream, in which every record is contiguous, and one pattern finds what may
be the header of a wanted record: its resource manager, its info, and the upper bytes of xl_prev,
which are those of the segment. What is found is proven by its checksum. A walk from record to
record in Python takes many times as long.

Never reads anything; a segment comes in pieces, and no more than one of them is kept.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from crc32c import crc32c

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.pg.walfile import (
    FIRST_IS_CONTRECORD,
    LONG_HEADER_SIZE,
    OVERWRITE_CONTRECORD,
    LongHeader,
    check_segment_header,
)
from pgbackup.pg.walrecord import (
    RM_XACT,
    WalEvent,
    parse_event,
    parse_transaction,
)
from pgbackup.repo.moments.segmentrecords import (
    SHORT_HEADER_SIZE,
    Pages,
    RawEnd,
    SegmentRecords,
    without_headers,
)

PIECE_SIZE = 16 << 20
"""Bytes of a segment that are searched at once: whole pages, and the whole of a usual segment."""

Following = Callable[[], Iterator[Iterable[bytes]]]
"""Begins to read the segments behind one: the pieces of the next, then of the one after it."""

_SMALL_PIECE = 1 << 16  # bytes; whole pages, however large these are
_HEADER = struct.Struct("<IIQBB2xI")  # xlogrecord.h, XLogRecord
_HEADER_SIZE = _HEADER.size
_END = struct.Struct("<IIQBB2xIBBq")  # the same of an end with little data: its id, length, time
_PREVIOUS = 8  # where in the header xl_prev is
_SAME = _PREVIOUS + 3  # where its bytes begin that are the same within 16 MiB
_CHECKED = 20  # bytes of the header that the checksum covers
_PAGE = struct.Struct("<HHIQI")  # xlog_internal.h, XLogPageHeaderData
_ALIGNMENT = 8

_PLAIN_ENDS = frozenset(
    operation | has_more | low
    for operation in (0x00, 0x20)
    for has_more in (0, 0x80)
    for low in range(4)
)  # infos of those whose transaction is the record's own; xact.h
_COMMITS = frozenset(info for info in _PLAIN_ENDS if not info & 0x70)

_XACT_INFO = rb"[\x00-\x03\x20-\x23\x30-\x33\x40-\x43\x80-\x83\xa0-\xa3\xb0-\xb3\xc0-\xc3]"
_XLOG_INFO = rb"[\x00-\x03\x10-\x13\x70-\x73\x90-\x93]"
_WANTED = rb"(?:%b\x01|%b\x00)\x00\x00" % (_XACT_INFO, _XLOG_INFO)
_IS_WANTED = re.compile(rb".{16}" + _WANTED, re.DOTALL)
_CHECKSUM_AND_DATA = rb".{4}[\xfc-\xff]"  # none of the wanted ones refers to blocks

_TOP_XID, _ORIGIN, _LONG_DATA, _SHORT_DATA = 252, 253, 254, 255  # xlogrecord.h


def find_records(
    segment: Segment, system: int, pieces: Iterable[bytes], following: Following
) -> SegmentRecords:
    """Find them.

    pieces:    of the segment; all are taken, so that they are proven when this returns.
    following: called if the last record may be wanted and goes on behind the segment.

    Raises: CorruptData, WrongSystem; whatever the pieces raise.
    """
    search = _Search(segment, system)
    for piece in regrouped(pieces, PIECE_SIZE):
        search.add(piece)
    return search.end(following)


def regrouped(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of one size, but for the last."""
    waiting: list[bytes] = []
    length = 0
    for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        while length >= size:
            joined = b"".join(waiting)
            yield joined[:size]
            waiting, length = [joined[size:]], length - size
    if length:
        yield b"".join(waiting)


class _Begun(NamedTuple):
    """A record of which the beginning was seen. previous: where the whole one before it begins."""

    start: int
    length: int
    previous: Lsn | None


class _Search:
    """One search. Offsets are into the segment's stream.

    _stream: what is being searched; between pieces, the beginning of a record that goes on.
    _base:   the offset of its first byte.
    _done:   pages in the pieces before.
    _last:   the last record that was seen to begin.
    """

    def __init__(self, segment: Segment, system: int) -> None:
        self._system = system
        self._pages = Pages(segment, 0)
        self._stream = b""
        self._base = self._done = self._first_record = self._major = 0
        self._last: _Begun | None = None
        self._ends: list[RawEnd] = []
        self._events: list[WalEvent] = []

    def add(self, piece: bytes) -> None:
        """Search the next piece. Raises: CorruptData, WrongSystem."""
        if not self._done:
            header = check_segment_header(piece, self._pages.segment, self._system)
            self._pages = self._pages._replace(size=header.page_size)
            self._major = header.server_major
        _, info, _, address, remaining = _PAGE.unpack_from(piece)
        skipped = _aligned(remaining) if info & FIRST_IS_CONTRECORD else 0
        self._first_record = self._pages.content(self._done) + skipped
        self._stream += without_headers(piece, self._pages.size, is_first=not self._done)
        used = len(self._stream.rstrip(b"\0"))
        self._search(_pattern(address), used)
        self._walk_end(piece, used)
        self._done += -(-len(piece) // self._pages.size)
        self._drop()

    def end(self, following: Following) -> SegmentRecords:
        """Finish, with the record that goes on behind the segment, if it is wanted."""
        last, end = self._last, self._base + len(self._stream)
        position = None
        is_complete = True
        if last is not None:
            is_whole = last.start + last.length <= end
            position = self._pages.position(last.start) if is_whole else last.previous
            is_complete = is_whole or not self._stream or self._complete(following)
        return SegmentRecords(
            self._pages, self._ends, self._events, position, is_complete=is_complete
        )

    def _search(self, pattern: re.Pattern[bytes], used: int) -> None:
        """Take what is wanted and right.

        used: length of the stream without the zeros at its end.
        """
        stream, view, base = self._stream, memoryview(self._stream), self._base
        explicit = [each - base for each in sorted({base, self._first_record}) if each >= base]
        found = (match.start() - _SAME for match in pattern.finditer(stream, 0, used))
        least = 0
        for at in chain(explicit, found):
            if at < least or at % _ALIGNMENT or at + _END.size > len(stream):
                continue
            length, xid, _, info, manager, checksum, kind, _, time = _END.unpack_from(stream, at)
            stop = at + length
            if stop > len(view) or length < _END.size:
                continue
            if crc32c(view[at : at + _CHECKED], crc32c(view[at + _HEADER_SIZE : stop])) != checksum:
                continue
            if at in explicit and not _IS_WANTED.match(stream, at):
                continue
            least = stop
            if manager == RM_XACT and kind == _SHORT_DATA and info in _PLAIN_ENDS:
                self._ends.append((base + at, time, xid, info in _COMMITS))
            else:
                self._parse(base + at, stream[at:stop])

    def _parse(self, start: int, record: bytes) -> None:
        _, xid, _, info, manager, _ = _HEADER.unpack_from(record)
        position, data = self._pages.position(start), _main_data(record)
        if manager == RM_XACT:
            end = parse_transaction(position, xid, info, data, self._major)
            self._ends.append((start, end.time, end.xid, end.is_commit))
        else:
            self._events.append(parse_event(position, info, data))

    def _walk_end(self, piece: bytes, used: int) -> None:
        """Walk the last pages on which records begin, to find the last two."""
        size = self._pages.size
        page = self._pages.page(self._base + used - 1) if used else -1
        while page >= self._done:
            head = SHORT_HEADER_SIZE if page else LONG_HEADER_SIZE
            _, info, _, _, remaining = _PAGE.unpack_from(piece, (page - self._done) * size)
            skipped = _aligned(remaining) if info & FIRST_IS_CONTRECORD else 0
            if skipped < size - head:
                self._walk(self._pages.content(page) + skipped)
                if self._last is not None and self._last.previous is not None:
                    return
            page -= 1

    def _walk(self, start: int) -> None:
        stream, base = self._stream, self._base
        before = None
        while start - base + 4 <= len(stream):
            (length,) = struct.unpack_from("<I", stream, start - base)
            if length < _HEADER_SIZE:
                return
            previous = None if before is None else self._pages.position(before)
            if previous is None and start - base + _HEADER.size <= len(stream):
                named = _HEADER.unpack_from(stream, start - base)[2]
                previous = Lsn(named) if self._pages.segment.start <= named else None
            self._last = _Begun(start, length, previous)
            before, start = start, _aligned(start + length)

    def _drop(self) -> None:
        """Forget what was searched, but not a record that goes on and may be wanted."""
        end = self._base + len(self._stream)
        kept = end
        if self._last is not None and self._last.start + self._last.length > end:
            at = self._last.start - self._base
            if at >= 0 and self._may_be_wanted(at):
                kept = self._last.start
        self._stream, self._base = self._stream[kept - self._base :], kept

    def _may_be_wanted(self, at: int) -> bool:
        if len(self._stream) - at < _HEADER.size:
            return True
        return _IS_WANTED.match(self._stream, at) is not None

    def _complete(self, following: Following) -> bool:
        """Add what the record lacks; False if it is not there."""
        assert self._last is not None
        with suppress(NotFound, CorruptData):
            for pieces in following():
                is_first = True
                for piece in regrouped(pieces, _SMALL_PIECE):
                    left = self._last.length - len(self._stream)
                    if is_first and left != (header := LongHeader.parse(piece)).remaining:
                        return bool(header.info & OVERWRITE_CONTRECORD)  # it never was completed
                    more = without_headers(piece, self._pages.size, is_first=is_first)
                    self._stream += more[:left]
                    is_first = False
                    if len(self._stream) == self._last.length or not self._may_be_wanted(0):
                        self._search(_pattern(0), 0)
                        return True
        return False


def _pattern(address: int) -> re.Pattern[bytes]:
    """What to search in WAL of up to PIECE_SIZE from here on; it matches _SAME bytes into a record.

    It begins with bytes that are the same for all, or the search would not be fast.
    """
    same = address.to_bytes(8, "little")[_SAME - _PREVIOUS :]
    return re.compile(re.escape(same) + _WANTED + _CHECKSUM_AND_DATA, re.DOTALL)


def _main_data(record: bytes) -> bytes:
    """The data of a record that refers to no blocks. Raises: CorruptData."""
    at = _HEADER.size
    while at < len(record):
        kind = record[at]
        if kind == _SHORT_DATA:
            return record[at + 2 :]
        if kind == _LONG_DATA:
            return record[at + 5 :]
        if kind not in (_ORIGIN, _TOP_XID):
            break
        at += 3 if kind == _ORIGIN else 5
    return b""


def _aligned(offset: int) -> int:
    return offset + -offset % _ALIGNMENT
