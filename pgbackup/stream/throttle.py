"""Throttle: a link that lets a limited number of bytes a second pass.

Source: basebackup_throttle.c (PostgreSQL 18)
"""

import time
from collections.abc import Callable
from typing import Final

from pgbackup.stream.sink import LARGEST_ROOM, BackupState, Fill, Sink

PIECES_PER_SECOND: Final = 8
"""How often a second what has come is handed on, where a page would take longer."""


class Throttle(Sink):
    """Wait before more is let through than the rate allows since the beginning.

    rate:  bytes a second.
    pause: waits so many seconds.
    """

    def __init__(
        self,
        successor: Sink,
        rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(successor)
        self._rate = rate
        self._clock = clock
        self._pause = pause
        self._room = max(LARGEST_ROOM, rate // PIECES_PER_SECOND)
        self._free_at = 0.0

    @property
    def buffer(self) -> memoryview:
        return self.successor.buffer[: self._room]

    def begin_backup(self, state: BackupState) -> None:
        self._free_at = self._clock()
        self.successor.begin_backup(state)

    def archive_contents(self, length: int) -> None:
        self.successor.archive_contents(length)
        self._wait_for(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        self.successor.archive_later(length, fill)
        self._wait_for(length)

    def _wait_for(self, length: int) -> None:
        """Hand on what has come, and wait as long as it may take."""
        self.successor.flush()
        now = self._clock()
        self._free_at = max(self._free_at, now - 1 / PIECES_PER_SECOND) + length / self._rate
        if self._free_at > now:
            self._pause(self._free_at - now)
