"""Segments that come whole, far behind the server, go from memory straight into the archive.

No raw file is written for them, nor zeros before their bytes: fewer bytes to the disk is where the
time of catching up goes. Threads compress and write them side by side, but each gets its name, and
is durable, before the next one does, so that a crash leaves no hole; after a failure none of those
behind it is stored. Nothing here is acknowledged before it is durable under its name.
"""

import threading
from collections import deque
from typing import NamedTuple, Self

from pgbackup.interrupts import held_back
from pgbackup.pg.lsn import Segment
from pgbackup.repo.archive import WalArchive
from pgbackup.stream.buffers import BufferPool, PageBuffer

WORKERS = 2
"""Threads: while one waits for the disk, the other compresses (scripts/bench/receive.py)."""

BUFFERS = WORKERS + 2
"""One being filled, one for each thread, one between them."""

MAX_SEGMENT_SIZE = 64 << 20
"""Bytes; larger segments would take too much memory, and are received into raw files."""


class _Task(NamedTuple):
    number: int
    segment: Segment
    buffer: PageBuffer


class SegmentsAhead:
    """Threads that store whole segments, and the buffers they share with their owner."""

    def __init__(self, archive: WalArchive, level: int | None, segment_size: int) -> None:
        """Start nothing yet.

        level: of zstd; None stores segments plain.
        """
        self._archive = archive
        self._level = level
        self._segment_size = segment_size
        self._pool: BufferPool | None = None
        self._change = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._stored: list[Segment] = []
        self._added = self._done = 0
        self._failure: BaseException | None = None
        self._is_closing = False
        self._threads = [
            threading.Thread(target=self._run, name="store", daemon=True) for _ in range(WORKERS)
        ]

    def acquire(self) -> PageBuffer:
        """A buffer for a whole segment; waits for one that is being stored."""
        if self._pool is None:  # a receiver that never falls behind needs none of this memory
            self._pool = BufferPool(BUFFERS, self._segment_size)
        return self._pool.acquire()

    def add(self, segment: Segment, buffer: PageBuffer) -> None:
        """Have a full buffer stored; it is given back by a thread."""
        with self._change:
            self._waiting.append(_Task(self._added, segment, buffer))
            self._added += 1
            self._change.notify_all()

    def take_stored(self, *, wait: bool) -> list[Segment]:
        """Segments that have become durable since the last call, in order.

        wait: until everything added is.

        Raises: the failure of the first that was not stored; StorageError, Conflict.
        """
        with self._change:
            while wait and self._done < self._added:
                self._change.wait()
            stored, self._stored = self._stored, []
            failure = self._failure
        if failure is not None and not stored:
            raise failure
        return stored

    def forget(self) -> None:
        """Wait until nothing is under way, and begin anew."""
        with self._change:
            while self._done < self._added:
                self._change.wait()
            self._stored, self._failure = [], None

    def __enter__(self) -> Self:
        with held_back():
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        with self._change:
            self._is_closing = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            failure: BaseException | None = None
            stored = False
            try:
                stored = self._store(task)
            except BaseException as error:  # noqa: BLE001 - raised in the owner
                failure = error
            task.buffer.release()
            self._await_turn(task)
            with self._change:
                if stored:
                    self._stored.append(task.segment)
                self._failure = self._failure or failure
                self._done += 1
                self._change.notify_all()

    def _next(self) -> _Task | None:
        with self._change:
            while not self._waiting:
                if self._is_closing:
                    return None
                self._change.wait()
            return self._waiting.popleft()

    def _store(self, task: _Task) -> bool:
        """Compress and write a segment, and name it when all before it are stored."""
        with self._archive.whole_writer(task.segment, task.buffer.view, self._level) as writer:
            self._await_turn(task)
            if self._failure is None:
                writer.commit()
                return True
        return False

    def _await_turn(self, task: _Task) -> None:
        with self._change:
            while self._done < task.number:
                self._change.wait()
