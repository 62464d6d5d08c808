"""Reads from a repository what tells which moments can be reached, and asks it for the nearest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.pg.walrecord import EventKind, WalEvent
from pgbackup.repo.catalog import BackupRecord, DamagedBackup
from pgbackup.repo.coverage import Gaps, Stretch, TimelineWal
from pgbackup.repo.inventory import read_inventory
from pgbackup.repo.moments.indexing import Unread, bring_up_to_date, read_records
from pgbackup.repo.moments.walindex import Commit, WalIndex
from pgbackup.repo.moments.windows import Window, windows
from pgbackup.repo.repository import ClusterRepository


@dataclass(frozen=True, slots=True)
class Survey:
    """What is there of one cluster, and what can be reached with it.

    segment_size: bytes.
    unread:       segments that could not be read, so that nothing is known of their commits.
    gaps:         what is missing, without what an expire let go of.
    """

    system: int
    segment_size: int
    backups: tuple[BackupRecord, ...]
    damaged: tuple[DamagedBackup, ...]
    timelines: tuple[TimelineWal, ...]
    index: WalIndex
    windows: tuple[Window, ...]
    unread: tuple[Unread, ...]
    gaps: Gaps

    def events(self) -> list[tuple[Timeline, WalEvent]]:
        """Restore points, checkpoints and the like, by timeline and position."""
        return [
            (each.timeline, event)
            for each in self.timelines
            for event in self.index.events(each.stretches)
        ]

    def restore_points(self) -> list[tuple[Timeline, WalEvent]]:
        """All of them; one that two timelines share is in both if both have the segment."""
        return [each for each in self.events() if each[1].kind is EventKind.RESTORE_POINT]


def read_survey(
    cluster: ClusterRepository,
    begin: Callable[[int], object] = bool,
    advance: Callable[[int], object] = bool,
) -> Survey:
    """Bring the index up to date, and see what can be reached.

    begin:   told how many bytes of WAL are to be read.
    advance: told of those that were.

    Raises: NotFound, CorruptData, StorageError.
    """
    # The records come first: a segment that is archived meanwhile must not look missing.
    backups, damaged = cluster.catalog.read_all()
    inventory = read_inventory(cluster)
    timelines, size = inventory.timelines, inventory.segment_size
    indexed = bring_up_to_date(cluster, timelines, size, begin, advance)
    return Survey(
        system=cluster.system,
        segment_size=size,
        backups=tuple(backups),
        damaged=tuple(damaged),
        timelines=timelines,
        index=indexed.index,
        windows=tuple(windows(backups, inventory.histories, timelines, indexed.index)),
        unread=indexed.unread,
        gaps=inventory.gaps(),
    )


def commit_before(
    cluster: ClusterRepository,
    timelines: Sequence[TimelineWal],
    index: WalIndex,
    window: Window,
    time: int,
) -> Commit | None:
    """The last commit that recovery to a time brings back, or None if that is not in the window.

    One at exactly this time counts. Only the segment in which recovery would stop is read.

    time: microseconds since 2000-01-01 UTC.

    Raises: NotFound, CorruptData, WrongSystem, StorageError.
    """
    stop, last = _stop(index, window, time), window.last_commit
    if stop is not None:
        last = index.last_commit(_before(window.way, stop))
        for end in read_records(cluster, stop, timelines).ends():
            if end.time > time and end.lsn >= window.start.lsn:
                break
            if end.is_commit:
                last = Commit(end.lsn, end.time)
    return None if last is None or last.lsn < window.start.lsn else last


def _stop(index: WalIndex, window: Window, time: int) -> Segment | None:
    """The first segment behind the backup with a commit or an abort that is later."""
    for stretch in window.way:
        notes = index.timeline(stretch.timeline)
        if notes is None:
            continue
        high = notes.column("high_time")
        for row in notes.between(stretch.first.number, stretch.last.number + 1):
            if high[row] > time and notes.segment(row).end > window.start.lsn:
                return notes.segment(row)
    return None


def _before(way: Sequence[Stretch], segment: Segment) -> list[Stretch]:
    """What of a way comes before a segment."""
    return [
        Stretch(each.first, Segment(each.timeline, last, segment.size))
        for each in way
        if (last := min(each.last.number, segment.number - 1)) >= each.first.number
    ]
