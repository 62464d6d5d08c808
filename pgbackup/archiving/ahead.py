"""Segments that come whole, far behind the server, go from memory into the archive compressed.

No raw file is written for them: fewer bytes to the disk is where the time of catching up goes.
They are stored in order by a thread, so that a crash leaves no hole; after a failure none of those
behind it is stored. Nothing here is acknowledged before it is durable under its name.
"""

import threading
from collections import deque
from types import TracebackType
from typing import Self

from pgbackup.errors import PgbackupError
from pgbackup.interrupts import held_back
from pgbackup.pg.lsn import Segment
from pgbackup.repo.archive import WalArchive
from pgbackup.stream.buffers import BufferPool, PageBuffer

BUFFERS = 3
"""One being filled, one being compressed, one between them."""

MAX_SEGMENT_SIZE = 64 << 20
"""Bytes; larger segments would take too much memory, and are received into raw files."""


class SegmentsAhead:
    """A thread that stores whole segments, and the buffers it shares with its owner."""

    def __init__(self, archive: WalArchive, level: int, segment_size: int) -> None:
        self._archive = archive
        self._level = level
        self._pool = BufferPool(BUFFERS, segment_size)
        self._change = threading.Condition()
        self._waiting: deque[tuple[Segment, PageBuffer]] = deque()
        self._stored: list[Segment] = []
        self._under_way = 0
        self._failure: BaseException | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def acquire(self) -> PageBuffer:
        """A buffer for a whole segment; waits for one that is being stored."""
        return self._pool.acquire()

    def add(self, segment: Segment, buffer: PageBuffer) -> None:
        """Have a full buffer stored; it is given back by the thread."""
        with self._change:
            self._under_way += 1
            self._waiting.append((segment, buffer))
            self._change.notify_all()

    def take_stored(self, *, wait: bool) -> list[Segment]:
        """Segments that have become durable since the last call, in order.

        wait: until everything added is.

        Raises: the failure of the first that was not stored; StorageError, Conflict.
        """
        with self._change:
            while wait and self._under_way:
                self._change.wait()
            stored, self._stored = self._stored, []
            failure = self._failure
        if failure is not None and not stored:
            raise failure
        return stored

    def forget(self) -> None:
        """Wait until nothing is under way, and begin anew."""
        with self._change:
            while self._under_way:
                self._change.wait()
            self._stored, self._failure = [], None

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
        with self._change:
            self._is_closing = True
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            segment, buffer = task
            try:
                if self._failure is None:
                    self._store(segment, buffer)
            finally:
                buffer.release()
                with self._change:
                    self._under_way -= 1
                    self._change.notify_all()

    def _next(self) -> tuple[Segment, PageBuffer] | None:
        with self._change:
            while not self._waiting:
                if self._is_closing:
                    return None
                self._change.wait()
            return self._waiting.popleft()

    def _store(self, segment: Segment, buffer: PageBuffer) -> None:
        try:
            with self._archive.segment_writer(segment, self._level) as writer:
                writer.write(buffer.view)
                writer.commit()
        except PgbackupError as error:
            self._failure = error
        except BaseException as error:
            self._failure = error
            raise
        else:
            with self._change:
                self._stored.append(segment)
