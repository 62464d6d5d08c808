"""Which moments can be reached: from each backup, along each timeline, up to where WAL ends.

Pure: records, histories, the names of archived segments and the index of their commits in, values
out. Without the index, or where it has not got to, positions are right and times are not known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import MAX_LSN, Lsn, Segment, Timeline, WalPosition
from pgbackup.pg.walrecord import to_datetime
from pgbackup.repo.coverage import Stretch, TimelineWal
from pgbackup.repo.moments.walindex import Commit, WalIndex
from pgbackup.repo.record import BackupRecord


class EndsBy(Enum):
    """Why a window ends: WAL is missing, the archive ends, or the timeline was left here."""

    GAP = "gap"
    ARCHIVE = "archive"
    FORK = "fork"


@dataclass(frozen=True, slots=True)
class Window:
    """What recovery from one backup towards one timeline can reach.

    label:         of the backup.
    timeline:      recovery_target_timeline.
    start:         where the backup stops: no recovery can stop before.
    end:           behind the last segment that recovery gets to; before start if WAL is missing
                   that the backup itself needs, and nothing can be reached.
    way:           the segments that recovery reads, from the backup's first on.
    last_record:   where the last whole record begins, the greatest recovery_target_lsn; None if
                   it is not known.
    first_commit:  the first at or behind start.
    last_commit:   before end.
    after_time:    the latest time of a commit or an abort before start: recovery to an earlier
                   time would stop before the backup is consistent. None if there is none.
    before_time:   the latest time of one behind start: recovery to this time or a later one would
                   find no commit or abort to stop at. None if there is none.
    missing:       where it ends by a gap, the first segments that are missing.
    """

    label: str
    timeline: Timeline
    start: WalPosition
    end: WalPosition
    way: tuple[Stretch, ...]
    ends_by: EndsBy
    missing: Stretch | None
    last_record: Lsn | None = None
    first_commit: Commit | None = None
    last_commit: Commit | None = None
    after_time: datetime | None = None
    before_time: datetime | None = None

    @property
    def is_reachable(self) -> bool:
        """Tell whether all WAL of the backup itself is there."""
        return self.end.lsn >= self.start.lsn

    def __contains__(self, lsn: Lsn) -> bool:
        """Tell whether recovery_target_lsn can be this."""
        last = self.last_record
        if last is None:
            last = Lsn(self.end.lsn - 1)
        return self.is_reachable and self.start.lsn <= lsn <= last


def windows(
    backups: Sequence[BackupRecord],
    histories: Mapping[Timeline, TimelineHistory],
    archived: Sequence[TimelineWal],
    index: WalIndex,
) -> list[Window]:
    """What each backup can be recovered to, in the order of backups, then of timelines.

    Of a backup that stops inside a segment, as one of a standby does, the segment's commits are
    told apart only as far as the index does: after_time can then be later than it has to be.

    histories: of those timelines whose file is there.
    """
    there = {each.timeline: each for each in archived}
    found = []
    for record in backups:
        known = {Timeline(1): TimelineHistory(Timeline(1)), **histories}
        known.setdefault(record.stop_timeline, TimelineHistory(record.stop_timeline))
        for timeline in sorted(known):
            way = _way(record, known[timeline])
            if way:
                window = _window(record, known[timeline], way, there)
                window = _ended(window, way, known, there)
                found.append(_with_moments(window, index))
    return found


def _way(record: BackupRecord, history: TimelineHistory) -> list[Stretch]:
    """The segments that recovery towards a timeline would read, were all of them there.

    Of the segment in which a timeline was left, it reads the newer timeline's file.
    """
    start = WalPosition(record.timeline, record.start_lsn)
    stop = WalPosition(record.stop_timeline, record.stop_lsn)
    if start not in history or stop not in history:
        return []
    size = record.wal_segment_size
    spans = history.path(start, WalPosition(history.timeline, Lsn(MAX_LSN)))
    return [
        Stretch(
            Segment(span.timeline, span.start // size, size),
            Segment(span.timeline, span.end // size - 1, size),
        )
        for span in spans
        if span.start // size < span.end // size
    ]


def _window(
    record: BackupRecord,
    history: TimelineHistory,
    way: Sequence[Stretch],
    there: Mapping[Timeline, TimelineWal],
) -> Window:
    """Follow the way to the first segment that is missing."""
    taken = []
    missing = way[0].first
    for part in way:
        missing = part.first
        stretch = _holding(there, part.first)
        if stretch is None:
            break
        last = min(part.last, stretch.last, key=lambda each: each.number)
        taken.append(Stretch(part.first, last))
        if last != part.last:
            missing = last.next()
            break
    end = missing.start
    if record.tail is not None:
        end = max(end, record.stop_lsn)
    return Window(
        label=record.label,
        timeline=history.timeline,
        start=WalPosition(record.stop_timeline, record.stop_lsn),
        end=WalPosition(taken[-1].timeline if taken else record.timeline, end),
        way=tuple(taken),
        ends_by=EndsBy.ARCHIVE,
        missing=Stretch(missing, missing),
    )


def _holding(there: Mapping[Timeline, TimelineWal], segment: Segment) -> Stretch | None:
    """The stretch that a segment is in."""
    known = there.get(segment.timeline)
    stretches = () if known is None else known.stretches
    for each in stretches:
        if each.first.number <= segment.number <= each.last.number:
            return each
    return None


def _ended(
    window: Window,
    way: Sequence[Stretch],
    histories: Mapping[Timeline, TimelineHistory],
    there: Mapping[Timeline, TimelineWal],
) -> Window:
    """Say why a window ends where it does."""
    assert window.missing is not None
    segment = window.missing.first
    hole = _hole(segment, way, there)
    if hole is not None:
        return replace(window, ends_by=EndsBy.GAP, missing=hole)
    left = (
        history.switch_from(segment.timeline)
        for history in histories.values()
        if any(entry.timeline == segment.timeline for entry in history.entries)
    )
    is_fork = any(lsn is not None and segment.start <= lsn <= segment.end for lsn in left)
    return replace(window, ends_by=EndsBy.FORK if is_fork else EndsBy.ARCHIVE, missing=None)


def _hole(
    segment: Segment, way: Sequence[Stretch], there: Mapping[Timeline, TimelineWal]
) -> Stretch | None:
    """The missing segments from one on, if some of the way are there behind them."""
    hole = None
    for part in way:
        if part.last.number < segment.number:
            continue
        known = there.get(part.timeline)
        later = (
            each.first.number
            for each in (() if known is None else known.stretches)
            if each.last.number > segment.number and each.first.number <= part.last.number
        )
        found = min(later, default=None)
        if part.timeline == segment.timeline:
            last = part.last.number if found is None else found - 1
            hole = Stretch(segment, Segment(segment.timeline, last, segment.size))
        if found is not None:
            return hole
    return None


def _with_moments(window: Window, index: WalIndex) -> Window:
    """Add what the index knows."""
    if not window.way:
        return window
    size = window.way[0].first.size
    stop = Segment.ending_at(window.start.timeline, window.start.lsn, size).number
    before, behind = list(_part(window.way, 0, stop + 1)), list(_part(window.way, stop + 1, None))
    last_before = index.last_commit(_part(window.way, stop, stop + 1))
    if last_before is not None and last_before.lsn >= window.start.lsn:
        behind = list(_part(window.way, stop, None))
    first = index.first_commit(behind)
    if first is not None and first.lsn < window.start.lsn:
        first = last_before
    after_time, before_time = index.high_time(before), index.high_time(behind)
    return replace(
        window,
        last_record=index.last_record(window.way),
        first_commit=first,
        last_commit=index.last_commit(behind),
        after_time=None if after_time is None else to_datetime(after_time),
        before_time=None if before_time is None else to_datetime(before_time),
    )


def _part(way: Sequence[Stretch], first: int, end: int | None) -> Iterator[Stretch]:
    """Those segments of a way that have numbers from first to before end."""
    for each in way:
        low = max(first, each.first.number)
        high = each.last.number if end is None else min(end - 1, each.last.number)
        if low <= high:
            size, timeline = each.first.size, each.timeline
            yield Stretch(Segment(timeline, low, size), Segment(timeline, high, size))
