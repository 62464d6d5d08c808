"""The WAL of a stored backup as members of an archive, as the option WAL of BASE_BACKUP wants it.

Source: basebackup.c, perform_base_backup (PostgreSQL 18)
"""

from collections.abc import Iterator

from pgbackup.backup.stored import StoredBackup, read_history
from pgbackup.errors import WalGap
from pgbackup.pg.tar import TarHeader, padding
from pgbackup.repo.archive import WalArchive

_FOLDER = "pg_wal"
_MODE = 0o600


class StoredBackupWal:
    """Segments from start to stop, and histories; each marked as archived."""

    def __init__(self, backup: StoredBackup, archive: WalArchive) -> None:
        self._backup = backup
        self._archive = archive

    def check(self) -> None:
        """Look whether all of it is there. Raises: WalGap."""
        record = self._backup.record
        missing = self._archive.missing(record.wal, record.wal_segment_size)
        if missing:
            raise WalGap(f'could not find WAL segment "{missing[0]}": it is not in the archive')

    def members(self, like: TarHeader) -> Iterator[bytes]:
        """Yield the bytes of all members. like: what has the owner and the time for headers.

        Raises: CorruptData, NotFound, StorageError.
        """
        record = self._backup.record
        size = record.wal_segment_size
        for segment in record.segments():
            yield _header(like, segment.name, size)
            yield from self._archive.chunks(segment.name, size)
            yield _done(like, segment.name)
        if record.tail is not None:
            name = record.tail.removesuffix(".partial")
            yield _header(like, name, size)
            yield from self._tail(record.tail, size)
            yield _done(like, name)
        for history in record.histories:
            data = read_history(self._archive, history)
            yield _header(like, history.name, len(data)) + data + bytes(padding(len(data)))
            yield _done(like, history.name)

    def _tail(self, name: str, size: int) -> Iterator[bytes]:
        """The beginning of the last segment, and zeros behind it."""
        for chunk in self._backup.chunks(name):
            yield chunk
            size -= len(chunk)
        yield bytes(size)


def _header(like: TarHeader, name: str, size: int) -> bytes:
    return like._replace(name=f"{_FOLDER}/{name}", size=size, mode=_MODE).encode()


def _done(like: TarHeader, name: str) -> bytes:
    """Say that a file is archived, so that a server that starts from the backup does not do it."""
    return _header(like, f"archive_status/{name}.done", 0)
