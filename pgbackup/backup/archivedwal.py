"""Where the WAL of a running backup goes: segments into the archive, a rest beside the backup.

Destinations for `replication.walreceiver`. Neither touches a `.partial` of the archive: that file
belongs to receive-wal.
"""

from crc32c import crc32c

from pgbackup.pg.lsn import Lsn, Segment, WalPosition
from pgbackup.pg.walfile import check_segment_header
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import ObjectRecord
from pgbackup.repo.segmentwriter import SegmentWriter
from pgbackup.storage.api import Storage

LONG_HEADER_SIZE = 40
"""Bytes at the start of a segment that say whose it is."""


class ArchivedWal:
    """A WalDestination that puts whole segments into the archive as they fill.

    Always: flush_lsn is the end of the last segment that the archive has; the bytes between it
    and write_lsn are in a writer that is not visible yet.
    """

    def __init__(
        self,
        archive: WalArchive,
        start: WalPosition,
        segment_size: int,
        system_identifier: int,
        level: int | None,
    ) -> None:
        self._archive = archive
        self._system_identifier = system_identifier
        self._level = level
        self._writer: SegmentWriter | None = None
        self._header = b""
        self._segment = Segment.containing(start.timeline, start.lsn, segment_size)
        self._position = self._flushed = self._segment.start
        self.segments: list[Segment] = []

    @property
    def write_lsn(self) -> Lsn:
        return self._position

    @property
    def flush_lsn(self) -> Lsn:
        return self._flushed

    @property
    def segment(self) -> Segment:
        """The segment that holds write_lsn."""
        return self._segment

    def write(self, start: Lsn, data: memoryview) -> None:
        while len(data):
            if self._writer is None:
                self._writer = self._archive.segment_writer(self._segment, self._level)
                self._header = b""
            piece = data[: self._segment.end - self._position]
            self._check_header(piece)
            self._writer.write(piece)
            self._position += len(piece)
            data = data[len(piece) :]
            if self._position == self._segment.end:
                self._finish_segment(self._writer)

    def flush(self) -> None:
        """A segment can be made durable only as a whole."""

    def abort(self) -> None:
        """Give up the unfinished segment."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def switch_timeline(self, start: WalPosition) -> None:
        """Go on from the segment that holds a new timeline's first byte."""
        self.abort()
        self._segment = Segment.containing(start.timeline, start.lsn, self._segment.size)
        self._position = self._flushed = self._segment.start

    def _check_header(self, piece: memoryview) -> None:
        if len(self._header) >= LONG_HEADER_SIZE:
            return
        self._header += bytes(piece[: LONG_HEADER_SIZE - len(self._header)])
        if len(self._header) == LONG_HEADER_SIZE:
            check_segment_header(self._header, self._segment, self._system_identifier)

    def _finish_segment(self, writer: SegmentWriter) -> None:
        writer.commit()
        self._writer = None
        self._flushed = self._position
        self.segments.append(self._segment)
        self._segment = self._segment.next()


class PartialWal:
    """A WalDestination for the bytes of one segment before a stop position."""

    def __init__(self, storage: Storage, name: str, segment: Segment, stop: Lsn) -> None:
        self._name = name
        self._writer = storage.writer(name)
        self._stop = stop
        self._position = segment.start
        self._crc = 0

    @property
    def write_lsn(self) -> Lsn:
        return self._position

    @property
    def flush_lsn(self) -> Lsn:
        return Lsn(0)

    def write(self, start: Lsn, data: memoryview) -> None:
        wanted = data[: max(0, self._stop - self._position)]
        self._writer.write(wanted)
        self._crc = crc32c(wanted, self._crc)
        self._position += len(data)

    def flush(self) -> None:
        """Nothing of this is promised to the server."""

    def commit(self) -> ObjectRecord:
        """Make the object durable and visible, and describe it."""
        size = self._writer.position
        self._writer.commit()
        return ObjectRecord(self._name.rpartition("/")[2], size, f"{self._crc:08x}")

    def abort(self) -> None:
        """Give up."""
        self._writer.abort()
