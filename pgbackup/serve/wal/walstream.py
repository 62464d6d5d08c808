"""WAL for one client, read and decompressed ahead by a thread, in pieces ready to be sent.

Lives as long as one START_REPLICATION. A piece is in a page buffer with room in front of it for the
headers of its message, ends at a page boundary if more is to come, and never crosses a segment. The
last piece of what a file gives is handed on when the file is proven, so that a client never
completes a segment that is damaged here. Where WAL ends it waits for news.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

from pgbackup.errors import CorruptData, NotFound
from pgbackup.interrupts import held_back
from pgbackup.pg.lsn import Lsn
from pgbackup.serve.wal.sentwal import SentWal, WalExtent
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.stream.buffers import BufferPool, PageBuffer

PIECE_SIZE = 128 << 10
"""Bytes. Source: walsender.c, MAX_SEND_SIZE (PostgreSQL 18)"""

HEADROOM = 5 + 25
"""Bytes in front of a piece: for the message's type and length, and for those of XLogData."""

BUFFERS = 16
"""Two megabytes for each client."""


class WalPiece(NamedTuple):
    """WAL to be sent. buffer: its view begins with the data; the taker releases it."""

    start: Lsn
    data: memoryview
    buffer: PageBuffer


class WalStream:
    """The thread and what it has ready.

    Always: pieces join, from the start on.
    """

    def __init__(self, source: SentWal, start: Lsn, news: WalNews) -> None:
        """Start nothing yet. Raises: ClientError if the start cannot be."""
        source.check_start(start)
        self.source = source
        self._news = news
        self._looked: int | None = None
        self._next = start
        self._pool = BufferPool(BUFFERS, PIECE_SIZE, headroom=HEADROOM)
        self._ready: deque[WalPiece] = deque()
        self._failure: BaseException | None = None
        self._is_done = False
        self._closing = threading.Event()
        self._guard = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)

    def fileno(self) -> int:
        """A descriptor that can be read from when there is something to take."""
        return self._event

    def take(self, most: int = 1) -> list[WalPiece]:
        """The next pieces, without waiting; nothing if none is ready, or is_over.

        Raises: what the thread ran into, when everything before it was taken.
        """
        with self._guard:
            if self._ready:
                return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
            if self._failure is not None:
                raise self._failure
            if not self._is_done:
                self._forget()
            return []

    def has_all(self, number: int = 0) -> bool:
        """Tell whether everything has been taken that was there at some news, or at any look."""
        with self._guard:
            return self._looked is not None and self._looked >= number and not self._ready

    @property
    def is_over(self) -> bool:
        """Tell whether all of a timeline that was left has been taken."""
        with self._guard:
            return self._is_done and not self._ready and self._failure is None

    def __enter__(self) -> Self:
        with held_back():
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread. The taker has released what it took."""
        with self._guard:
            self._closing.set()
            while self._ready:
                self._ready.popleft().buffer.release()
        self._news.wake()
        self._thread.join()
        os.close(self._event)
        if kind is None:
            self._pool.close()

    def _forget(self) -> None:
        """Let the descriptor be quiet until something comes."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return

    def _put(self, piece: WalPiece) -> None:
        with self._guard:
            if self._closing.is_set():
                piece.buffer.release()
                return
            self._ready.append(piece)
            os.eventfd_write(self._event, 1)

    def _run(self) -> None:
        try:
            self._read_on()
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._failure = error
        finally:
            with self._guard:
                self._is_done = True
                os.eventfd_write(self._event, 1)

    def _read_on(self) -> None:
        while not self._closing.is_set():
            number = self._news.number
            extent = self.source.find(self._next)
            if extent is not None:
                self._looked = None
                self._read(extent)
            elif self.source.is_over(self._next):
                return
            else:
                self._wait(number)

    def _wait(self, number: int) -> None:
        """Say that there is no more now, and wait for it."""
        with self._guard:
            if self._looked != number:
                self._looked = number
                os.eventfd_write(self._event, 1)
        self._news.wait(number, self._closing)

    def _read(self, extent: WalExtent) -> None:
        start = self._next
        try:
            self._cut(self.source.contents(extent, start), extent.end)
        except NotFound:
            if self._next != start:
                raise
            # It has got its other form, or its name, at this moment; or it is gone for good.
            if self.source.find(start) == extent:
                raise

    def _cut(self, contents: Iterable[bytes], end: Lsn) -> None:
        """Make pieces; the last is kept until the contents are exhausted, hence proven."""
        held: WalPiece | None = None
        filling = _Filling(self._pool, self._next, end)
        try:
            for chunk in contents:
                if self._closing.is_set():
                    return
                rest = memoryview(chunk)
                while rest and filling.start < end:
                    rest = rest[filling.add(rest) :]
                    if filling.is_full:
                        if held is not None:
                            self._hand_on(held)
                        held = filling.take()
            if filling.start < end:
                raise CorruptData(f"could not read WAL up to {end}: it ends at {filling.start}")
            if held is not None:
                self._hand_on(held)
                held = None
        finally:
            filling.release()
            if held is not None:
                held.buffer.release()

    def _hand_on(self, piece: WalPiece) -> None:
        self._next = Lsn(piece.start + len(piece.data))
        self._put(piece)


class _Filling:
    """The piece that is being filled."""

    def __init__(self, pool: BufferPool, start: Lsn, end: Lsn) -> None:
        self.start = start
        self._pool = pool
        self._end = end
        self._buffer: PageBuffer | None = None
        self._size = self._filled = 0

    @property
    def is_full(self) -> bool:
        return self._buffer is not None and self._filled == self._size

    def add(self, data: memoryview) -> int:
        """Take of some bytes as many as fit; how many."""
        if self._buffer is None:
            self._buffer = self._pool.acquire()
            self._size = min(PIECE_SIZE - self.start % PIECE_SIZE, self._end - self.start)
            self._filled = 0
        taken = min(len(data), self._size - self._filled)
        self._buffer.view[self._filled : self._filled + taken] = data[:taken]
        self._filled += taken
        return taken

    def take(self) -> WalPiece:
        """The piece, which is full."""
        assert self._buffer is not None
        piece = WalPiece(self.start, self._buffer.view[: self._size], self._buffer)
        self.start = Lsn(self.start + self._size)
        self._buffer = None
        return piece

    def release(self) -> None:
        if self._buffer is not None:
            self._buffer.release()
            self._buffer = None
