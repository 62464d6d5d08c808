"""A base backup out of a repository: its objects, and its archives frame by frame.

Made from a record; opens nothing until it is asked. Every piece it hands out has been proven to
be whole: stored length, end of frame, plain length, content checksum; other objects are compared
with the record.

Never looks at members, and never writes.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property

import zstandard
from crc32c import crc32c

from pgbackup.errors import CorruptData
from pgbackup.pg.manifest import Manifest
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import ArchiveRecord, BackupRecord, HistoryRecord, ObjectRecord
from pgbackup.storage.api import Storage
from pgbackup.stream.index import IndexEntry, decode_index
from pgbackup.stream.seekable import FOOTER_SIZE, Frame, decode_seek_table, seek_table_size

PIECE_SIZE = 4 << 20
"""Bytes in which a plain archive is read; the size of a frame of a compressed one."""

MAX_FRAME_SIZE = 64 << 20
"""Bytes, stored or plain. We write 4 MiB; a table that says more could only eat memory."""


_CHUNK = 1 << 20  # bytes


class StoredArchive:
    """One archive and its index, as the record describes them."""

    def __init__(self, storage: Storage, folder: str, record: ArchiveRecord) -> None:
        self.record = record
        self.object_name = folder + record.name
        self._storage = storage
        self.located = storage.locate(self.object_name)

    @property
    def is_compressed(self) -> bool:
        """Whether this is zstd; else it is plain tar."""
        return self.record.name.endswith(layout.COMPRESSED_SUFFIX)

    @property
    def index_name(self) -> str:
        """Name of the object, within the backup's folder, that holds the index."""
        return layout.index_name(self.record.name)

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """All frames; of a plain archive, pieces whose checksum is not known.

        Raises: CorruptData unless they make up the whole object and the recorded plain size.
        """
        size = self._storage.stat(self.object_name).size
        if size != self.record.stored_size:
            raise CorruptData(
                f'could not read archive "{self.located}": it has {size} bytes instead of'
                f" {self.record.stored_size}"
            )
        frames = self._seek_table(size) if self.is_compressed else _pieces(size)
        plain_size = frames[-1].offset + frames[-1].size if frames else 0
        if plain_size != self.record.size:
            raise CorruptData(
                f'could not read archive "{self.located}": it holds {plain_size} bytes instead of'
                f" {self.record.size}"
            )
        if any(max(frame.size, frame.stored_size) > MAX_FRAME_SIZE for frame in frames):
            raise CorruptData(f'could not read archive "{self.located}": a frame is too large')
        return frames

    def frames_between(self, start: int, end: int) -> tuple[Frame, ...]:
        """The frames that hold bytes [start, end) of the plain archive."""
        first = bisect_right(self.frames, start, key=lambda frame: frame.offset) - 1
        last = bisect_right(self.frames, end - 1, key=lambda frame: frame.offset)
        return self.frames[max(first, 0) : last]

    def seek_table(self) -> bytes:
        """The stored bytes behind the last frame; none in a plain archive."""
        end = sum(frame.stored_size for frame in self.frames)
        with self._storage.reader(self.object_name, end) as reader:
            return reader.read()

    def read_stored(self, frame: Frame, memory: memoryview) -> None:
        """Read a frame as it is stored into memory of its stored size. Raises: StorageError."""
        with self._storage.reader(self.object_name, frame.stored_offset, len(memory)) as reader:
            reader.readinto(memory)

    def _seek_table(self, size: int) -> tuple[Frame, ...]:
        footer = self._read_end(size, FOOTER_SIZE)
        table_size = seek_table_size(footer, self.located)
        if table_size > size:
            raise CorruptData(
                f'could not read archive "{self.located}": it is too short for its seek table'
            )
        return decode_seek_table(self._read_end(size, table_size), size, self.located)

    def _read_end(self, size: int, length: int) -> bytes:
        with self._storage.reader(self.object_name, max(size - length, 0)) as reader:
            return reader.read()


