"""`wal verify`: reads the segments of an archive and checks that their records chain.

Each stretch of segments is walked from front to back: page headers, addresses, the checksum of
each record, and that it names the one before. What was right is remembered; from the first damage
on nothing is, so that each run tells of it again. Segments come in pieces and nothing is kept.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from pgbackup.archiving.verified import Verified, put_verified, read_verified
from pgbackup.backup.verification.wal import check_content
from pgbackup.backup.walrecords import WalRecords
from pgbackup.errors import CorruptData, NotFound, StorageError, WrongSystem
from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.inventory import read_segment_size, read_timelines
from pgbackup.repo.repository import ClusterRepository


class Damage(NamedTuple):
    """Something wrong in a segment. lsn: no record before it is wrong."""

    segment: Segment
    lsn: Lsn
    reason: str


class ScannedStretch(NamedTuple):
    """A stretch after its check.

    checked: how many of its segments were read this time.
    through: behind the last record before which all are right; None if there is no such record.
    """

    stretch: Stretch
    checked: int
    through: Lsn | None
    damages: tuple[Damage, ...]


class WalScan:
    """One check of an archive."""

    def __init__(self, cluster: ClusterRepository, *, every: bool) -> None:
        """List what there is to do.

        every: read all, also what was verified before.

        Raises: NotFound, CorruptData, StorageError.
        """
        self._cluster = cluster
        known = read_verified(cluster, read_segment_size(cluster))
        self._verified: dict[Segment, Verified] = {}
        self._plan: list[tuple[Stretch, Stretch | None]] = []
        for timeline in read_timelines(cluster):
            for stretch in timeline.stretches:
                self._add(stretch, known, every=every)

    @property
    def size(self) -> int:
        """Bytes to read."""
        return sum(
            todo.segment_count * todo.first.size for _, todo in self._plan if todo is not None
        )

    def run(self, advance: Callable[[int], object]) -> list[ScannedStretch]:
        """Check, and remember what is right, also if the run is cut short.

        advance: told of the bytes read.

        Raises: StorageError.
        """
        try:
            return [self._scan(stretch, todo, advance) for stretch, todo in self._plan]
        finally:
            with suppress(StorageError):  # who may only read checks all the same
                put_verified(self._cluster, self._verified.values())

    def _add(self, stretch: Stretch, known: Sequence[Verified], *, every: bool) -> None:
        for each in known:
            before = each.within(stretch)
            if before is None:
                continue
            self._verified[stretch.first] = before
            if every:
                break
            todo = None
            if before.last != stretch.last:
                begin = Segment.containing(stretch.timeline, before.resume, stretch.first.size)
                begin = begin if begin.number > stretch.first.number else stretch.first
                todo = Stretch(begin, stretch.last)
            self._plan.append((stretch, todo))
            return
        self._plan.append((stretch, stretch))

    def _scan(
        self, stretch: Stretch, todo: Stretch | None, advance: Callable[[int], object]
    ) -> ScannedStretch:
        if todo is None:
            return ScannedStretch(stretch, 0, self._verified[stretch.first].through, ())
        if todo == stretch:
            self._verified.pop(stretch.first, None)
        walk = WalRecords()
        damages: list[Damage] = []
        is_whole = True
        for segment in todo.segments():
            try:
                self._check(walk, segment, advance)
            except NotFound:  # removed meanwhile
                walk, is_whole = WalRecords(), False
            except (CorruptData, WrongSystem) as error:
                damages.append(Damage(segment, walk.position or segment.start, error.message))
                walk, is_whole = WalRecords(), False
            if is_whole:
                self._note(stretch.first, segment, walk)
        verified = self._verified.get(stretch.first)
        through = None if verified is None else verified.through
        return ScannedStretch(stretch, todo.segment_count, through, tuple(damages))

    def _check(self, walk: WalRecords, segment: Segment, advance: Callable[[int], object]) -> None:
        chunks = self._cluster.archive.chunks(segment.name, segment.size)
        check_content(walk, segment, self._cluster.system, chunks, advance)

    def _note(self, first: Segment, last: Segment, walk: WalRecords) -> None:
        if walk.position is not None and walk.last_start is not None:
            self._verified[first] = Verified(first, last, walk.position, walk.last_start)
