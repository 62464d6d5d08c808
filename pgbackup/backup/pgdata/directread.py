"""Reads past the page cache, so that a backup does not drive out what the server has there.

Direct I/O wants memory, offsets and lengths at multiples of 4096 bytes, which the members of a tar
archive never have: each read goes through an aligned buffer, and is copied once. Where a file
system refuses, a file is read as usual.
"""

import errno
import fcntl
import os
from typing import Final

from pgbackup.stream.buffers import IO_ALIGN, BufferPool

PIECE_SIZE: Final = 1 << 20
"""Bytes read at once; fewer than a frame, so that the copy finds them in the processor's cache."""


class DirectReads:
    """Lends aligned buffers to the threads that read; close it when they have ended.

    threads: that read at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._pool = BufferPool(threads, PIECE_SIZE)

    def open(self, path: bytes, flags: int) -> int:
        """Open a file for direct reads if that is possible. Raises: OSError."""
        try:
            return os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.open(path, flags)

    def read(self, fd: int, offset: int, memory: memoryview) -> int:
        """Read some bytes, 0 at the end of the file.

        offset: a multiple of IO_ALIGN.

        Raises: OSError.
        """
        page = self._pool.acquire()
        try:
            wanted = min(len(memory), PIECE_SIZE)
            aligned = page.view[: wanted + -wanted % IO_ALIGN]
            count = min(self._read_aligned(fd, aligned, offset), wanted)
            memory[:count] = aligned[:count]
            return count
        finally:
            page.release()

    def close(self) -> None:
        """End; no thread may be reading."""
        self._pool.close()

    def _read_aligned(self, fd: int, memory: memoryview, offset: int) -> int:
        try:
            return os.preadv(fd, [memory], offset)
        except OSError as error:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                raise
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            return os.preadv(fd, [memory], offset)
