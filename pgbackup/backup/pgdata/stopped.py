"""A backup of a data directory whose server is stopped.

After a clean shutdown the files are consistent by themselves, so there is nothing to start or to
stop, and no backup_label: with one, recovery would wait for an end of backup that is nowhere in the
WAL. A server started from the copy begins at the checkpoint that pg_control names. That may be
without recovery, so unlogged relations must be copied with their contents.

Nobody streams the WAL; it is read off pg_wal. Of the last segment only what the server wrote is
kept, beside the backup, since the server will write on in that segment.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crc32c import crc32c

from pgbackup.backup.archivedwal import PartialWal
from pgbackup.backup.pgdata.datadir import DataDirectory, source_errors
from pgbackup.backup.pgdata.running import running_server
from pgbackup.backup.pgdata.walmembers import PG_WAL, wal_ranges
from pgbackup.backup.wallink import WalLink
from pgbackup.backup.walrecords import SHORT_HEADER_SIZE
from pgbackup.errors import CorruptData, Refused, WalGap
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition, segments_between
from pgbackup.pg.walfile import LONG_HEADER_SIZE
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import HistoryRecord, ObjectRecord
from pgbackup.storage.api import Storage
from pgbackup.storage.durable import DIRECTORY_FLAGS
from pgbackup.stream.sink import BackupState, Sink

_CHUNK: Final = 1 << 20  # bytes
_ALIGNMENT: Final = 8  # bytes; MAXALIGN
_RECORD_LENGTH: Final = struct.Struct("<I")  # xlogrecord.h, xl_tot_len
_LENGTHS: Final = range(24, 8192)
"""Bytes that the record of a checkpoint can have."""


class StoppedSession:
    """The start and the stop of a backup that no server knows of.

    start: where a server that is started from the copy begins to read WAL.
    label: None, for there is none.
    """

    label: Final = None

    def __init__(self, data: DataDirectory) -> None:
        self._data = data
        self.start = data.control.redo

    def begin(self) -> None:
        """Make sure that there is no server. Raises: Refused, PgbackupError."""
        data = self._data
        if not data.is_shut_down:
            raise Refused(
                f'could not back up data directory "{data.path}": its server was not shut down'
                " cleanly",
                hint="Start the server, and back it up while it runs; or start and stop it.",
            )
        self._check_no_server()

    def check(self) -> None:
        """Make sure that there was none meanwhile. Raises: Refused, PgbackupError, CorruptData."""
        if self._data.read_control().values != self._data.control:
            raise Refused(
                f'could not back up data directory "{self._data.path}": its server was started'
                " meanwhile",
                hint="Take the backup again, now of a running server.",
            )
        self._check_no_server()

    def end(self) -> WalPosition:
        """Where the copy is consistent. Raises: as check."""
        self.check()
        return consistent_position(self._data)

    def _check_no_server(self) -> None:
        path = self._data.path
        with source_errors("open data directory", path):
            fd = os.open(path, DIRECTORY_FLAGS)
            try:
                reason = running_server(fd)
            finally:
                os.close(fd)
        if reason is not None:
            raise Refused(
                f'could not back up data directory "{path}": {reason}, though pg_control says'
                " that it was shut down",
                hint="Try again when the server has come up, or has ended.",
            )


class StoppedWal(WalLink):
    """A link that puts the WAL of a stopped server into the archive.

    folder: of the backup; ends in a slash.
    level:  of zstd for segments of the archive; None stores them plain.
    """

    def __init__(
        self,
        successor: Sink,
        data: DataDirectory,
        archive: WalArchive,
        storage: Storage,
        folder: str,
        *,
        level: int | None,
    ) -> None:
        super().__init__(successor)
        self._data = data
        self._archive = archive
        self._storage = storage
        self._folder = folder
        self._level = level
        self._start: WalPosition | None = None

    def begin_backup(self, state: BackupState) -> None:
        self._start = state.start
        self.successor.begin_backup(state)

    def end_backup(self, stop: WalPosition) -> None:
        assert self._start is not None
        for segment in self._needed(self._start, stop):
            if segment.end <= stop.lsn:
                self._put(segment)
                self.segments.append(segment)
            else:
                self.tail = self._put_tail(segment, stop.lsn)
        self.successor.end_backup(stop)

    def _needed(self, start: WalPosition, stop: WalPosition) -> list[Segment]:
        """In order; where timelines part, the newer one has the whole segment."""
        size = self._data.control.wal_segment_size
        found: dict[int, Segment] = {}
        for each in wal_ranges(self._data, start, stop):
            self._put_history(each.timeline)
            for segment in segments_between(each.timeline, each.start, each.end, size):
                found.setdefault(segment.number, segment)
        return [found[number] for number in sorted(found)]

    def _put(self, segment: Segment) -> None:
        if not self._path(segment.name).exists() and self._archive.find(segment.name) is not None:
            return  # a standby that was fed by an archive keeps none
        with self._archive.segment_writer(segment, self._level) as writer:
            for chunk in self._chunks(segment, segment.size):
                writer.write(chunk)
            writer.commit()

    def _put_tail(self, segment: Segment, stop: Lsn) -> ObjectRecord:
        name = f"{self._folder}{segment.name}.partial"
        tail = PartialWal(self._storage, name, segment, stop)
        try:
            for chunk in self._chunks(segment, stop - segment.start):
                tail.write(tail.write_lsn, memoryview(chunk))
            return tail.commit()
        finally:
            tail.abort()

    def _put_history(self, timeline: Timeline) -> None:
        if timeline == 1:
            return
        path = self._path(timeline.history_name)
        with source_errors("read file", str(path)):
            content = path.read_bytes()
        TimelineHistory.parse(timeline, content)
        self._archive.put_history(timeline, content)
        self.histories.append(
            HistoryRecord(timeline.history_name, len(content), f"{crc32c(content):08x}")
        )

    def _chunks(self, segment: Segment, length: int) -> Iterator[bytes]:
        """The beginning of a segment. Raises: WalGap, PgbackupError."""
        path = self._path(segment.name)
        with source_errors("read file", str(path)):
            try:
                file = open(path, "rb", buffering=0)  # noqa: SIM115
            except FileNotFoundError:
                raise _missing(segment) from None
            with file:
                while length:
                    chunk = file.read(min(length, _CHUNK))
                    if not chunk:
                        raise _missing(segment)
                    length -= len(chunk)
                    yield chunk

    def _path(self, name: str) -> Path:
        return Path(self._data.path, PG_WAL, name)


def consistent_position(data: DataDirectory) -> WalPosition:
    """Up to where a copy of a stopped server's files needs WAL.

    That is the end of the last checkpoint's record, or on a standby what was replayed.

    Raises: WalGap, PgbackupError, CorruptData.
    """
    control = data.control
    end = _record_end(data, WalPosition(control.redo.timeline, control.checkpoint))
    reached = control.min_recovery_point
    return end if reached is None or reached.lsn <= end.lsn else reached


def _record_end(data: DataDirectory, begin: WalPosition) -> WalPosition:
    """Where the record ends that begins at a position.

    Source: xlog.c, XLogBytePosToEndRecPtr (PostgreSQL 18)
    """
    control = data.control
    segment = Segment.containing(begin.timeline, begin.lsn, control.wal_segment_size)
    path = f"{data.path}/{PG_WAL}/{segment.name}"
    with source_errors("read file", path):
        try:
            with open(path, "rb") as file:
                file.seek(begin.lsn - segment.start)
                content = file.read(_RECORD_LENGTH.size)
        except FileNotFoundError:
            raise _missing(segment) from None
    length = _RECORD_LENGTH.unpack(content)[0] if len(content) == _RECORD_LENGTH.size else 0
    if length not in _LENGTHS:
        raise CorruptData(
            f'could not use WAL segment "{segment.name}": it has no checkpoint at {begin.lsn}'
        )
    left, at = -(-length // _ALIGNMENT) * _ALIGNMENT, int(begin.lsn)
    while left > (room := control.wal_block_size - at % control.wal_block_size):
        left -= room
        at += room
        at += SHORT_HEADER_SIZE if at % control.wal_segment_size else LONG_HEADER_SIZE
    return WalPosition(begin.timeline, Lsn(at + left))


def _missing(segment: Segment) -> WalGap:
    return WalGap(
        f'could not back up a stopped server: WAL segment "{segment.name}" is not whole in pg_wal',
        hint="Start the server, and back it up while it runs.",
    )
