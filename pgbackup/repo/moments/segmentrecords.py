"""What was found in one WAL segment, and where it is: pages joined to a stream, and back.

Pure.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.pg.walfile import LONG_HEADER_SIZE
from pgbackup.pg.walrecord import TransactionEnd, WalEvent
from pgbackup.repo.moments.walindex import SegmentNotes

SHORT_HEADER_SIZE = 24  # bytes; xlog_internal.h, SizeOfXLogShortPHD

RawEnd = tuple[int, int, int, bool]
"""As TransactionEnd, but for the position an offset into the stream."""


class SegmentRecords:
    """The wanted records that begin in a segment, in order.

    events:      all but those of transactions.
    last_record: where the last record of any kind begins that is whole within the segment.
    is_complete: False if at its end a wanted one may begin whose rest was not there.
    """

    def __init__(
        self,
        pages: "Pages",
        ends: list[RawEnd],
        events: list[WalEvent],
        last_record: Lsn | None,
        *,
        is_complete: bool,
    ) -> None:
        self._pages = pages
        self._ends = ends
        self.events = events
        self.last_record = last_record
        self.is_complete = is_complete

    def ends(self) -> Iterator[TransactionEnd]:
        """Yield commits and aborts."""
        for start, time, xid, is_commit in self._ends:
            yield TransactionEnd(self._pages.position(start), time, xid, is_commit)

    def notes(self) -> SegmentNotes:
        """What the index notes of the segment."""
        segment = self._pages.segment
        last_record = -1 if self.last_record is None else self.last_record - segment.start
        notes = SegmentNotes(segment.number, last_record=last_record)
        if not self._ends:
            return notes
        _, times, xids, flags = zip(*self._ends, strict=True)
        notes = notes._replace(
            ends=len(self._ends),
            low_time=min(times),
            high_time=max(times),
            low_xid=min(xids),
            high_xid=max(xids),
        )
        commits = sum(flags)
        if not commits:
            return notes
        first = self._ends[flags.index(True)]
        last = self._ends[len(flags) - 1 - flags[::-1].index(True)]
        return notes._replace(
            commits=commits,
            first_time=first[1],
            first_offset=self._pages.position(first[0]) - segment.start,
            last_time=last[1],
            last_offset=self._pages.position(last[0]) - segment.start,
        )


class Pages(NamedTuple):
    """Where things are in a segment's stream, that is its bytes without page headers.

    size: of a page, in bytes.
    """

    segment: Segment
    size: int

    def page(self, offset: int) -> int:
        """The number of the page that a byte of the stream is on."""
        return (offset + LONG_HEADER_SIZE - SHORT_HEADER_SIZE) // (self.size - SHORT_HEADER_SIZE)

    def content(self, page: int) -> int:
        """Where in the stream that begins which a page has behind its header."""
        if page == 0:
            return 0
        return page * (self.size - SHORT_HEADER_SIZE) - (LONG_HEADER_SIZE - SHORT_HEADER_SIZE)

    def position(self, offset: int) -> Lsn:
        """The WAL position of a byte of the stream."""
        headers = LONG_HEADER_SIZE + self.page(offset) * SHORT_HEADER_SIZE
        return Lsn(self.segment.start + offset + headers)


def without_headers(piece: bytes, page_size: int, *, is_first: bool) -> bytes:
    """The stream of some pages. is_first: they are those that a segment begins with."""
    view = memoryview(piece)
    starts = range(0, len(piece), page_size)
    parts = [view[at + SHORT_HEADER_SIZE : at + page_size] for at in starts]
    if is_first:
        parts[0] = view[LONG_HEADER_SIZE:page_size]
    return b"".join(parts)
