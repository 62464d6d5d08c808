"""Backups and WAL on an axis of time: where the bars and marks of a picture go. Pure.

WAL has positions and few times; between those that are known, time is taken to pass evenly.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.walrecord import EventKind, from_datetime, to_datetime
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.coverage import Stretch, TimelineWal
from pgbackup.repo.moments.survey import Survey


@dataclass(frozen=True, slots=True)
class Bar:
    """Segments that are there, or missing, from one time to another."""

    stretch: Stretch
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """A backup or a restore point. is_good: false for a backup from which nothing is reachable."""

    name: str
    time: datetime
    lsn: Lsn
    is_good: bool = True


@dataclass(frozen=True, slots=True)
class Lane:
    """What there is of one timeline."""

    timeline: Timeline
    bars: tuple[Bar, ...]
    gaps: tuple[Bar, ...]
    backups: tuple[Mark, ...]
    points: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """The whole picture. begin < end, unless there is nothing at all."""

    lanes: tuple[Lane, ...]
    begin: datetime
    end: datetime

    def place(self, time: datetime) -> float:
        """Where a time is: 0 at the beginning, 1 at the end."""
        width = (self.end - self.begin).total_seconds()
        return (time - self.begin).total_seconds() / width if width > 0 else 0.0


def draw(survey: Survey) -> Chart | None:
    """Make the picture; None if nothing has a time."""
    wals = {each.timeline: each for each in survey.timelines}
    for record in survey.backups:
        wals.setdefault(record.timeline, TimelineWal(record.timeline, (), (), False, 0))
    lanes = [_lane(survey, wals[timeline]) for timeline in sorted(wals)]
    times = [
        time
        for lane in lanes
        for time in (
            *(time for bar in lane.bars for time in (bar.begin, bar.end)),
            *(mark.time for mark in lane.backups),
        )
    ]
    if not times:
        return None
    return Chart(tuple(lane for lane in lanes if lane.bars or lane.backups), min(times), max(times))


def _lane(survey: Survey, wal: TimelineWal) -> Lane:
    clock = _Clock(_anchors(survey, wal))
    reachable = {each.label for each in survey.windows if each.is_reachable}
    return Lane(
        wal.timeline,
        tuple(clock.bars(wal.stretches)),
        tuple(clock.bars(each for each in survey.gaps.holes if each.timeline == wal.timeline)),
        tuple(
            Mark(record.label, record.stop_time, record.stop_lsn, record.label in reachable)
            for record in _backups(survey, wal.timeline)
        ),
        tuple(
            Mark(event.name, to_datetime(event.time), event.lsn)
            for event in survey.index.events(wal.stretches)
            if event.kind is EventKind.RESTORE_POINT
        ),
    )


def _backups(survey: Survey, timeline: Timeline) -> list[BackupRecord]:
    return [each for each in survey.backups if each.timeline == timeline]


def _anchors(survey: Survey, wal: TimelineWal) -> Iterator[tuple[int, int]]:
    """Positions of a timeline with their times."""
    for record in _backups(survey, wal.timeline):
        yield record.start_lsn, from_datetime(record.start_time)
        yield record.stop_lsn, from_datetime(record.stop_time)
    for stretch in wal.stretches:
        for commit in (survey.index.first_commit([stretch]), survey.index.last_commit([stretch])):
            if commit is not None:
                yield commit
    for event in survey.index.events(wal.stretches):
        yield event.lsn, event.time


class _Clock:
    """Tells the time at a position."""

    def __init__(self, anchors: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(anchors)
        self._lsns = [lsn for lsn, _ in ordered]
        self._times = list(accumulate((time for _, time in ordered), max))

    def bars(self, stretches: Iterable[Stretch]) -> Iterator[Bar]:
        """Yield stretches with their times; nothing if no time is known."""
        if self._lsns:
            for each in stretches:
                yield Bar(each, self._at(each.start), self._at(each.end))

    def _at(self, lsn: int) -> datetime:
        after = bisect_left(self._lsns, lsn)
        if after in (0, len(self._lsns)):
            return to_datetime(self._times[min(after, len(self._lsns) - 1)])
        low, high = self._lsns[after - 1], self._lsns[after]
        begin, end = self._times[after - 1], self._times[after]
        return to_datetime(begin + (end - begin) * (lsn - low) // (high - low))
