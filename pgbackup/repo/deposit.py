"""Deposit: the end of a chain that puts a backup's objects into a repository.

Writes archives, indexes and the manifest of one backup folder; each becomes visible when it is
durable. It never writes the record: until that is there, the folder is no backup.
"""

from functools import partial

from crc32c import crc32c

from pgbackup.pg.lsn import WalPosition
from pgbackup.repo import layout
from pgbackup.repo.catalog import ObjectRecord
from pgbackup.storage.api import ObjectWriter, Storage
from pgbackup.stream.sink import End
from pgbackup.stream.writebehind import WriteBehind


class Deposit(End):
    """Store what flows in under one folder.

    folder:  ends in a slash.
    indexes: what `put_index` has stored, complete after end_backup.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        super().__init__()
        self._storage = storage
        self._folder = folder
        self._behind = WriteBehind()
        self._writer: ObjectWriter | None = None
        self.indexes: list[ObjectRecord] = []

    @property
    def buffer(self) -> memoryview:
        return self._behind.buffer

    def begin_archive(self, name: str) -> None:
        self._begin(name)

    def archive_contents(self, length: int) -> None:
        self._behind.add(length, self._write)

    def end_archive(self) -> None:
        self._behind.end(self._write, self._commit)

    def flush(self) -> None:
        self._behind.flush(self._write)

    def begin_manifest(self) -> None:
        self._begin(layout.MANIFEST)

    def manifest_contents(self, length: int) -> None:
        self.archive_contents(length)

    def end_manifest(self) -> None:
        self.end_archive()

    def end_backup(self, stop: WalPosition) -> None:
        self._behind.wait()

    def cleanup(self) -> None:
        self._behind.close()
        if self._writer is not None:
            self._writer.abort()

    def put_index(self, archive: str, data: bytes) -> None:
        """Store the member index of an archive, named by the archive's plain name."""
        name = layout.index_name(archive)
        self._behind.then(lambda: self._storage.create(self._folder + name, data))
        self.indexes.append(ObjectRecord(name, len(data), f"{crc32c(data):08x}"))

    def _begin(self, name: str) -> None:
        # On the thread as all that follows: a signal cannot come between a new file and its owner.
        self._behind.then(partial(self._open, name))

    def _open(self, name: str) -> None:
        self._writer = self._storage.writer(self._folder + name)

    def _write(self, data: memoryview) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def _commit(self) -> None:
        assert self._writer is not None
        self._writer.commit()
        self._writer = None
