"""What is noted of each archived segment, in memory: columns of numbers, not objects.

Of 200,000 segments this is some 20 MB, and a question about any stretch of them is answered without
looking at each. Pure; how it is stored is in `indexpieces.py`, how it is made in `indexing.py`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.pg.walrecord import WalEvent
from pgbackup.repo.coverage import Stretch


class Commit(NamedTuple):
    """A commit. time: microseconds since 2000-01-01 UTC. lsn: where its record begins."""

    lsn: Lsn
    time: int


NEVER = -(1 << 63)
"""Earlier than any time."""


class SegmentNotes(NamedTuple):
    """What is noted of one segment; a record belongs to the segment in which it begins.

    Times are microseconds since 2000-01-01 UTC, positions bytes from the start of the segment.

    commits, ends:       how many commits; how many commits and aborts.
    first, last:         of the commits, by position.
    low_time, high_time: of all ends, since recovery to a time stops at aborts as well; without
                         any, what is later and earlier than any time.
    low_xid, high_xid:   of all ends.
    last_record:         where the last record begins that is whole; -1 if there is none.
    """

    number: int
    commits: int = 0
    ends: int = 0
    first_time: int = 0
    first_offset: int = 0
    last_time: int = 0
    last_offset: int = 0
    low_time: int = -1 - NEVER
    high_time: int = NEVER
    low_xid: int = 0
    high_xid: int = 0
    last_record: int = -1


WIDTH = len(SegmentNotes._fields)
"""Columns, each of a signed number of 8 bytes."""

_COLUMN = {name: at for at, name in enumerate(SegmentNotes._fields)}


class TimelineIndex:
    """The notes of one timeline's segments."""

    def __init__(
        self, timeline: Timeline, size: int, rows: bytes, events: Sequence[WalEvent] = ()
    ) -> None:
        """Take rows of numbers in order.

        size: of a segment, in bytes.
        rows: as SegmentNotes, native numbers of 8 bytes, ascending by segment number.
        """
        self.timeline = timeline
        self.size = size
        self.events = events
        cells = memoryview(rows).cast("q")
        self._columns = [array("q", cells[at::WIDTH].tobytes()) for at in range(WIDTH)]
        self._numbers = self._columns[0]

    def __len__(self) -> int:
        return len(self._numbers)

    def notes(self, number: int) -> SegmentNotes | None:
        """What is noted of a segment, or None."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            return None
        return SegmentNotes(*(column[at] for column in self._columns))

    def between(self, first: int, end: int) -> range:
        """The rows of the segments from number first to before end."""
        return range(bisect_left(self._numbers, first), bisect_left(self._numbers, end))

    def column(self, name: str) -> "array[int]":
        """A field of SegmentNotes, of all rows."""
        return self._columns[_COLUMN[name]]

    def first_commit(self, row: int) -> Commit:
        """The first of a row that has some."""
        return self._commit(row, "first_offset", "first_time")

    def last_commit(self, row: int) -> Commit:
        """The last of a row that has some."""
        return self._commit(row, "last_offset", "last_time")

    def segment(self, row: int) -> Segment:
        """The segment of a row."""
        return Segment(self.timeline, self._numbers[row], self.size)

    def _commit(self, row: int, offset: str, time: str) -> Commit:
        start = self._numbers[row] * self.size
        return Commit(Lsn(start + self.column(offset)[row]), self.column(time)[row])


class WalIndex:
    """The notes of a cluster's segments. Not all segments need to be in it."""

    def __init__(self, timelines: Mapping[Timeline, TimelineIndex]) -> None:
        self._timelines = timelines

    def __len__(self) -> int:
        return sum(map(len, self._timelines.values()))

    def timeline(self, timeline: Timeline) -> TimelineIndex | None:
        """The notes of one timeline."""
        return self._timelines.get(timeline)

    def notes(self, segment: Segment) -> SegmentNotes | None:
        """What is noted of a segment, or None."""
        found = self._timelines.get(segment.timeline)
        return None if found is None else found.notes(segment.number)

    def first_commit(self, way: Iterable[Stretch]) -> Commit | None:
        """The first commit on a way."""
        for index, rows in self._rows(way):
            commits = index.column("commits")
            row = next((row for row in rows if commits[row]), None)
            if row is not None:
                return index.first_commit(row)
        return None

    def last_record(self, way: Sequence[Stretch]) -> Lsn | None:
        """Where the last record begins that is whole on a way; None if its end is not noted."""
        if not way or self.notes(way[-1].last) is None:
            return None
        for index, rows in self._rows(reversed(way)):
            offsets = index.column("last_record")
            row = next((row for row in reversed(rows) if offsets[row] >= 0), None)
            if row is not None:
                return Lsn(index.segment(row).start + offsets[row])
        return None

    def last_commit(self, way: Iterable[Stretch]) -> Commit | None:
        """The last commit on a way."""
        for index, rows in self._rows(reversed(list(way))):
            commits = index.column("commits")
            row = next((row for row in reversed(rows) if commits[row]), None)
            if row is not None:
                return index.last_commit(row)
        return None

    def high_time(self, way: Iterable[Stretch]) -> int | None:
        """The latest time of a commit or an abort on a way."""
        latest = NEVER
        for index, rows in self._rows(way):
            column = index.column("high_time")
            latest = max(latest, max(column[rows.start : rows.stop], default=NEVER))
        return None if latest == NEVER else latest

    def events(self, way: Iterable[Stretch]) -> Iterator[WalEvent]:
        """Yield what else is noted of a way, in order."""
        for stretch in way:
            index = self._timelines.get(stretch.timeline)
            if index is not None:
                yield from (
                    event for event in index.events if stretch.start <= event.lsn < stretch.end
                )

    def _rows(self, way: Iterable[Stretch]) -> Iterator[tuple[TimelineIndex, range]]:
        for stretch in way:
            index = self._timelines.get(stretch.timeline)
            if index is not None:
                yield index, index.between(stretch.first.number, stretch.last.number + 1)
