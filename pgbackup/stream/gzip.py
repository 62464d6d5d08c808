"""Gzip: a link that makes each archive one gzip stream."""

import zlib
from functools import partial
from typing import Final

from pgbackup.stream.onestream import OneStream
from pgbackup.stream.sink import Sink

SUFFIX: Final = ".gz"

_GZIP_FORMAT: Final = zlib.MAX_WBITS | 16


class Gzip(OneStream):
    """Compress with zlib."""

    def __init__(self, successor: Sink, level: int = zlib.Z_DEFAULT_COMPRESSION) -> None:
        """level: 1 to 9, or -1 for zlib's own choice."""
        super().__init__(
            successor, SUFFIX, partial(zlib.compressobj, level, zlib.DEFLATED, _GZIP_FORMAT)
        )
