"""Gzip: a link that compresses each archive as one gzip stream; the manifest passes untouched."""

import zlib
from typing import Final

from pgbackup.stream.sink import LARGEST_ROOM, Sink, feed

SUFFIX: Final = ".gz"

_GZIP_FORMAT: Final = zlib.MAX_WBITS | 16


class Gzip(Sink):
    """Compress on the caller's thread, with memory of its own."""

    def __init__(self, successor: Sink, level: int = zlib.Z_DEFAULT_COMPRESSION) -> None:
        """level: 1 to 9, or -1 for zlib's own choice."""
        super().__init__(successor)
        self._level = level
        self._page = memoryview(bytearray(LARGEST_ROOM))
        self._in_archive = False

    @property
    def buffer(self) -> memoryview:
        return self._page if self._in_archive else self.successor.buffer

    def begin_archive(self, name: str) -> None:
        self.successor.begin_archive(name + SUFFIX)
        self._in_archive = True
        self._compressor = zlib.compressobj(self._level, zlib.DEFLATED, _GZIP_FORMAT)

    def archive_contents(self, length: int) -> None:
        feed(self.successor, memoryview(self._compressor.compress(self._page[:length])))

    def flush(self) -> None:
        pass

    def end_archive(self) -> None:
        feed(self.successor, memoryview(self._compressor.flush()))
        self._in_archive = False
        self.successor.end_archive()
