"""The WAL of a repository as a client of our walsender can have it: which file, and how far.

A whole segment counts when the archive has it, an unfinished one up to what its receiver has
published as flushed. A timeline that was left counts up to there, and its last segment is read from
the file of the timeline that went on, as a server does: the old one may never have been finished.

Source: walsender.c, StartReplication, WalSndSegmentOpen, XLogSendPhysical; timeline.c,
findNewestTimeLine (PostgreSQL 18).
"""

from collections.abc import Iterator
from typing import NamedTuple

from pgbackup.errors import ClientError, CorruptData, NotFound
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalFileKind, WalPosition
from pgbackup.replication.published import PositionsReader, ReceiverPositions
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository

_PARTIAL = ".partial"


class WalExtent(NamedTuple):
    """WAL that can be read now.

    file_name: in the archive, without the suffix of compression.
    end:       in this segment, behind the last byte that may be sent.
    """

    segment: Segment
    file_name: str
    object_name: str
    end: Lsn


class WalSource:
    """One timeline, as it is sent to one client.

    Always: `flushed` never goes back.

    timeline:      what the client gets.
    history:       of the newest timeline that the repository knows.
    switch:        where the timeline was left for next_timeline; None while it is the newest.
    end:           of what the client may have of it, if there is a limit.
    flushed:       behind all that is known to be there of it, up to that.
    """

    def __init__(
        self,
        cluster: ClusterRepository,
        timeline: Timeline | None = None,
        end: WalPosition | None = None,
    ) -> None:
        """Look at what is there.

        timeline: None for the newest.
        end:      of all that the client may have, as if nothing had been written after that.

        Raises: NotFound if there is no WAL, ClientError, CorruptData, StorageError.
        """
        facts = cluster.facts()
        if facts is None:
            raise NotFound(f"could not read WAL of system {cluster.system}: there is nothing")
        self.segment_size = facts.wal_segment_size
        self._cluster = cluster
        self._archive = cluster.archive
        self._reader = None
        if cluster.storage.features.local_path is not None:
            published = layout.receiver_positions(cluster.system)
            self._reader = PositionsReader(f"{cluster.storage.features.local_path}/{published}")
        ends = self._ends()
        newest = max(ends, default=Timeline(1))
        self.history = self._read_history(newest)
        self.timeline = (newest if end is None else end.timeline) if timeline is None else timeline
        if end is not None and self.timeline > end.timeline:
            raise _not_in_history(self.timeline)
        self.end = None if end is None or end.timeline != self.timeline else end.lsn
        self._part()
        self._whole = ends.get(self.timeline, Lsn(0))
        self.flushed = max(self._whole, self._begin_of_timeline())
        self.look()

    def check_start(self, start: Lsn) -> None:
        """Raises: ClientError if the timeline was left before a position."""
        if self.switch is not None and start > self.switch:
            raise ClientError(
                f"requested starting point {start} on timeline {self.timeline} is not in this"
                " server's history",
                sqlstate="XX000",
                detail=f"This server's history forked from timeline {self.timeline} at"
                f" {self.switch}.",
            )

    def check_reached(self, start: Lsn) -> None:
        """Raises: ClientError if no WAL is there yet from a position on."""
        if start > self.flushed:
            raise ClientError(
                f"requested starting point {start} is ahead of the WAL flush position of this"
                f" server {self.flushed}",
                sqlstate="XX000",
            )

    def is_over(self, lsn: Lsn) -> bool:
        """Tell whether the timeline was left at or before a position."""
        return self.switch is not None and lsn >= self.switch

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
        """What can be read from a position on; None if it has to be waited for, or is_over.

        Raises: ClientError if it is not there any more; CorruptData, StorageError.
        """
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
        if lsn < self.flushed and not is_coming:
            raise self.removed(own)
        return None

    def has_news(self) -> bool:
        """Tell whether a receiver has published since the last look, which is cheap to find out."""
        return self._reader is not None and self._reader.has_moved()

    def contents(self, extent: WalExtent, start: Lsn) -> Iterator[bytes]:
        """The bytes from a position to the end of an extent, or beyond it.

        Proven when the iterator is exhausted, not before.

        Raises: NotFound if the file has taken its other form meanwhile; CorruptData, StorageError.
        """
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

    def removed(self, segment: Segment) -> ClientError:
        """The error for a segment that is not there, though the archive goes on behind it."""
        file = next(self._files(segment))
        return ClientError(
            f"requested WAL segment {file.name} has already been removed", sqlstate="58P01"
        )

    def _files(self, segment: Segment) -> Iterator[Segment]:
        """The segments that hold the bytes to be sent of one, the one that a server reads first."""
        if self._left_at is None or self._left_at >= segment.end:
            yield segment
            return
        for entry in self.history.entries:
            if entry.timeline > self.timeline:
                yield Segment(entry.timeline, segment.number, segment.size)
        yield Segment(self.history.timeline, segment.number, segment.size)
        yield segment

    def _limited(self, end: Lsn) -> Lsn:
        return min(each for each in (end, self._left_at, self.end) if each is not None)

    def _part(self) -> None:
        """See where the history leaves our timeline; that is hidden behind an end before it.

        Raises: ClientError.
        """
        self._left_at, self.next_timeline = self._left(self.history)
        self.switch = self._left_at
        if self.end is not None:
            self.switch = self.next_timeline = None

    def _left(self, history: TimelineHistory) -> tuple[Lsn | None, Timeline | None]:
        """Where a history leaves our timeline, and for which. Raises: ClientError."""
        if history.timeline == self.timeline:
            return None, None
        lines = [*(entry.timeline for entry in history.entries), history.timeline]
        if self.timeline not in lines:
            raise _not_in_history(self.timeline)
        return history.switch_from(self.timeline), lines[lines.index(self.timeline) + 1]

    def _begin_of_timeline(self) -> Lsn:
        """Where it parted from its own parent."""
        entries = [each for each in self.history.entries if each.timeline < self.timeline]
        return entries[-1].switch if entries else Lsn(0)

    def _ends(self) -> dict[Timeline, Lsn]:
        """Behind the last whole segment of each timeline that anything is of."""
        ends: dict[Timeline, Lsn] = {}
        for file in self._archive.files():
            timeline = file.name.timeline
            if timeline is None:
                continue
            end = Lsn(0)
            if file.name.kind is WalFileKind.SEGMENT:
                end = file.name.segment(self.segment_size).end
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


def _not_in_history(timeline: Timeline) -> ClientError:
    return ClientError(
        f"requested timeline {timeline} is not in this server's history", sqlstate="XX000"
    )


def _flushed_in(segment: Segment, positions: ReceiverPositions | None) -> Lsn | None:
    """Up to where a receiver has an unfinished segment; None if it is not in this segment."""
    if positions is None or positions.timeline != segment.timeline:
        return None
    return positions.flushed if segment.start <= positions.flushed <= segment.end else None
