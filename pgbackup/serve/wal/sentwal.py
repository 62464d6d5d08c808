"""The WAL of one timeline as a client of our walsender gets it, wherever it lies."""

from collections.abc import Iterator
from typing import NamedTuple

from pgbackup.errors import ClientError
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline


class WalExtent(NamedTuple):
    """WAL that can be read now.

    file_name: as in pg_wal, without a suffix of compression.
    end:       in this segment, behind the last byte that may be sent.
    """

    segment: Segment
    file_name: str
    object_name: str
    end: Lsn


class SentWal:
    """One timeline, as it is sent to one client.

    Always: `flushed` never goes back.

    timeline:      what the client gets.
    switch:        where the timeline was left for next_timeline; None while it is the newest.
    end:           of what the client may have of it, if there is a limit.
    flushed:       behind all that is known to be there of it, up to that.
    """

    def __init__(self, segment_size: int, timeline: Timeline) -> None:
        self.segment_size = segment_size
        self.timeline = timeline
        self.switch: Lsn | None = None
        self.next_timeline: Timeline | None = None
        self.end: Lsn | None = None
        self.flushed = Lsn(0)

    def find(self, lsn: Lsn) -> WalExtent | None:
        """What can be read from a position on; None if it has to be waited for, or is_over.

        Raises: ClientError if it is not there any more; CorruptData, PgbackupError.
        """
        raise NotImplementedError

    def contents(self, extent: WalExtent, start: Lsn) -> Iterator[bytes]:
        """The bytes from a position to the end of an extent, or beyond it.

        Proven when the iterator is exhausted, not before.

        Raises: NotFound if the file has taken its other form meanwhile; CorruptData, PgbackupError.
        """
        raise NotImplementedError

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


def left(history: TimelineHistory, timeline: Timeline) -> tuple[Lsn | None, Timeline | None]:
    """Where a history leaves a timeline, and for which; None for its own. Raises: ClientError."""
    if history.timeline == timeline:
        return None, None
    lines = [*(entry.timeline for entry in history.entries), history.timeline]
    if timeline not in lines:
        raise not_in_history(timeline)
    return history.switch_from(timeline), lines[lines.index(timeline) + 1]


def holders(segment: Segment, switch: Lsn | None, history: TimelineHistory) -> Iterator[Segment]:
    """The segments that hold the bytes to be sent of one, the one that a server reads first.

    switch: where the history leaves the timeline of the segment.
    """
    if switch is not None and switch < segment.end:
        for timeline in (*(entry.timeline for entry in history.entries), history.timeline):
            if timeline > segment.timeline:
                yield Segment(timeline, segment.number, segment.size)
    yield segment


def removed(segment: Segment) -> ClientError:
    """The error for a segment that is not there, though WAL goes on behind it."""
    return ClientError(
        f"requested WAL segment {segment.name} has already been removed", sqlstate="58P01"
    )


def not_in_history(timeline: Timeline) -> ClientError:
    """The error for a timeline that does not lead to the newest, or of which nothing is known."""
    return ClientError(
        f"requested timeline {timeline} is not in this server's history", sqlstate="XX000"
    )
