"""Brings the notes of a cluster's segments up to date: reads the segments that have none.

It runs where somebody wants to know, never in the receiver. What was read is stored now and then,
and at the end whatever happens, so a run that is killed has not worked in vain. Several at once
may do the same work twice and no harm.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound, StorageError, WrongSystem
from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.coverage import Stretch, TimelineWal
from pgbackup.repo.moments.indexpieces import ROW, Piece, joined, put_piece, read_pieces
from pgbackup.repo.moments.recordsearch import find_records
from pgbackup.repo.moments.segmentrecords import SegmentRecords
from pgbackup.repo.moments.walindex import TimelineIndex, WalIndex
from pgbackup.repo.repository import ClusterRepository

_BATCH = 1000  # segments, after which what was read is stored
_THREADS = 2  # decompression releases the interpreter's lock, the search does not


class Unread(NamedTuple):
    """A segment that could not be read, and why."""

    segment: Segment
    reason: str


@dataclass(frozen=True, slots=True)
class Indexed:
    """The index, and which segments are not in it."""

    index: WalIndex
    unread: tuple[Unread, ...]


def bring_up_to_date(
    cluster: ClusterRepository,
    timelines: Sequence[TimelineWal],
    segment_size: int,
    begin: Callable[[int], object] = bool,
    advance: Callable[[int], object] = bool,
    *,
    is_stored: bool = True,
) -> Indexed:
    """Read what is new, and give the notes of all segments that are there.

    timelines: what is there.
    begin:     told how many bytes of WAL are to be read.
    advance:   told of those that were.
    is_stored: keep what was read, so that nobody has to read it again.

    Raises: StorageError.
    """
    indexing = _Indexing(cluster, timelines, segment_size, is_stored=is_stored)
    return indexing.run(begin, advance)


def read_records(
    cluster: ClusterRepository, segment: Segment, timelines: Sequence[TimelineWal]
) -> SegmentRecords:
    """The commits and the like of one segment.

    Raises: NotFound, CorruptData, WrongSystem, StorageError.
    """
    archive = cluster.archive

    def following() -> Iterator[Iterable[bytes]]:
        number = segment.number + 1
        while (timeline := _holder(timelines, segment.timeline, number)) is not None:
            name = Segment(timeline, number, segment.size).name
            yield archive.chunks(name, segment.size)
            number += 1

    chunks = archive.chunks(segment.name, segment.size)
    return find_records(segment, cluster.system, chunks, following)


def _holder(timelines: Sequence[TimelineWal], timeline: Timeline, number: int) -> Timeline | None:
    """The timeline of which there is a segment of this number: the same, or one that left it."""
    holders = [
        each.timeline
        for each in timelines
        if any(part.first.number <= number <= part.last.number for part in each.stretches)
    ]
    return min((each for each in holders if each >= timeline), default=None)


class _Indexing:
    """One run.

    _stored:  pieces as they are in the repository.
    _new:     read and not stored yet.
    _passing: read, and not to be stored: the rest of a record may come with the next segment.
    """

    def __init__(
        self,
        cluster: ClusterRepository,
        timelines: Sequence[TimelineWal],
        segment_size: int,
        *,
        is_stored: bool,
    ) -> None:
        self._cluster = cluster
        self._is_stored = is_stored
        self._timelines = {each.timeline: each for each in timelines}
        self._size = segment_size
        self._stored: dict[Timeline, list[Piece]] = {}
        for piece in read_pieces(cluster, segment_size):
            self._stored.setdefault(piece.timeline, []).append(piece)
        self._new: dict[Timeline, list[Piece]] = {}
        self._passing: dict[Timeline, list[Piece]] = {}
        self._unread: list[Unread] = []

    def run(self, begin: Callable[[int], object], advance: Callable[[int], object]) -> Indexed:
        """Read what is missing, and store it. Raises: StorageError."""
        missing = list(self._missing())
        if missing:
            begin(len(missing) * self._size)
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                for number, segment in enumerate(self._read_all(pool, missing), 1):
                    advance(segment.size)
                    if number % _BATCH == 0:
                        self._store()
        finally:
            self._store()
        return Indexed(WalIndex(dict(self._indexes())), tuple(self._unread))

    def _stretches(self, timeline: Timeline) -> Sequence[Stretch]:
        known = self._timelines.get(timeline)
        return () if known is None else known.stretches

    def _missing(self) -> Iterator[Segment]:
        for timeline in self._timelines:
            known = set(joined(timeline, self._stored.get(timeline, ())).numbers)
            for stretch in self._stretches(timeline):
                for number in range(stretch.first.number, stretch.last.number + 1):
                    if number not in known:
                        yield Segment(timeline, number, self._size)

    def _read_all(self, pool: ThreadPoolExecutor, wanted: Sequence[Segment]) -> Iterator[Segment]:
        """Read segments on threads, and yield each when it is noted, in order."""
        running: deque[tuple[Segment, Future[SegmentRecords]]] = deque()
        timelines = list(self._timelines.values())
        try:
            for segment in wanted:
                running.append(
                    (segment, pool.submit(read_records, self._cluster, segment, timelines))
                )
                if len(running) > 2 * _THREADS:
                    yield self._note(*running.popleft())
            while running:
                yield self._note(*running.popleft())
        finally:
            for _, future in running:
                future.cancel()

    def _note(self, segment: Segment, future: Future[SegmentRecords]) -> Segment:
        try:
            records = future.result()
        except (NotFound, CorruptData, WrongSystem) as error:
            self._unread.append(Unread(segment, error.message))
            return segment
        target = self._new if records.is_complete else self._passing
        piece = Piece.of_notes(segment.timeline, [records.notes()], records.events)
        target.setdefault(segment.timeline, []).append(piece)
        return segment

    def _store(self) -> None:
        """Store what is new, together with smaller pieces, so that there are never many."""
        if not self._is_stored:
            return
        with suppress(StorageError):  # then it is read again the next time
            if self._new:
                self._cluster.storage.reap(layout.wal_index_folder(self._cluster.system))
            for timeline in {*self._stored, *self._new}:
                self._store_timeline(timeline)

    def _store_timeline(self, timeline: Timeline) -> None:
        new = self._new.get(timeline, [])
        taken, length = [], len(new) * ROW
        kept = []
        for piece in sorted(self._stored.get(timeline, ()), key=lambda each: len(each.rows)):
            alive = piece.within(self._stretches(timeline))
            if len(alive.rows) * 2 <= len(piece.rows) or (new and len(piece.rows) <= length):
                taken.append(piece)
                length += len(alive.rows)
            else:
                kept.append(piece)
        merged = joined(timeline, [*taken, *new]).within(self._stretches(timeline))
        if merged:
            kept.append(put_piece(self._cluster, merged, self._size))
        for piece in taken:
            if piece.name not in {each.name for each in kept}:
                self._cluster.storage.delete(piece.name)
        self._stored[timeline] = kept
        self._new.pop(timeline, None)

    def _indexes(self) -> Iterator[tuple[Timeline, TimelineIndex]]:
        for timeline in self._timelines:
            pieces = [
                *self._stored.get(timeline, ()),
                *self._new.get(timeline, ()),
                *self._passing.get(timeline, ()),
            ]
            whole = joined(timeline, pieces).within(self._stretches(timeline))
            yield timeline, TimelineIndex(timeline, self._size, whole.rows, whole.events)
