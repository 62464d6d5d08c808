"""Throttle: a link that only looks, and waits so that no more than a rate of bytes passes.

Follows the server's algorithm: an eighth of a second is the unit, and time spent idle is no credit
for later. Counts the bytes of archives and manifest as its predecessor hands them in.

Source: basebackup_throttle.c, throttle (PostgreSQL 18)
"""

import time
from collections.abc import Callable
from typing import Final

from pgbackup.stream.sink import BackupState, Fill, Sink

FREQUENCY: Final = 8
"""Looks per second. Source: basebackup_throttle.c, THROTTLING_FREQUENCY"""


class Throttle(Sink):
    """Hold up what flows faster than a rate."""

    def __init__(
        self,
        successor: Sink,
        rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Begin. rate: kilobytes per second."""
        super().__init__(successor)
        self._sample = rate * 1024 // FREQUENCY
        self._clock = clock
        self._sleep = sleep
        self._counter = 0
        self._last = 0.0

    def begin_backup(self, state: BackupState) -> None:
        self._last = self._clock()
        self.successor.begin_backup(state)

    def archive_contents(self, length: int) -> None:
        self._throttle(length)
        self.successor.archive_contents(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        self._throttle(length)
        self.successor.archive_later(length, fill)

    def manifest_contents(self, length: int) -> None:
        self._throttle(length)
        self.successor.manifest_contents(length)

    def _throttle(self, length: int) -> None:
        self._counter += length
        if self._counter < self._sample:
            return
        samples, self._counter = divmod(self._counter, self._sample)
        wait = self._last + samples / FREQUENCY - self._clock()
        if wait > 0:
            self._sleep(wait)
        self._last = self._clock()
