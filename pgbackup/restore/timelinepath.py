"""The ways through the archive: from a backup, along the history of a timeline, to the end of WAL.

Pure: records, histories and what is there of each timeline in, routes out. Nothing is read, so what
a segment holds is not known here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pgbackup.errors import WalGap
from pgbackup.pg.history import TimelineHistory, WalSpan
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.coverage import TimelineWal
from pgbackup.repo.moments.walindex import WalIndex
from pgbackup.repo.moments.windows import EndsBy, Window, windows


class Route(NamedTuple):
    """A backup, the timeline that recovery follows from there, and how far its WAL goes.

    unfinished: the segment at the end of which there is only a beginning, if it can be used.
    """

    record: BackupRecord
    history: TimelineHistory
    window: Window
    unfinished: Segment | None

    @property
    def timeline(self) -> Timeline:
        """The timeline that recovery follows, and ends on."""
        return self.history.timeline

    @property
    def start(self) -> Lsn:
        """Where recovery begins to read."""
        return self.record.start_lsn

    @property
    def consistent(self) -> Lsn:
        """From here on recovery may stop."""
        return self.record.stop_lsn

    @property
    def end(self) -> Lsn:
        """Behind the last complete segment that joins on."""
        return self.window.end.lsn

    @property
    def missing(self) -> Segment | None:
        """The first segment that is not there although WAL of a later place is."""
        hole = self.window.missing
        return hole.first if hole is not None and self.window.ends_by is EndsBy.GAP else None

    def spans(self, end: Lsn) -> list[WalSpan]:
        """The WAL from the start of the backup to a position, by timeline."""
        return list(_spans(self.history, self.start, end))

    def segments(self, start: Lsn, end: Lsn | None = None) -> Iterator[Segment]:
        """Yield the complete files that recovery reads, in order, from the one with `start` on.

        end: behind the last byte that is wanted; None goes on to the last.
        """
        for stretch in self.window.way:
            for segment in stretch.segments():
                if segment.end > start and (end is None or segment.start < end):
                    yield segment


@dataclass(frozen=True, slots=True)
class WalMap:
    """What the archive holds of one cluster.

    records: oldest first.
    """

    records: Sequence[BackupRecord]
    histories: Mapping[Timeline, TimelineHistory]
    timelines: Sequence[TimelineWal]
    index: WalIndex

    @property
    def newest_timeline(self) -> Timeline:
        """The newest whose history is known."""
        return max([Timeline(1), *self.histories])

    def history(self, timeline: Timeline) -> TimelineHistory:
        """The history of a timeline. Raises: WalGap."""
        if timeline in self.histories:
            return self.histories[timeline]
        if timeline == 1:
            return TimelineHistory(timeline)
        raise WalGap(
            f"could not follow timeline {timeline}: the archive has no history of it",
            hint=f"Type --target-timeline {self.newest_timeline}, the newest that there is.",
        )

    def routes(self, history: TimelineHistory) -> list[Route]:
        """A route from every backup that leads to a timeline and has its own WAL, newest first."""
        found = (self.route(record, history) for record in reversed(self.records))
        return [route for route in found if route is not None and route.window.is_reachable]

    def route(self, record: BackupRecord, history: TimelineHistory) -> Route | None:
        """How far a timeline can be followed from a backup; None if it does not lead there."""
        known = {history.timeline: history}
        for window in windows([record], known, self.timelines, self.index):
            if window.timeline == history.timeline:
                return Route(record, history, window, self._unfinished(window, history))
        return None

    def _unfinished(self, window: Window, history: TimelineHistory) -> Segment | None:
        """The segment behind a window, if wal-get would deliver the beginning that is there."""
        for wal in self.timelines:
            for segment in wal.partial:
                if (
                    segment.start <= window.end.lsn < segment.end
                    and history.timeline_of(Lsn(segment.end - 1)) == segment.timeline
                    and not self._is_left(segment)
                ):
                    return segment
        return None

    def _is_left(self, segment: Segment) -> bool:
        """Tell whether a timeline left this one before the end of a segment."""
        return any(
            entry.timeline == segment.timeline and entry.switch < segment.end
            for history in self.histories.values()
            for entry in history.entries
        )


def _spans(history: TimelineHistory, start: Lsn, end: Lsn) -> Iterator[WalSpan]:
    while start < end:
        timeline = history.timeline_of(start)
        switch = history.switch_from(timeline)
        stop = end if switch is None else min(switch, end)
        yield WalSpan(timeline, start, stop)
        start = stop
