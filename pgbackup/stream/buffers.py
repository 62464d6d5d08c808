"""The only allocator of the data path: a fixed pool of aligned page buffers.

A pool is made once per chain, lends each buffer to one holder at a time and blocks when all are
out: that wait is the back-pressure of the whole chain. It never grows, so memory does not depend
on the size of the database. A buffer that is not given back is a bug and fails `close`.
"""

import ctypes
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

MAXALIGN = 8
"""Bytes; the floor for any buffer that holds pages. Source: PGAlignedBlock in c.h."""

IO_ALIGN = 4096
"""Bytes; what direct I/O wants. Source: PG_IO_ALIGN_SIZE in pg_config_manual.h."""


class PageBuffer:
    """Memory lent by a pool.

    view:     `size` bytes whose address is a multiple of the pool's alignment.
    headroom: the bytes directly in front of `view`, for a protocol header.

    Always: lent to exactly one holder, who calls `release` exactly once.
    """

    __slots__ = ("_lent", "_pool", "_storage", "framed", "headroom", "view")

    def __init__(self, pool: "BufferPool", size: int, alignment: int, headroom: int) -> None:
        self._storage = bytearray(headroom + size + alignment)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._storage))
        start = headroom + (-(address + headroom)) % alignment
        whole = memoryview(self._storage)
        self._pool = pool
        self._lent = False
        self.view = whole[start : start + size]
        self.headroom = whole[start - headroom : start]
        self.framed = whole[start - headroom : start + size]

    @property
    def address(self) -> int:
        """Where `view` begins in memory."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.view))

    def release(self) -> None:
        """Give the buffer back to its pool. The holder must not touch `view` afterwards."""
        self._pool._take_back(self)


class BufferPool:
    """A fixed number of equal buffers.

    count:     how many buffers exist until the pool is closed.
    size:      bytes per buffer.
    alignment: power of two, at least MAXALIGN.
    headroom:  bytes in front of each buffer.
    """

    def __init__(
        self, count: int, size: int, *, alignment: int = IO_ALIGN, headroom: int = 0
    ) -> None:
        if alignment < MAXALIGN or alignment & (alignment - 1):
            raise ValueError(f"alignment must be a power of two of at least {MAXALIGN}")
        if count < 1 or size < 1 or headroom < 0:
            raise ValueError("a pool needs at least one buffer of at least one byte")
        self.size = size
        self.count = count
        self._condition = threading.Condition()
        self._free = [PageBuffer(self, size, alignment, headroom) for _ in range(count)]

    @property
    def lent(self) -> int:
        """How many buffers are out."""
        with self._condition:
            return self.count - len(self._free)

    def acquire(self) -> PageBuffer:
        """Borrow a buffer; wait until one is free.

        The buffer returned last is lent first: its memory is warm.
        """
        with self._condition:
            while not self._free:
                self._condition.wait()
            buffer = self._free.pop()
            buffer._lent = True
            return buffer

    def _take_back(self, buffer: PageBuffer) -> None:
        with self._condition:
            if not buffer._lent:
                raise RuntimeError("a page buffer was released twice")
            buffer._lent = False
            self._free.append(buffer)
            self._condition.notify()

    def close(self) -> None:
        """End the pool and give its memory back, at once and not when Python collects cycles.

        Raises: RuntimeError if a buffer is still out, but for an interrupt that is on its way: it
        can come between borrowing a buffer and noting it.
        """
        lent = self.lent
        error = sys.exc_info()[1]
        if lent and (error is None or isinstance(error, Exception)):
            raise RuntimeError(f"{lent} of {self.count} page buffers were never released")
        with self._condition:
            self._free.clear()
            self.count = 0

    def __enter__(self) -> "BufferPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()


def release_all(buffers: Sequence[PageBuffer]) -> None:
    """Give several buffers back."""
    for buffer in buffers:
        buffer.release()


def return_freed_buffers() -> None:
    """Have the buffers of this process go back to the system as soon as they are freed.

    For processes that live long and have many chains: glibc would keep a pool's memory for each
    thread that ever made one. No effect where there is no glibc.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)


_MMAP_THRESHOLD = -3
"""Source: malloc.h, M_MMAP_THRESHOLD (glibc 2.36)."""
