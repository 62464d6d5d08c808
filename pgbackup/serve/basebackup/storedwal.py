"""The WAL of a stored backup as members of an archive, as the option WAL of BASE_BACKUP wants it.

Source: basebackup.c, perform_base_backup (PostgreSQL 18)
"""

from collections.abc import Iterator
from typing import NamedTuple

from pgbackup.backup.stored import StoredBackup, read_history
from pgbackup.errors import WalGap
from pgbackup.pg.lsn import Segment, WalPosition
from pgbackup.pg.tar import TarHeader, padding
from pgbackup.repo.archive import WalArchive
from pgbackup.serve.wal.sentwal import SentWal, WalExtent

_FOLDER = "pg_wal"
_MODE = 0o600


class Further(NamedTuple):
    """WAL behind that of a backup, for a client that wants a later moment. end: of all of it."""

    source: SentWal
    end: WalPosition


class StoredBackupWal:
    """Segments from start to stop, or to the end that a client wants; histories; all archived."""

    def __init__(
        self, backup: StoredBackup, archive: WalArchive, further: Further | None = None
    ) -> None:
        self._backup = backup
        self._archive = archive
        self._further = further

    def check(self) -> None:
        """Look whether all of it is there. Raises: WalGap."""
        there = {each.name.text for each in self._archive.segments()}
        for segment in self._whole():
            if segment.name not in there:
                raise _missing(segment)
        if self._further is not None:
            _find(self._further, self._last(self._further))

    def members(self, like: TarHeader) -> Iterator[bytes]:
        """Yield the bytes of all members. like: what has the owner and the time for headers.

        Raises: CorruptData, NotFound, WalGap, StorageError.
        """
        record = self._backup.record
        size = record.wal_segment_size
        for segment in self._whole():
            yield from _member(like, segment.name, size, self._archive.chunks(segment.name, size))
        if self._further is not None:
            last = self._last(self._further)
            yield from _member(like, last.name, size, _beginning(self._further, last))
        elif record.tail is not None:
            name = record.tail.removesuffix(".partial")
            yield from _member(like, name, size, self._tail(record.tail, size))
        for history in record.histories:
            data = read_history(self._archive, history)
            content = iter([data, bytes(padding(len(data)))])
            yield from _member(like, history.name, len(data), content)

    def _whole(self) -> Iterator[Segment]:
        """The segments that are sent as they are archived."""
        record = self._backup.record
        if self._further is None:
            yield from record.segments()
            return
        last = self._last(self._further)
        first = Segment.ending_at(last.timeline, record.stop_lsn, last.size).number
        for segment in record.segments():
            if segment.timeline == last.timeline:
                first = min(first, segment.number)
            else:
                yield segment
        for number in range(first, last.number):
            yield Segment(last.timeline, number, last.size)

    def _last(self, further: Further) -> Segment:
        size = self._backup.record.wal_segment_size
        return Segment.ending_at(further.end.timeline, further.end.lsn, size)

    def _tail(self, name: str, size: int) -> Iterator[bytes]:
        """The beginning of the last segment, and zeros behind it."""
        for chunk in self._backup.chunks(name):
            yield chunk
            size -= len(chunk)
        yield bytes(size)


def _beginning(further: Further, segment: Segment) -> Iterator[bytes]:
    """The last segment up to where the WAL of a client ends, and zeros behind that."""
    extent = _find(further, segment)
    left = further.end.lsn - segment.start
    for chunk in further.source.contents(extent, segment.start):
        yield chunk[:left]
        left -= min(left, len(chunk))
    yield bytes(segment.end - further.end.lsn)


def _find(further: Further, segment: Segment) -> WalExtent:
    """Where the last segment is. Raises: WalGap."""
    extent = further.source.find(segment.start)
    if extent is None or extent.end < further.end.lsn:
        raise _missing(segment)
    return extent


def _missing(segment: Segment) -> WalGap:
    return WalGap(f'could not find WAL segment "{segment.name}": it is not in the archive')


def _member(like: TarHeader, name: str, size: int, content: Iterator[bytes]) -> Iterator[bytes]:
    """A file, and that it is archived, so that a server that starts from it does not do it."""
    yield _header(like, name, size)
    yield from content
    yield _header(like, f"archive_status/{name}.done", 0)


def _header(like: TarHeader, name: str, size: int) -> bytes:
    return like._replace(name=f"{_FOLDER}/{name}", size=size, mode=_MODE).encode()
