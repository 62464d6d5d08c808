"""Wakes all who wait at the end of WAL; one thread looks for them.

A receiver in the same process announces what it has flushed. What others add to the archive is
found by looking, because the positions of a receiver are in a mapped file, of which the kernel
tells nobody. Lives as long as the server; while nobody waits the thread rests.

Source: walsender.c, WalSndWakeup; xlogrecovery.c, WakeupRecovery (PostgreSQL 18), in spirit.
"""

import threading
import time
from typing import Self

from pgbackup.errors import PgbackupError
from pgbackup.interrupts import held_back
from pgbackup.pg.lsn import Lsn
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.wal.walsource import WalSource

LOOK_INTERVAL = 0.004
"""Seconds between two looks at what a receiver in another process has published."""

LONG_INTERVAL = 0.1
"""Seconds between two looks at the archive: for whole segments, and for new timelines."""

PATIENCE = 1.0
"""Seconds after which one who waits looks himself, as at an old timeline that is being filled."""


class WalNews:
    """How often something came, and the thread that finds out.

    is_fed: a receiver in this process announces what it does.
    """

    def __init__(self, cluster: ClusterRepository, *, is_fed: bool = False) -> None:
        """Start nothing yet."""
        self._cluster = cluster
        self._look_interval = LONG_INTERVAL if is_fed else LOOK_INTERVAL
        self._changed = threading.Condition()
        self._number = 0
        self._waiting = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wal news", daemon=True)

    @property
    def number(self) -> int:
        """To be read before a look that `wait` goes on from."""
        return self._number

    def announce(self) -> int:
        """Have everybody look; return the number that stands for it."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()
            return self._number

    def wait(self, number: int, is_over: threading.Event) -> None:
        """Wait for news since a number, or for PATIENCE, or until `wake` after it is over."""
        with self._changed:
            self._waiting += 1
            if self._waiting == 1:
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._number != number or is_over.is_set(), PATIENCE)
            self._waiting -= 1

    def wake(self) -> None:
        """Let those see it for whom it is over."""
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Self:
        with held_back():
            self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._closing.set()
        self.wake()
        self._thread.join()

    def _run(self) -> None:
        end = _End(self._cluster)
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            until = time.monotonic() + LONG_INTERVAL
            while not self._closing.wait(self._look_interval) and time.monotonic() < until:
                if end.has_news():
                    break
            if end.has_moved():
                self.announce()


class _End:
    """Where the newest timeline ends, as of the last look."""

    def __init__(self, cluster: ClusterRepository) -> None:
        self._cluster = cluster
        self._source: WalSource | None = None
        self._seen = Lsn(0), Lsn(0)

    def has_news(self) -> bool:
        return self._source is not None and self._source.has_news()

    def has_moved(self) -> bool:
        """Look, and tell whether there is more; what fails is for everybody to see."""
        before = self._seen
        try:
            if self._source is None:
                self._source = WalSource(self._cluster)
                return True
            self._seen = self._look(self._source)
            if self._source.switch is not None:
                self._source = None
        except PgbackupError:
            self._source = None
        return self._source is None or self._seen != before

    @staticmethod
    def _look(source: WalSource) -> tuple[Lsn, Lsn]:
        """Where WAL ends, and how far a receiver is, which may be behind that."""
        while source.find(source.flushed) is not None:
            pass
        positions = source.look()
        return source.flushed, Lsn(0) if positions is None else positions.flushed
