"""What the links have in common that bring the WAL of a backup."""

from pgbackup.pg.lsn import Segment
from pgbackup.repo.catalog import HistoryRecord, ObjectRecord
from pgbackup.stream.sink import Sink


class WalLink(Sink):
    """A link that brings the WAL of the backup that flows through it.

    segments, histories: what is in the archive, once end_backup has returned.
    tail:                the rest, kept beside the backup.
    """

    def __init__(self, successor: Sink) -> None:
        super().__init__(successor)
        self.segments: list[Segment] = []
        self.histories: list[HistoryRecord] = []
        self.tail: ObjectRecord | None = None

    def reserve(self) -> None:
        """Hold the WAL from now on; called before the backup starts."""
