"""OneStream: a link that compresses each archive as one stream; the manifest passes untouched."""

from collections.abc import Callable
from typing import Protocol

from pgbackup.stream.sink import LARGEST_ROOM, Sink, feed


class Compressor(Protocol):
    """Compresses one stream."""

    def compress(self, data: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class OneStream(Sink):
    """Compress on the caller's thread, with memory of its own."""

    def __init__(self, successor: Sink, suffix: str, begin: Callable[[], Compressor]) -> None:
        """Make the link.

        suffix: of the archives' names.
        begin:  makes what compresses one archive.
        """
        super().__init__(successor)
        self._suffix = suffix
        self._begin = begin
        self._page = memoryview(bytearray(LARGEST_ROOM))
        self._in_archive = False

    @property
    def buffer(self) -> memoryview:
        return self._page if self._in_archive else self.successor.buffer

    def begin_archive(self, name: str) -> None:
        self.successor.begin_archive(name + self._suffix)
        self._in_archive = True
        self._compressor = self._begin()

    def archive_contents(self, length: int) -> None:
        feed(self.successor, memoryview(self._compressor.compress(self._page[:length])))

    def flush(self) -> None:
        pass

    def end_archive(self) -> None:
        feed(self.successor, memoryview(self._compressor.flush()))
        self._in_archive = False
        self.successor.end_archive()
