"""The last WAL that a backup needs, where the archive has not got it.

A backup of a standby, or of a server that is stopped, ends within a segment that nobody may ever
archive; its beginning is kept beside the backup. Clients that stream the WAL of the backup wait for
that, so it counts like the unfinished segment of a receiver.
"""

from collections.abc import Iterator

from pgbackup.backup.stored import StoredBackup
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.serve.wal.sentwal import WalExtent


class TailWal:
    """The beginning of one segment.

    end: behind its last byte.
    """

    def __init__(self, backup: StoredBackup, name: str) -> None:
        """name: of the object, in the folder of the backup."""
        record = backup.record
        self._backup = backup
        self._name = name
        self._segment = Segment.ending_at(
            record.stop_timeline, record.stop_lsn, record.wal_segment_size
        )
        self.end = record.stop_lsn

    @property
    def timeline(self) -> Timeline:
        return self._segment.timeline

    def extent(self, lsn: Lsn, limit: Lsn) -> WalExtent | None:
        """What there is from a position on. limit: where it ends at the latest."""
        end = min(self.end, limit)
        if not self._segment.start <= lsn < end:
            return None
        return WalExtent(self._segment, self._name, self._backup.folder + self._name, end)

    def contents(self, extent: WalExtent, start: Lsn) -> Iterator[bytes] | None:
        """The bytes from a position on, proven when exhausted; None if the extent is another's."""
        if extent.object_name != self._backup.folder + self._name:
            return None
        return self._skip(start - extent.segment.start)

    def _skip(self, length: int) -> Iterator[bytes]:
        for chunk in self._backup.chunks(self._name):
            yield chunk[length:]
            length = max(0, length - len(chunk))


def tail_of(backup: StoredBackup) -> TailWal | None:
    """What a backup has of such WAL."""
    return None if backup.record.tail is None else TailWal(backup, backup.record.tail)
