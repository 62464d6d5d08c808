"""How long ago WAL that a client has now acknowledged was flushed here.

Pure: positions and times come in, lags come out. Kept are moments, each with the end of WAL at it,
until the client has got there; where there are too many, the newest is replaced, so that the old
ones are measured exactly and the rest is interpolated. A client that never tells of one thing, as
pg_receivewal of what it has replayed, does not disturb the measuring of the others.

Source: walsender.c, LagTrackerWrite and LagTrackerRead (PostgreSQL 18).
"""

from collections import deque
from typing import NamedTuple

from pgbackup.pg.lsn import Lsn

MAX_MOMENTS = 8192


class _Moment(NamedTuple):
    """time: microseconds."""

    lsn: Lsn
    time: int


class LagTracker:
    """What one stream's client tells of one thing: written, flushed, or replayed."""

    def __init__(self, max_moments: int = MAX_MOMENTS) -> None:
        self._max_moments = max_moments
        self._ahead: deque[_Moment] = deque()
        self._last: _Moment | None = None
        self._newest = Lsn(0)

    def write(self, lsn: Lsn, now: int) -> None:
        """Note where WAL ends at a moment, in microseconds."""
        if lsn == self._newest:
            return
        self._newest = lsn
        if len(self._ahead) >= self._max_moments:
            self._ahead.pop()
        self._ahead.append(_Moment(lsn, now))

    def read(self, lsn: Lsn, now: int) -> int | None:
        """The lag, in microseconds, of a client that has got to a position; None: nothing new."""
        time: int | None = None
        while self._ahead and self._ahead[0].lsn <= lsn:
            self._last = self._ahead.popleft()
            time = self._last.time
        if not self._ahead:
            self._last = None
        elif time is None:
            time = self._interpolated(lsn)
        return None if time is None or time > now else now - time

    def _interpolated(self, lsn: Lsn) -> int | None:
        """When WAL ended at a position between two moments."""
        before, after = self._last, self._ahead[0]
        if before is None:  # all was acknowledged, and then came more
            return after.time
        if lsn < before.lsn or before.time > after.time:
            return None
        share = (lsn - before.lsn) / (after.lsn - before.lsn)
        return before.time + round((after.time - before.time) * share)
