"""The WAL of a data directory that is served: read off pg_wal, and what has gone there, archived.

Up to what the server has flushed, or to where it has left the timeline. A file that is recycled
while it is read is noticed by its name, so that nothing of it is taken for what it was.

Source: walsender.c, XLogSendPhysical, WalSndSegmentOpen; xlog.c, CheckXLogRemoved (PostgreSQL 18).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pgbackup.backup.pgdata.datadir import source_errors
from pgbackup.backup.pgdata.walmembers import PG_WAL
from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.repo.archive import WalArchive
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.serve.wal.sentwal import SentWal, WalExtent, holders, left, removed

_CHUNK = 1 << 17  # bytes


class LiveWal(SentWal):
    """A timeline of a server, as it is sent to one client."""

    def __init__(
        self,
        server: LiveServer,
        archive: WalArchive,
        segment_size: int,
        timeline: Timeline | None = None,
    ) -> None:
        """timeline: None for the server's. Raises: ClientError, PgbackupError."""
        position = server.position()
        super().__init__(segment_size, timeline or position.timeline)
        self._server = server
        self._archive = archive
        self._history = server.history(position.timeline)
        self._take(position)

    def find(self, lsn: Lsn) -> WalExtent | None:
        if lsn >= self.flushed:
            self._take(self._server.position())
            if lsn >= self.flushed:
                return None
        own = Segment.containing(self.timeline, lsn, self.segment_size)
        end = min(own.end, self.flushed)
        for segment in holders(own, self.switch, self._history):
            path = self._path(segment)
            if path.exists():
                return WalExtent(segment, segment.name, str(path), end)
        for segment in holders(own, self.switch, self._history):
            stored = self._archive.find(segment.name)
            if stored is not None:
                return WalExtent(segment, segment.name, stored, end)
        raise removed(own)

    def contents(self, extent: WalExtent, start: Lsn) -> Iterator[bytes]:
        skip = start - extent.segment.start
        path = self._path(extent.segment)
        if extent.object_name != str(path):
            for chunk in self._archive.chunks(extent.file_name, self.segment_size):
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))
            return
        with source_errors("read file", str(path)), open(path, "rb", buffering=0) as file:
            identity = os.fstat(file.fileno())
            file.seek(skip)
            left = extent.end - start
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise CorruptData(f'could not read WAL file "{path}": it is too short')
                if not _is_there(path, identity):
                    raise removed(extent.segment)
                yield chunk
                left -= len(chunk)

    def _take(self, position: WalPosition) -> None:
        """See how far the timeline is, or where the server has left it. Raises: ClientError."""
        if position.timeline != self._history.timeline:
            self._history = self._server.history(position.timeline)
        self.switch, self.next_timeline = left(self._history, self.timeline)
        self.flushed = max(self.flushed, position.lsn) if self.switch is None else self.switch

    def _path(self, segment: Segment) -> Path:
        return Path(self._server.path, PG_WAL, segment.name)


def _is_there(path: Path, identity: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), identity)
    except FileNotFoundError:
        return False
