"""The WAL archive of one cluster: files under the names they have in pg_wal, plain or zstd.

A name is bound to one content for ever. The same content again is success, after the archived
file was read, compared and made durable once more; other content is a Conflict, the archived file
stays, and the newcomer is kept aside, once per name, in the conflict folder.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Segment, Timeline, WalFileKind, WalFileName
from pgbackup.repo import layout
from pgbackup.repo.segmentwriter import (
    ComparingWriter,
    NewFileWriter,
    SecondFormWriter,
    SegmentWriter,
    WholeFileWriter,
)
from pgbackup.repo.storedwal import StoredWal
from pgbackup.storage.api import Bytes, Storage

__all__ = ["ArchivedFile", "SegmentWriter", "WalArchive", "WalFileRange"]

_SMALL = 64 << 20  # bytes; history files and the like are far smaller


class WalFileRange(Protocol):
    """Consecutive segments, as a backup's record names them."""

    def segments(self, size: int) -> Iterator[Segment]: ...


class ArchivedFile(NamedTuple):
    """A file of the archive.

    stored_size: bytes of the object.
    """

    name: WalFileName
    object_name: str
    is_compressed: bool
    stored_size: int


class WalArchive:
    """The archive of the cluster with one system identifier."""

    def __init__(self, storage: Storage, system: int) -> None:
        self.storage = storage
        self._system = system
        self._folder = layout.wal_folder(system)

    def files(self) -> list[ArchivedFile]:
        """Everything that PostgreSQL would know, sorted by name; plain before compressed."""
        found = []
        for each in self.storage.list(self._folder):
            stored = each.name.removeprefix(self._folder)
            plain = stored.removesuffix(layout.COMPRESSED_SUFFIX)
            name = WalFileName.parse(plain)
            if name.kind is not WalFileKind.OTHER:
                found.append(ArchivedFile(name, each.name, plain != stored, each.size))
        return sorted(found, key=lambda file: (file.name.text, file.is_compressed))

    def segments(self) -> list[ArchivedFile]:
        """All complete segments, sorted by name; each once, though it be there in both forms."""
        found: dict[str, ArchivedFile] = {}
        for each in self.files():
            if each.name.kind is WalFileKind.SEGMENT:
                found.setdefault(each.name.text, each)
        return list(found.values())

    def find(self, name: str) -> str | None:
        """The object that holds a file, or None if there is none.

        Raises: UsageError for a name that PostgreSQL would not give, StorageError.
        """
        return self._file(name).find()

    def missing(self, ranges: Iterable[WalFileRange], segment_size: int) -> list[str]:
        """The names of segments in these ranges that are not in the archive.

        segment_size: bytes.
        """
        there = {each.name.text for each in self.segments()}
        return [
            segment.name
            for each in ranges
            for segment in each.segments(segment_size)
            if segment.name not in there
        ]

    def segment_writer(self, segment: Segment, level: int | None) -> SegmentWriter:
        """Begin to archive a segment.

        level: of zstd; None stores it plain.

        Raises: StorageError.
        """
        return self.file_writer(segment.name, segment.size, level)

    def whole_writer(self, segment: Segment, view: memoryview, level: int | None) -> SegmentWriter:
        """Archive a segment that lies in memory: all but its commit.

        view: stays as it is until then.

        Raises: StorageError.
        """
        file = self._file(segment.name)
        if file.find() is None:
            return WholeFileWriter(file, view, level)
        writer = ComparingWriter(file, segment.size)
        try:
            writer.write(view)
        except BaseException:
            writer.abort()
            raise
        return writer

    def file_writer(self, name: str, size: int, level: int | None) -> SegmentWriter:
        """Begin to archive a file of known size, a segment or a partial one.

        size: bytes.

        Raises: UsageError for a name that PostgreSQL would not give, StorageError.
        """
        file = self._file(name)
        if file.find() is None:
            return NewFileWriter(file, size, level)
        return ComparingWriter(file, size)

    def put_file(self, name: str, data: Bytes) -> None:
        """Archive a small file whole: timeline history, backup history.

        Raises: Conflict, StorageError, UsageError for a name that PostgreSQL would not give.
        """
        with self.file_writer(name, len(data), None) as writer:
            writer.write(data)
            writer.commit()

    def put_history(self, timeline: Timeline, data: Bytes) -> None:
        """Archive a timeline history file. Raises: Conflict, StorageError."""
        self.put_file(timeline.history_name, data)

    def compress(self, name: str, size: int, level: int) -> None:
        """Replace the plain form of a file by the compressed one.

        At every moment one of the two is there, whole and durable.

        size: bytes that the file must have.

        Raises: NotFound if there is no plain form; CorruptData, Conflict, StorageError.
        """
        file = self._file(name)
        plain = file.object_name(compressed=False)
        with SecondFormWriter(file, size, level) as writer:
            for chunk in file.object_chunks(plain):
                writer.write(chunk)
            writer.commit()
        self.storage.delete(plain)

    def read(self, name: str) -> bytes:
        """A small file, whole and proven. Raises: NotFound, CorruptData, StorageError."""
        data = b""
        for chunk in self.chunks(name):
            data += chunk
            if len(data) > _SMALL:
                raise CorruptData(f'could not read WAL file "{name}": it is implausibly large')
        return data

    def chunks(self, name: str, size: int | None = None) -> Iterator[bytes]:
        """Yield the content of a file, decompressed.

        The bytes are proven when the iterator is exhausted, not before: until then nothing may
        be made of them that cannot be taken back.

        size: how many bytes there must be, where that is known, as for segments.

        Raises: NotFound, CorruptData, StorageError.
        """
        return self._file(name).chunks(size)

    def sync(self, name: str) -> None:
        """Make a file durable that somebody else archived. Raises: NotFound, StorageError."""
        self._file(name).sync()

    def delete(self, name: str) -> None:
        """Remove a file for good, in whatever form it is there. Raises: StorageError."""
        self._file(name).delete()

    def conflicts(self) -> Sequence[str]:
        """The names of files that came with other content than the archived ones."""
        folder = layout.conflict_object(self._system, "")
        return [found.name.removeprefix(folder) for found in self.storage.list(folder)]

    def _file(self, name: str) -> StoredWal:
        return StoredWal(self.storage, self._system, name)