class FrameReader:
    """Reads frames of one archive on one thread.

    observe: called with each frame and its stored bytes before they are decoded.

    damaged: the frame that `read` has raised CorruptData for, or None.

    Always: holds one stored and at most one plain frame.
    """

    def __init__(
        self,
        archive: StoredArchive,
        observe: Callable[[Frame, memoryview], object] | None = None,
    ) -> None:
        self._archive = archive
        self._observe = observe
        self._stored = self._plain = memoryview(b"")
        self._decompressor = zstandard.ZstdDecompressor()
        self.damaged: Frame | None = None

    def read(self, frame: Frame) -> memoryview:
        """The plain bytes of a frame, valid until the next call.

        Raises: CorruptData, StorageError.
        """
        if not self._archive.is_compressed:
            return self._read_stored(frame)
        self._plain = _at_least(self._plain, frame.size)
        plain = self._plain[: frame.size]
        self._decode(frame, plain)
        return plain

    def read_into(self, frame: Frame, memory: memoryview) -> None:
        """Write the plain bytes of a frame into memory of its size.

        Raises: CorruptData, StorageError.
        """
        if self._archive.is_compressed:
            self._decode(frame, memory)
        else:
            self._archive.read_stored(frame, memory)

    def _read_stored(self, frame: Frame) -> memoryview:
        self._stored = _at_least(self._stored, frame.stored_size)
        stored = self._stored[: frame.stored_size]
        self._archive.read_stored(frame, stored)
        if self._observe is not None:
            self._observe(frame, stored)
        return stored

    def _decode(self, frame: Frame, plain: memoryview) -> None:
        stored = self._read_stored(frame)
        try:
            parameters = zstandard.get_frame_parameters(stored)
            # The size that the frame gives is what zstd allocates, whatever the limit.
            if parameters.content_size != frame.size or not parameters.has_checksum:
                raise self._damaged(frame, "it is not the frame of the seek table")
            if int.from_bytes(stored[-4:], "little") != frame.checksum:
                raise self._damaged(frame, "its checksum is not that of the seek table")
            with self._decompressor.stream_reader(stored) as reader:
                length = reader.readinto(plain)  # at once, where both are there as a whole
                is_more = bool(reader.read(1))  # also has the checksum compared
        except zstandard.ZstdError as error:
            raise self._damaged(frame, str(error)) from error
        if length != frame.size or is_more:
            raise self._damaged(frame, f"it gave {length} bytes instead of {frame.size}")

    def _damaged(self, frame: Frame, reason: str) -> CorruptData:
        self.damaged = frame
        return CorruptData(
            f'could not decode archive "{self._archive.located}": frame at byte'
            f" {frame.stored_offset}: {reason}"
        )


def _at_least(memory: memoryview, size: int) -> memoryview:
    """The same memory, or longer one."""
    return memory if len(memory) >= size else memoryview(bytearray(size))


class StoredBackup:
    """A backup as its record describes it."""

    def __init__(self, storage: Storage, record: BackupRecord) -> None:
        self.storage = storage
        self.record = record
        self.folder = layout.backup_folder(record.system_identifier, record.label)
        self.archives = tuple(
            StoredArchive(storage, self.folder, archive) for archive in record.archives
        )

    def manifest(self) -> Manifest:
        """The manifest, whose own checksum was found right. Raises: CorruptData."""
        return Manifest.parse(self.read(layout.MANIFEST))

    def index(self, archive: StoredArchive) -> list[IndexEntry]:
        """The members of an archive. Raises: CorruptData."""
        return decode_index(
            self.read(archive.index_name), self.storage.locate(self.folder + archive.index_name)
        )

    def read(self, name: str) -> bytes:
        """A whole object of the backup other than an archive, compared with the record.

        Raises: CorruptData.
        """
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The same in pieces of any size, which are proven when the iterator is exhausted.

        Raises: CorruptData.
        """
        located = self.storage.locate(self.folder + name)
        record = self._object(name, located)
        checksum = 0
        with self.storage.reader(self.folder + name) as reader:
            _check_size(reader.size, record, f'object "{located}"')
            while chunk := reader.read(_CHUNK):
                checksum = crc32c(chunk, checksum)
                yield chunk
        _check_checksum(checksum, record, f'object "{located}"')

    def _object(self, name: str, located: str) -> ObjectRecord:
        for record in self.record.objects:
            if record.name == name:
                return record
        raise CorruptData(f'could not read object "{located}": the record does not know it')


def read_history(archive: WalArchive, record: HistoryRecord) -> bytes:
    """A history file of the WAL archive, compared with the record.

    Raises: NotFound, CorruptData.
    """
    data = archive.read(record.name)
    _check_size(len(data), record, f'history file "{record.name}"')
    _check_checksum(crc32c(data), record, f'history file "{record.name}"')
    return data


def _check_size(size: int, record: ObjectRecord | HistoryRecord, what: str) -> None:
    if size != record.size:
        raise CorruptData(f"could not read {what}: it has {size} bytes instead of {record.size}")


def _check_checksum(checksum: int, record: ObjectRecord | HistoryRecord, what: str) -> None:
    if f"{checksum:08x}" != record.crc32c:
        raise CorruptData(f"could not read {what}: its checksum is wrong")


def _pieces(size: int) -> tuple[Frame, ...]:
    return tuple(
        Frame(offset, min(PIECE_SIZE, size - offset), offset, min(PIECE_SIZE, size - offset), 0)
        for offset in range(0, size, PIECE_SIZE)
    )
