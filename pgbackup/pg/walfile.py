"""WAL segments: page headers, and whether a file is the segment that its name says.

Records are not looked into. A check passes only for a finished segment, as archived; the current
one in pg_wal ends in pages of an older segment whose file was used again.
"""

import struct
from typing import Final, NamedTuple, Self

from pgbackup.errors import CorruptData, WrongSystem
from pgbackup.pg.lsn import Lsn, Segment, Timeline, is_valid_segment_size

PAGE_MAGIC: Final = {  # by major version; xlog_internal.h, XLOG_PAGE_MAGIC
    13: 0xD106,
    14: 0xD10D,
    15: 0xD110,
    16: 0xD113,
    17: 0xD116,
    18: 0xD118,
}
LONG_HEADER_SIZE: Final = 40  # bytes; on the first page of each segment
FIRST_IS_CONTRECORD: Final = 0x0001
LONG_HEADER: Final = 0x0002
OVERWRITE_CONTRECORD: Final = 0x0008  # the record before was given up; xlog_internal.h

_MAJOR_OF_MAGIC = {magic: major for major, magic in PAGE_MAGIC.items()}
_ALL_FLAGS = 0x000F
_LONG = struct.Struct("<HHIQI4xQII")
_SHORT = struct.Struct("<HHIQ")
_ZEROS = bytes(1 << 16)


class LongHeader(NamedTuple):
    """The header of a segment's first page.

    info:         flags; LONG_HEADER is among them.
    timeline:     that of the writer of the page; older than that in the file's name where the
                  segment in which timelines part was copied.
    address:      position of the page.
    remaining:    bytes that a record begun in the segment before still has here.
    segment_size: bytes.
    page_size:    bytes.
    """

    magic: int
    info: int
    timeline: Timeline
    address: Lsn
    remaining: int
    system_identifier: int
    segment_size: int
    page_size: int

    @property
    def server_major(self) -> int:
        """The major version of the server that wrote the page."""
        return _MAJOR_OF_MAGIC[self.magic]

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the first 40 bytes of a segment.

        Raises: CorruptData if they are no header of a known version that can be true.
        Source: xlogreader.c, XLogReaderValidatePageHeader (PostgreSQL 18)
        """
        if len(data) < LONG_HEADER_SIZE:
            raise _corrupt(f"{len(data)} bytes are too few for a page header")
        magic, info, timeline, address, remaining, identifier, segment_size, page_size = (
            _LONG.unpack_from(data)
        )
        _check_magic(magic)
        if not info & LONG_HEADER or info & ~_ALL_FLAGS:
            raise _corrupt(f"flags {info:#06x} are not those of the first page of a segment")
        if not is_valid_segment_size(segment_size):
            raise _corrupt(f"segment size {segment_size} in its header is impossible")
        if page_size & (page_size - 1) or not 1024 <= page_size <= 65536:
            raise _corrupt(f"page size {page_size} in its header is impossible")
        return cls(
            magic,
            info,
            Timeline(timeline),
            Lsn(address),
            remaining,
            identifier,
            segment_size,
            page_size,
        )


def check_segment_header(
    data: bytes | bytearray | memoryview, segment: Segment, system_identifier: int
) -> LongHeader:
    """Check that a file that begins with `data` is `segment` of this cluster.

    Raises: WrongSystem if it is of another cluster or segment size; CorruptData.
    """
    header = LongHeader.parse(data)
    if header.system_identifier != system_identifier:
        raise WrongSystem(
            f'could not use WAL segment "{segment}": it is of system {header.system_identifier}, '
            f"not {system_identifier}"
        )
    if header.segment_size != segment.size:
        raise WrongSystem(
            f'could not use WAL segment "{segment}": its segment size is {header.segment_size} '
            f"bytes, not {segment.size}"
        )
    if header.address != segment.start:
        raise _corrupt(f"it begins at {header.address}, not {segment.start}", segment)
    if header.timeline > segment.timeline:
        raise _corrupt(f"it was written on timeline {header.timeline}", segment)
    return header


class PageCheck:
    """Checks the header of every page of a segment that comes in pieces.

    Each piece but the last must be a multiple of the page size; of 64 KiB, if that is not known.

    position: behind what was checked.
    """

    def __init__(self, segment: Segment, system_identifier: int) -> None:
        self._segment = segment
        self._system_identifier = system_identifier
        self._first: LongHeader | None = None
        self._timeline = Timeline(1)
        self._used: Lsn | None = None
        self.position = segment.start

    @property
    def used(self) -> Lsn:
        """The position behind the last page in use: less than `position` after a switch."""
        return self.position if self._used is None else self._used

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Check the next piece. Raises: WrongSystem, CorruptData."""
        at = 0
        if self._first is None:
            self._first = check_segment_header(data, self._segment, self._system_identifier)
            self._timeline, at = self._first.timeline, self._first.page_size
        while at < len(data) and self._used is None:
            self._check_page(data, at, self._first)
            at += self._first.page_size
        if self._used is not None:
            self._check_zeros(data, max(self._used - self.position, 0))
        self.position = Lsn(self.position + len(data))

    def _check_page(self, data: bytes | bytearray | memoryview, at: int, first: LongHeader) -> None:
        address = Lsn(self.position + at)
        if len(data) - at < _SHORT.size:
            raise _corrupt(f"page at {address} ends in its header", self._segment)
        fields = magic, info, timeline, found = _SHORT.unpack_from(data, at)
        if not any(fields):
            self._used = address
            return
        if magic != first.magic:
            reason = f"has magic number {magic:04X}"
        elif info & LONG_HEADER or info & ~_ALL_FLAGS:
            reason = f"has flags {info:#06x}"
        elif found != address:
            reason = f"says that it is at {Lsn(found)}"
        elif not self._timeline <= timeline <= self._segment.timeline:
            reason = f"was written on timeline {timeline}"
        else:
            self._timeline = Timeline(timeline)
            return
        raise _corrupt(f"page at {address} {reason}", self._segment)

    def _check_zeros(self, data: bytes | bytearray | memoryview, start: int) -> None:
        view = memoryview(data)
        for at in range(start, len(view), len(_ZEROS)):
            chunk = bytes(view[at : at + len(_ZEROS)])
            if chunk != _ZEROS[: len(chunk)]:
                raise _corrupt(f"bytes that are not zero follow {self._used}", self._segment)


def check_pages(
    data: bytes | bytearray | memoryview, segment: Segment, system_identifier: int
) -> Lsn:
    """Check the header of every page of a whole segment.

    Returns the position behind the last page in use: the segment's end, or less after a switch,
    where the server leaves zeros.

    Raises: WrongSystem, CorruptData.
    """
    if len(data) != segment.size:
        raise _corrupt(f"it has {len(data)} bytes, not {segment.size}", segment)
    check = PageCheck(segment, system_identifier)
    check.add(data)
    return check.used


def _check_magic(magic: int) -> None:
    if magic in _MAJOR_OF_MAGIC:
        return
    if magic == 0:
        raise _corrupt("it is empty: its first page begins with zeros")
    if int.from_bytes(magic.to_bytes(2, "little"), "big") in _MAJOR_OF_MAGIC:
        raise _corrupt("it comes from a big-endian machine")
    raise CorruptData(
        f"could not use WAL segment: magic number {magic:04X} is of no known version",
        hint="If the server is newer than PostgreSQL 18, look for a newer pgbackup.",
    )


def _corrupt(reason: str, segment: Segment | None = None) -> CorruptData:
    name = "" if segment is None else f' "{segment}"'
    return CorruptData(f"could not use WAL segment{name}: {reason}")
