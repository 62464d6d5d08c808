"""Finished segments are compressed by a thread of their own, off the path of new WAL.

Lives as long as one run of the receiver. Each plain segment is stored compressed, durably, before
it is removed, so a crash leaves one form or both. A failure leaves the plain segment, which is
just as good, and is told; the next run tries again.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from pgbackup.errors import PgbackupError
from pgbackup.interrupts import held_back
from pgbackup.pg.lsn import Segment
from pgbackup.repo.archive import WalArchive


class SegmentCompressor:
    """A thread and the segments that wait for it.

    level: of zstd.
    tell:  is given a sentence when a segment stays plain.
    """

    def __init__(self, archive: WalArchive, level: int, tell: Callable[[str], None]) -> None:
        self._archive = archive
        self._level = level
        self._tell = tell
        self._waiting: deque[Segment] = deque()
        self._change = threading.Condition()
        self._is_closing = False
        self._bug: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="compress", daemon=True)

    def add(self, segment: Segment) -> None:
        """Have a segment compressed when its turn comes."""
        with self._change:
            self._waiting.append(segment)
            self._change.notify()

    def finish(self) -> None:
        """Compress what waits, and end."""
        self._close()

    def __enter__(self) -> Self:
        with held_back():
            self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        """End after the segment in hand; the rest stays plain until the next run."""
        self._waiting.clear()
        self._close()
        if self._bug is not None:
            raise self._bug

    def _close(self) -> None:
        with self._change:
            self._is_closing = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (segment := self._next()) is not None:
                self._compress(segment)
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._bug = error

    def _next(self) -> Segment | None:
        with self._change:
            while not self._waiting:
                if self._is_closing:
                    return None
                self._change.wait()
            return self._waiting.popleft()

    def _compress(self, segment: Segment) -> None:
        try:
            self._archive.compress(segment.name, segment.size, self._level)
        except PgbackupError as error:
            self._tell(f"WAL segment {segment} stays uncompressed: {error.message}")
