"""The WAL of a repository as a client of our walsender can have it: which file, and how far.

A whole segment counts when the archive has it, an unfinished one up to what its receiver has
published as flushed, and without that the end of the backup that clients get. A timeline that was
left counts up to there, and its last segment is read from the file of the timeline that went on, as
a server does: the old one may never have been finished.

Source: walsender.c, StartReplication, WalSndSegmentOpen, XLogSendPhysical; timeline.c,
findNewestTimeLine (PostgreSQL 18).
"""

from collections.abc import Iterator

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalFileKind, WalPosition
from pgbackup.replication.published import PositionsReader, ReceiverPositions
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.wal.sentwal import (
    SentWal,
    WalExtent,
    holders,
    left,
    not_in_history,
    removed,
)
from pgbackup.serve.wal.tailwal import TailWal

_PARTIAL = ".partial"


class WalSource(SentWal):
    """A timeline of a repository. history: of the newest timeline that is known there."""

    def __init__(
        self,
        cluster: ClusterRepository,
        timeline: Timeline | None = None,
        end: WalPosition | None = None,
        tail: TailWal | None = None,
    ) -> None:
        """Look at what is there.

        timeline: None for the newest.
        end:      of all that the client may have, as if nothing had been written after that.
        tail:     of the backup that the client can have.

        Raises: NotFound if there is no WAL, ClientError, CorruptData, StorageError.
        """
        facts = cluster.facts()
        if facts is None:
            raise NotFound(f"could not read WAL of system {cluster.system}: there is nothing")
        self._cluster = cluster
        self._archive = cluster.archive
        ends = self._ends(facts.wal_segment_size)
        newest = max(ends, default=Timeline(1))
        if timeline is None:
            timeline = newest if end is None else end.timeline
        elif end is not None and timeline > end.timeline:
            raise not_in_history(timeline)
        super().__init__(facts.wal_segment_size, timeline)
        self.end = None if end is None or end.timeline != timeline else end.lsn
        self._reader = None
        if cluster.storage.features.local_path is not None:
            published = layout.receiver_positions(cluster.system)
            self._reader = PositionsReader(f"{cluster.storage.features.local_path}/{published}")
        self.history = self._read_history(newest)
        self._part()
        self._whole = ends.get(self.timeline, Lsn(0))
        self.flushed = max(self._whole, self._begin_of_timeline())
        self._tail = tail if tail is not None and tail.timeline == self.timeline else None
        if self._tail is not None:
            self.flushed = max(self.flushed, self._tail.end)
        self.look()

    def look(self) -> ReceiverPositions | None:
        """See what has come: positions first, so that they are never beyond a new history."""
        positions = self._published()
        timeline = self.history.timeline
        while self._archive.find(Timeline(timeline + 1).history_name) is not None:
            timeline = Timeline(timeline + 1)
        if timeline != self.history.timeline:
            self.history = self._read_history(timeline)
            self._part()
        if positions is not None and positions.timeline == self.timeline:
            self.flushed = max(self.flushed, positions.flushed)
        if self._left_at is not None:
            self.flushed = self._left_at
        self.flushed = self._limited(self.flushed)
        return positions

    def find(self, lsn: Lsn) -> WalExtent | None:
        positions = self.look()
        if self.is_over(lsn) or lsn == self.end:
            return None
        own = Segment.containing(self.timeline, lsn, self.segment_size)
        for segment in self._files(own):
            stored = self._archive.find(segment.name)
            if stored is not None:
                end = self._limited(segment.end)
                self.flushed, self._whole = max(self.flushed, end), max(self._whole, end)
                return WalExtent(segment, segment.name, stored, end)
        is_coming = False
        for segment in self._files(own):
            name = segment.name + _PARTIAL
            stored = self._archive.find(name)
            if stored is not None:
                flushed = _flushed_in(segment, positions)
                if flushed is not None and flushed > lsn:
                    return WalExtent(segment, name, stored, self._limited(flushed))
                is_coming |= flushed is not None or self._whole <= segment.end
        if self._tail is not None:
            extent = self._tail.extent(lsn, self._limited(self._tail.end))
            if extent is not None:
                return extent
        if lsn < self.flushed and not is_coming:
            raise removed(next(self._files(own)))
        return None

    def has_news(self) -> bool:
        """Tell whether a receiver has published since the last look, which is cheap to find out."""
        return self._reader is not None and self._reader.has_moved()

    def contents(self, extent: WalExtent, start: Lsn) -> Iterator[bytes]:
        found = None if self._tail is None else self._tail.contents(extent, start)
        return self._archived(extent, start) if found is None else found

    def _archived(self, extent: WalExtent, start: Lsn) -> Iterator[bytes]:
        skip = start - extent.segment.start
        if extent.object_name.endswith(layout.COMPRESSED_SUFFIX):
            for chunk in self._archive.chunks(extent.file_name, self.segment_size):
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))
            return
        storage = self._cluster.storage
        with storage.reader(extent.object_name, skip, extent.end - start) as reader:
            if extent.end == extent.segment.end and reader.size != self.segment_size:
                raise CorruptData(
                    f'could not read WAL file "{extent.file_name}": it is not of'
                    f" {self.segment_size} bytes"
                )
            while chunk := reader.read(1 << 17):
                yield chunk

    def _files(self, segment: Segment) -> Iterator[Segment]:
        return holders(segment, self._left_at, self.history)

    def _limited(self, end: Lsn) -> Lsn:
        return min(each for each in (end, self._left_at, self.end) if each is not None)

    def _part(self) -> None:
        """See where the history leaves our timeline; that is hidden behind an end before it.

        Raises: ClientError.
        """
        self._left_at, self.next_timeline = left(self.history, self.timeline)
        self.switch = self._left_at
        if self.end is not None:
            self.switch = self.next_timeline = None

    def _begin_of_timeline(self) -> Lsn:
        """Where it parted from its own parent."""
        entries = [each for each in self.history.entries if each.timeline < self.timeline]
        return entries[-1].switch if entries else Lsn(0)

    def _ends(self, segment_size: int) -> dict[Timeline, Lsn]:
        """Behind the last whole segment of each timeline that anything is of."""
        ends: dict[Timeline, Lsn] = {}
        for file in self._archive.files():
            timeline = file.name.timeline
            if timeline is None:
                continue
            end = Lsn(0)
            if file.name.kind is WalFileKind.SEGMENT:
                end = file.name.segment(segment_size).end
            ends[timeline] = max(end, ends.get(timeline, end))
        return ends

    def _read_history(self, timeline: Timeline) -> TimelineHistory:
        if timeline == 1:
            return TimelineHistory(timeline)
        return TimelineHistory.parse(timeline, self._archive.read(timeline.history_name))

    def _published(self) -> ReceiverPositions | None:
        positions = None if self._reader is None else self._reader.read()
        if positions is not None and positions.system_identifier == self._cluster.system:
            return positions
        return None


def _flushed_in(segment: Segment, positions: ReceiverPositions | None) -> Lsn | None:
    """Up to where a receiver has an unfinished segment; None if it is not in this segment."""
    if positions is None or positions.timeline != segment.timeline:
        return None
    return positions.flushed if segment.start <= positions.flushed <= segment.end else None
