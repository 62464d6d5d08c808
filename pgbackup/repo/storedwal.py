"""One file of a WAL archive, in whichever of its two forms it is stored."""

from collections.abc import Iterator

from pgbackup.errors import CorruptData, NotFound, UsageError
from pgbackup.pg.lsn import WalFileKind, WalFileName
from pgbackup.repo import layout
from pgbackup.storage.api import ObjectReader, Storage

_CHUNK = 1 << 18  # bytes


class StoredWal:
    """A name in the archive of a cluster; whether there is a file is found out each time."""

    def __init__(self, storage: Storage, system: int, name: str) -> None:
        """Only take the name. Raises: UsageError for one that PostgreSQL would not give."""
        if WalFileName.parse(name).kind is WalFileKind.OTHER:
            raise UsageError(
                f"could not use WAL file name {name!r}: PostgreSQL names no file like this"
            )
        self.storage = storage
        self.name = name
        self.conflict = layout.conflict_object(system, name)
        self._forms = [
            layout.wal_object(system, name, compressed=compressed) for compressed in (False, True)
        ]

    def object_name(self, *, compressed: bool) -> str:
        """The object of one of the two forms."""
        return self._forms[compressed]

    def find(self) -> str | None:
        """The object that holds the file, or None. Raises: StorageError."""
        return next((form for form in self._forms if self.storage.exists(form)), None)

    def chunks(self, size: int | None = None) -> Iterator[bytes]:
        """Yield the content; proven when the iterator is exhausted, not before.

        size: how many bytes there must be, where that is known.

        Raises: NotFound, CorruptData, StorageError.
        """
        stored, reader = self._open()
        done = 0
        for chunk in self._chunks_of(stored, reader):
            done += len(chunk)
            if size is not None and done > size:
                break
            yield chunk
        if size is not None and done != size:
            raise CorruptData(
                f'could not read WAL file "{self.name}": it is not of {size} bytes',
                detail=f'The object is "{self.storage.locate(stored)}".',
            )

    def sync(self) -> None:
        """Make the file durable that somebody else archived. Raises: NotFound, StorageError."""
        try:
            self.storage.sync(self._find_existing())
        except NotFound:  # its compressed form took its place
            self.storage.sync(self._find_existing())

    def delete(self) -> None:
        """Remove the file for good, in both forms. Raises: StorageError."""
        for form in self._forms:
            self.storage.delete(form)

    def _find_existing(self) -> str:
        stored = self.find()
        if stored is None:
            raise NotFound(f'could not find WAL file "{self.name}": it is not in the archive')
        return stored

    def _open(self) -> tuple[str, ObjectReader]:
        """Open the file, though its plain form be replaced by the compressed one meanwhile."""
        stored = self._find_existing()
        try:
            return stored, self.storage.reader(stored)
        except NotFound:
            stored = self._find_existing()
            return stored, self.storage.reader(stored)

    def object_chunks(self, stored: str) -> Iterator[bytes]:
        """Yield the content of one form. Raises: as chunks."""
        yield from self._chunks_of(stored, self.storage.reader(stored))

    def _chunks_of(self, stored: str, reader: ObjectReader) -> Iterator[bytes]:
        with reader:
            if stored.endswith(layout.COMPRESSED_SUFFIX):
                from pgbackup.repo.decompress import plain_chunks  # noqa: PLC0415 - loads zstd

                yield from plain_chunks(reader, self.storage.locate(stored))
            else:
                while chunk := reader.read(_CHUNK):
                    yield chunk
