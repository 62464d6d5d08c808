"""Reads from a repository what `coverage` judges: names, histories, and what backups need."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pgbackup.errors import NotFound
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Timeline, WalPosition
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.coverage import Gaps, Need, Stretch, TimelineWal, by_timeline, find_gaps
from pgbackup.repo.knownholes import KnownHole, read_known_holes
from pgbackup.repo.repository import ClusterRepository


class Inventory(NamedTuple):
    """What is there of one cluster's WAL.

    segment_size: bytes.
    unread:       labels of backups whose needs are not known, since their records are damaged.
    known:        holes that a receiver recorded; some may be filled.
    """

    segment_size: int
    timelines: tuple[TimelineWal, ...]
    histories: Mapping[Timeline, TimelineHistory]
    needs: tuple[Need, ...]
    unread: tuple[str, ...]
    known: tuple[KnownHole, ...]

    def gaps(self) -> Gaps:
        """What is missing."""
        known = [each.stretch for each in self.known]
        return find_gaps(self.timelines, self.histories, self.needs, self.segment_size, known)

    def explain(self, hole: Stretch) -> tuple[KnownHole, ...]:
        """What is known of a hole, or of parts of it."""
        return tuple(
            each for each in self.known if each.stretch.first in hole or hole.first in each.stretch
        )


def read_timelines(cluster: ClusterRepository) -> list[TimelineWal]:
    """What the archive holds. Raises: NotFound, CorruptData, StorageError."""
    return by_timeline(cluster.archive.files(), read_segment_size(cluster))


def read_segment_size(cluster: ClusterRepository) -> int:
    """Bytes of a segment of this cluster. Raises: NotFound, CorruptData, StorageError."""
    facts = cluster.facts()
    if facts is None:
        raise NotFound(f"could not find WAL of system {cluster.system}: nothing is known of it")
    return facts.wal_segment_size


def read_inventory(cluster: ClusterRepository) -> Inventory:
    """Everything that `gaps` needs. Raises: NotFound, CorruptData, StorageError."""
    size = read_segment_size(cluster)
    # The records come first: a segment that is archived meanwhile must not look missing.
    records, damaged = cluster.catalog.read_all()
    alone = cluster.catalog.alone()
    timelines = by_timeline(cluster.archive.files(), size)
    histories = read_histories(cluster.archive, timelines)
    return Inventory(
        size,
        tuple(timelines),
        histories,
        tuple(_need(record, size, record.label in alone) for record in records),
        tuple(each.label for each in damaged),
        tuple(read_known_holes(cluster, size)),
    )


def read_histories(
    archive: WalArchive, timelines: Iterable[TimelineWal]
) -> dict[Timeline, TimelineHistory]:
    """The histories whose files are there. Raises: NotFound, CorruptData, StorageError."""
    return {
        each.timeline: TimelineHistory.parse(
            each.timeline, archive.read(each.timeline.history_name)
        )
        for each in timelines
        if each.has_history
    }


def _need(record: BackupRecord, segment_size: int, is_alone: bool) -> Need:
    start = end = WalPosition(record.timeline, record.start_lsn)
    for wal_range in record.wal:
        _, last = wal_range.check(segment_size)
        end = WalPosition(last.timeline, last.end)
    return Need(start, end, is_alone)
