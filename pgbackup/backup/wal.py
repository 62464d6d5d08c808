"""The WAL of a running backup, streamed into the archive by a second connection.

Lives as long as its backup: a temporary slot is made before the backup starts, a thread streams
from the backup's first segment on, and `end_backup` returns only when every segment up to the
stop position is durable. A standby does not finish its segment at the end of a backup; then the
part up to the stop position is kept beside the backup, never under a full segment's name.

Source: pg_basebackup.c, StartLogStreamer (PostgreSQL 18).
"""

import secrets
import threading
import time
from functools import partial

from crc32c import crc32c

from pgbackup.backup.archivedwal import ArchivedWal, PartialWal
from pgbackup.backup.wallink import WalLink
from pgbackup.errors import ProtocolViolation, WrongSystem
from pgbackup.interrupts import held_back
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication import client
from pgbackup.replication.transport import Transport
from pgbackup.replication.walreceiver import WalStream
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import HistoryRecord
from pgbackup.storage.api import Storage
from pgbackup.stream.sink import BackupState, Fill, Sink

TAIL_PATIENCE = 10.0
"""Seconds to wait for a standby's last segment to end once the stop position has arrived."""

TAIL_SILENCE = 1.0
"""Seconds without new WAL after which that segment is taken to stay unfinished."""


class WalAlongside(WalLink):
    """A link that streams the backup's WAL while archives flow past it.

    transport: connected, for this link alone; the caller disconnects it.
    folder:    where the unfinished last segment of a standby is kept; ends in a slash.
    is_primary: the backup is of one, so its last segment will be finished.
    """

    def __init__(
        self,
        successor: Sink,
        transport: Transport,
        archive: WalArchive,
        storage: Storage,
        folder: str,
        *,
        system_identifier: int,
        segment_size: int,
        is_primary: bool,
        level: int | None,
    ) -> None:
        super().__init__(successor)
        self._transport = transport
        self._archive = archive
        self._storage = storage
        self._folder = folder
        self._system_identifier = system_identifier
        self._segment_size = segment_size
        self._level = level
        self._slot = f"pgbackup_{secrets.token_hex(6)}"
        self._rule = StopRule(is_primary)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def reserve(self) -> None:
        """Hold the server's WAL from now on; call before the backup starts.

        Raises: WrongSystem when a multi-host string led to another cluster than the backup's.
        """
        found = client.identify_system(self._transport).system_identifier
        if found != self._system_identifier:
            raise WrongSystem(
                f"the second connection led to system {found},"
                f" the first one to system {self._system_identifier}"
            )
        client.create_temporary_slot(self._transport, self._slot)

    def begin_backup(self, state: BackupState) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(state.start,), name="wal", daemon=True
        )
        with held_back():
            self._thread.start()
        self.successor.begin_backup(state)

    def archive_contents(self, length: int) -> None:
        self._check()
        self.successor.archive_contents(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        self._check()
        self.successor.archive_later(length, fill)

    def end_backup(self, stop: WalPosition) -> None:
        self._rule.stop = stop
        self._ended.wait()  # a join that a signal interrupts would spoil the one in cleanup
        self._check()
        self.successor.end_backup(stop)

    def cleanup(self) -> None:
        self._rule.is_cancelled = True
        if self._thread is not None:
            self._thread.join()
        self.successor.cleanup()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self, start: WalPosition) -> None:
        try:
            self._stream(start)
        except _GivenUp:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._error = error
        finally:
            self._ended.set()

    def _stream(self, start: WalPosition) -> None:
        wal = ArchivedWal(
            self._archive, start, self._segment_size, self._system_identifier, self._level
        )
        rule = self._rule
        try:
            position: WalPosition | None = start
            while position is not None:
                self._fetch_history(position.timeline)
                begin = WalPosition(position.timeline, wal.segment.start)
                stream = WalStream(self._transport, wal, partial(rule.is_met, wal), slot=self._slot)
                position = stream.run(begin)
                if position is not None:
                    wal.switch_timeline(position)
        finally:
            wal.abort()
            self.segments = wal.segments
        if rule.stop is not None and wal.flush_lsn < rule.stop.lsn:
            self._stream_tail(wal.segment, rule.stop.lsn)

    def _stream_tail(self, segment: Segment, stop: Lsn) -> None:
        name = f"{self._folder}{segment.name}.partial"
        tail = PartialWal(self._storage, name, segment, stop)
        try:
            stream = WalStream(
                self._transport,
                tail,
                partial(self._is_complete, tail, stop),
                slot=self._slot,
            )
            stream.run(WalPosition(segment.timeline, segment.start))
            if tail.write_lsn < stop:
                raise ProtocolViolation(f"the server stopped sending WAL before {stop}")
            self.tail = tail.commit()
        finally:
            tail.abort()

    def _is_complete(self, tail: PartialWal, stop: Lsn) -> bool:
        self._rule.check()
        return tail.write_lsn >= stop

    def _fetch_history(self, timeline: Timeline) -> None:
        if timeline == 1:
            return
        content = client.timeline_history(self._transport, timeline)
        if content is None:
            raise ProtocolViolation(f"the server has lost the history of timeline {timeline}")
        TimelineHistory.parse(timeline, content)
        self._archive.put_history(timeline, content)
        self.histories.append(
            HistoryRecord(timeline.history_name, len(content), f"{crc32c(content):08x}")
        )


class _GivenUp(Exception):
    """The backup has failed; its WAL is of no use."""


class StopRule:
    """When the WAL stream of a backup has brought enough.

    A primary ends its segment with the backup. The rest of it comes, however long that takes: up to
    a gigabyte of zeros. Left out, it would be a hole between the backup and all WAL after it.

    stop: set by the backup's thread once it knows the stop position.
    """

    def __init__(self, is_primary: bool) -> None:
        self._is_primary = is_primary
        self.stop: WalPosition | None = None
        self.is_cancelled = False
        self._reached_at: float | None = None
        self._changed_at = 0.0
        self._seen = Lsn(0)

    def check(self) -> None:
        """Raises: _GivenUp, so that nobody waits for a server that may not answer any more."""
        if self.is_cancelled:
            raise _GivenUp

    def is_met(self, wal: ArchivedWal) -> bool:
        self.check()
        if self.stop is None or wal.write_lsn < self.stop.lsn:
            return False
        if wal.segment.timeline < self.stop.timeline:  # a standby was ahead of where it turned off
            return False
        if wal.flush_lsn >= self.stop.lsn or self._is_primary:
            return wal.flush_lsn >= self.stop.lsn
        now = time.monotonic()
        if wal.write_lsn != self._seen:
            self._seen, self._changed_at = wal.write_lsn, now
        if self._reached_at is None:
            self._reached_at = now
        return now - self._changed_at > TAIL_SILENCE or now - self._reached_at > TAIL_PATIENCE
