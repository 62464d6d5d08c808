"""What an archive holds by timeline, and what is missing in it.

Pure: names, histories and the needs of backups in, stretches of segments out. Nothing is read, so
nothing is said about contents. Work and memory grow with the files that are there, not with the
numbers in their names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pgbackup.pg.history import TimelineHistory, WalSpan
from pgbackup.pg.lsn import MAX_LSN, Lsn, Segment, Timeline, WalFileKind, WalPosition
from pgbackup.repo.archive import ArchivedFile

Numbers = dict[Timeline, list[tuple[int, int]]]
"""Ranges of segment numbers by timeline; the second number of a range is not in it."""


class Stretch(NamedTuple):
    """Consecutive segments of one timeline, from the first to the last."""

    first: Segment
    last: Segment

    @property
    def timeline(self) -> Timeline:
        return self.first.timeline

    @property
    def segment_count(self) -> int:
        """How many segments."""
        return self.last.number - self.first.number + 1

    @property
    def start(self) -> Lsn:
        return self.first.start

    @property
    def end(self) -> Lsn:
        """The position behind the last byte."""
        return self.last.end

    def __contains__(self, segment: object) -> bool:
        return (
            isinstance(segment, Segment)
            and segment.timeline == self.timeline
            and self.first.number <= segment.number <= self.last.number
        )

    def segments(self) -> Iterator[Segment]:
        """Yield all of them in order."""
        for number in range(self.first.number, self.last.number + 1):
            yield Segment(self.timeline, number, self.first.size)

    def __str__(self) -> str:
        return str(self.first) if self.segment_count == 1 else f"{self.first} to {self.last}"


class TimelineWal(NamedTuple):
    """What is there of one timeline.

    stretches:   of complete segments, in order, no two of them adjacent.
    partial:     segments of which an unfinished file is there.
    stored_size: bytes of all its objects.
    """

    timeline: Timeline
    stretches: tuple[Stretch, ...]
    partial: tuple[Segment, ...]
    has_history: bool
    stored_size: int

    @property
    def segment_count(self) -> int:
        """How many complete segments."""
        return sum(each.segment_count for each in self.stretches)

    @property
    def whole(self) -> Stretch | None:
        """From the first segment to the last, holes included; None if there is no segment."""
        if not self.stretches:
            return None
        return Stretch(self.stretches[0].first, self.stretches[-1].last)

    @property
    def holes(self) -> tuple[Stretch, ...]:
        """What is missing between the first segment and the last."""
        return tuple(
            Stretch(before.last.next(), _before(after.first))
            for before, after in zip(self.stretches, self.stretches[1:], strict=False)
        )


class Need(NamedTuple):
    """The WAL of a kept backup: everything from its start, at least up to the end.

    is_alone: an expire let go of what comes after the end.
    """

    start: WalPosition
    end: WalPosition
    is_alone: bool = False


class Gaps(NamedTuple):
    """What is missing.

    holes:     segments, by timeline and number.
    histories: timelines of which there is WAL and no history file.
    """

    holes: tuple[Stretch, ...]
    histories: tuple[Timeline, ...]


def by_timeline(files: Iterable[ArchivedFile], segment_size: int) -> list[TimelineWal]:
    """Sort the files of an archive by timeline.

    Raises: CorruptData for a name that no segment of this size has.
    """
    numbers: dict[Timeline, set[int]] = {}
    partial: dict[Timeline, set[int]] = {}
    histories = set()
    stored: dict[Timeline, int] = {}
    for file in files:
        timeline = file.name.timeline
        if timeline is None:
            continue
        stored[timeline] = stored.get(timeline, 0) + file.stored_size
        if file.name.kind is WalFileKind.HISTORY:
            histories.add(timeline)
        elif file.name.kind is WalFileKind.SEGMENT:
            numbers.setdefault(timeline, set()).add(file.name.segment(segment_size).number)
        elif file.name.kind is WalFileKind.PARTIAL:
            partial.setdefault(timeline, set()).add(file.name.segment(segment_size).number)
    return [
        TimelineWal(
            timeline,
            tuple(stretches_of(timeline, numbers.get(timeline, ()), segment_size)),
            tuple(Segment(timeline, n, segment_size) for n in sorted(partial.get(timeline, ()))),
            timeline in histories,
            stored[timeline],
        )
        for timeline in sorted(stored)
    ]


def find_gaps(
    there: Sequence[TimelineWal],
    histories: Mapping[Timeline, TimelineHistory],
    needs: Sequence[Need],
    segment_size: int,
    known: Sequence[Stretch] = (),
) -> Gaps:
    """Find what is missing on the way to the newest WAL of each timeline.

    The way begins with the oldest backup on it. If there are no backups at all it begins with
    the oldest segment; if there are some, a timeline that none leads to needs nothing. Of the
    segment in which a timeline was left, only the newer timeline's file is needed, which has
    all of it.

    histories: of those timelines whose file is there.
    known:     what is known to be missing, though nothing newer may be there.
    """
    wanted: Numbers = {}
    unknown = []
    for timeline in sorted({each.timeline for each in there} | {n.end.timeline for n in needs}):
        history = histories.get(timeline)
        if history is None:
            history = TimelineHistory(timeline)
            if timeline > 1:
                unknown.append(timeline)
        for span in (*_way(history, there, needs, segment_size, known), *_own(history, needs)):
            first, end = span.start // segment_size, span.end // segment_size
            if first < end:
                wanted.setdefault(span.timeline, []).append((first, end))
    present = {each.timeline: each.stretches for each in there}
    holes = [
        hole
        for timeline in sorted(wanted)
        for first, end in _merged(wanted[timeline])
        for hole in _missing(timeline, first, end, present.get(timeline, ()), segment_size)
    ]
    return Gaps(tuple(holes), tuple(unknown))


def _way(
    history: TimelineHistory,
    there: Sequence[TimelineWal],
    needs: Sequence[Need],
    segment_size: int,
    known: Sequence[Stretch],
) -> list[WalSpan]:
    """The WAL that must be there for the newest of a timeline to be reached."""
    starts = [need.start for need in needs if need.start in history and not need.is_alone]
    end = _newest(history, there, needs, segment_size, known)
    if starts:
        start = min(starts, key=lambda each: each.lsn)
    elif needs:
        return []
    else:
        oldest = _oldest(history, there)
        if oldest is None:
            return []
        start = oldest
    if start.lsn >= end:
        return []
    return [
        span._replace(end=min(span.end, end))
        for span in history.path(start, WalPosition(history.timeline, Lsn(MAX_LSN)))
        if span.start < end
    ]


def _own(history: TimelineHistory, needs: Sequence[Need]) -> Iterator[WalSpan]:
    """What backups of this timeline need that stand alone, in whole segments."""
    for need in needs:
        if need.is_alone and need.end.timeline == history.timeline and need.start in history:
            yield from history.path(need.start, need.end)


def _newest(
    history: TimelineHistory,
    there: Sequence[TimelineWal],
    needs: Sequence[Need],
    segment_size: int,
    known: Sequence[Stretch],
) -> Lsn:
    """Up to where there must be segments. At an unfinished one, the complete ones end."""
    begin = history.entries[-1].switch if history.entries else Lsn(0)
    ends = [Lsn(begin - begin % segment_size)]
    for each in there:
        if each.timeline == history.timeline:
            ends += [stretch.end for stretch in each.stretches]
            ends += [segment.start for segment in each.partial]
    unfinished = {segment for each in there for segment in each.partial}
    ends += [
        stretch.last.start if stretch.last in unfinished else stretch.end
        for stretch in known
        if stretch.timeline == history.timeline
    ]
    ends += [need.end.lsn for need in needs if need.end.timeline == history.timeline]
    return max(ends)


def _oldest(history: TimelineHistory, there: Sequence[TimelineWal]) -> WalPosition | None:
    """Where the oldest segment on a way begins, or the part of it that is on the way."""
    found = []
    for span in _spans(history):
        for each in there:
            if each.timeline == span.timeline:
                found += [
                    WalPosition(span.timeline, max(span.start, stretch.start))
                    for stretch in each.stretches
                    if stretch.start < span.end and span.start < stretch.end
                ]
    return min(found, key=lambda each: each.lsn, default=None)


def _spans(history: TimelineHistory) -> list[WalSpan]:
    first = history.entries[0].timeline if history.entries else history.timeline
    end = WalPosition(history.timeline, Lsn(MAX_LSN))
    return history.path(WalPosition(first, Lsn(0)), end)


def stretches_of(timeline: Timeline, numbers: Iterable[int], size: int) -> Iterator[Stretch]:
    """Yield segments, given by number, as few stretches. size: bytes of a segment."""
    for first, end in _merged([(number, number + 1) for number in numbers]):
        yield Stretch(Segment(timeline, first, size), Segment(timeline, end - 1, size))


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in as few ranges as possible, in order."""
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def _missing(
    timeline: Timeline, first: int, end: int, there: Iterable[Stretch], size: int
) -> Iterator[Stretch]:
    """The numbers from first to before end of which there is no segment."""
    for stretch in there:
        if stretch.last.number < first or stretch.first.number >= end:
            continue
        if first < stretch.first.number:
            yield Stretch(Segment(timeline, first, size), _before(stretch.first))
        first = stretch.last.number + 1
    if first < end:
        yield Stretch(Segment(timeline, first, size), Segment(timeline, end - 1, size))


def _before(segment: Segment) -> Segment:
    return Segment(segment.timeline, segment.number - 1, segment.size)
