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
    header = check_segment_header(data, segment, system_identifier)
    page_size, timeline = header.page_size, header.timeline
    for at in range(page_size, segment.size, page_size):
        fields = magic, info, page_timeline, address = _SHORT.unpack_from(data, at)
        if not any(fields):
            _check_zeros(data, at, segment)
            return segment.start + at
        where = f"page at {segment.start + at}"
        if magic != header.magic:
            raise _corrupt(f"{where} has magic number {magic:04X}", segment)
        if info & LONG_HEADER or info & ~_ALL_FLAGS:
            raise _corrupt(f"{where} has flags {info:#06x}", segment)
        if address != segment.start + at:
            raise _corrupt(f"{where} says that it is at {Lsn(address)}", segment)
        if not timeline <= page_timeline <= segment.timeline:
            raise _corrupt(f"{where} was written on timeline {page_timeline}", segment)
        timeline = Timeline(page_timeline)
    return segment.end


def _check_zeros(data: bytes | bytearray | memoryview, start: int, segment: Segment) -> None:
    view = memoryview(data)
    for at in range(start, len(view), len(_ZEROS)):
        chunk = bytes(view[at : at + len(_ZEROS)])
        if chunk != _ZEROS[: len(chunk)]:
            raise _corrupt(f"bytes that are not zero follow {segment.start + start}", segment)


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
