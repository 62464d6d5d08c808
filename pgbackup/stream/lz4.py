"""Lz4: a link that makes each archive one lz4 frame, as a server does.

Loads a library that nothing else needs; whoever wants it imports this when it comes to that.

Source: basebackup_lz4.c (PostgreSQL 18)
"""

from functools import partial
from typing import Final

from lz4.frame import BLOCKSIZE_MAX256KB, LZ4FrameCompressor

from pgbackup.stream.onestream import OneStream
from pgbackup.stream.sink import Sink

SUFFIX: Final = ".lz4"
DEFAULT_LEVEL: Final = 0


class Lz4(OneStream):
    """Compress with lz4."""

    def __init__(self, successor: Sink, level: int = DEFAULT_LEVEL) -> None:
        """level: 0 to 12; from 3 on it is slow."""
        super().__init__(successor, SUFFIX, partial(_Frame, level))


class _Frame:
    """One frame; its header goes out with the first bytes."""

    def __init__(self, level: int) -> None:
        self._compressor = LZ4FrameCompressor(
            compression_level=level, block_size=BLOCKSIZE_MAX256KB
        )
        self._header: bytes = self._compressor.begin()

    def compress(self, data: memoryview) -> bytes:
        compressed: bytes = self._compressor.compress(data)
        return self._take_header() + compressed

    def flush(self) -> bytes:
        compressed: bytes = self._compressor.flush()
        return self._take_header() + compressed

    def _take_header(self) -> bytes:
        header, self._header = self._header, b""
        return header
