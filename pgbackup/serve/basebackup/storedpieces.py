"""Puts frames of stored archives, and bytes between them, into a sink: as tar, or as they are.

Frames are deferred where the sink has room for them, so that a thread of the chain reads and
decodes them; headers of members are among what is deferred, so no link may look at members.
"""

from functools import partial
from typing import Protocol

import zstandard

from pgbackup.backup.stored import FrameReader, StoredArchive
from pgbackup.stream.compress import FRAME_SIZE
from pgbackup.stream.seekable import Frame
from pgbackup.stream.sink import Fill, Sink, feed

EDGE_LEVEL = 1
"""Of zstd, for what stands between stored frames; that is little, but for WAL."""


class Pieces(Protocol):
    """Puts the pieces of one archive, in order."""

    def put_frame(self, frame: Frame) -> None:
        """A whole stored frame. Raises: CorruptData, StorageError."""

    def put(self, data: memoryview) -> None:
        """Plain bytes that are not stored like this."""

    def end(self) -> None:
        """No more comes."""


class PlainPieces:
    """Plain tar."""

    def __init__(self, sink: Sink, archive: StoredArchive) -> None:
        self._sink = sink
        self._ahead = FrameReader(archive)
        self._reader = FrameReader(archive)

    def put_frame(self, frame: Frame) -> None:
        if _has_room(self._sink, frame.size):
            self._sink.archive_later(frame.size, partial(self._decode, frame))
        else:
            self.put(self._reader.read(frame))

    def put(self, data: memoryview) -> None:
        feed(self._sink, data)

    def end(self) -> None:
        pass

    def _decode(self, frame: Frame, memory: memoryview) -> None:
        self._ahead.read_into(frame, memory)


class StoredPieces:
    """Zstd: frames as they are stored, and others around what is not."""

    def __init__(self, sink: Sink, archive: StoredArchive) -> None:
        self._sink = sink
        self._archive = archive
        self._between = bytearray()
        self._compressor = zstandard.ZstdCompressor(EDGE_LEVEL, write_checksum=True)

    def put_frame(self, frame: Frame) -> None:
        self.end()
        fill: Fill = partial(self._read, frame)
        size = frame.stored_size
        if _has_room(self._sink, size):
            self._sink.archive_later(size, fill)
        else:
            memory = memoryview(bytearray(size))
            fill(memory)
            feed(self._sink, memory)

    def put(self, data: memoryview) -> None:
        self._between += data
        if len(self._between) >= FRAME_SIZE:
            self.end()

    def put_stored(self, data: bytes) -> None:
        """Bytes that are zstd already."""
        self.end()
        feed(self._sink, memoryview(data))

    def end(self) -> None:
        if self._between:
            feed(self._sink, memoryview(self._compressor.compress(self._between)))
            self._between.clear()

    def _read(self, frame: Frame, memory: memoryview) -> None:
        self._archive.read_stored(frame, memory)


def _has_room(sink: Sink, size: int) -> bool:
    """Whether a frame fits into the sink's buffer, if need be into an empty one."""
    if len(sink.buffer) < size:
        sink.flush()
    return len(sink.buffer) >= size
