"""`wal fill`: fetches from servers what an archive lacks.

Each host is asked in turn for what is still missing then. Before something is stored, the archived
neighbours of a hole are compared with the host's byte by byte, so that the WAL of a server that
went another way never gets between them. Whole segments are stored, under the archive's own rules;
nothing that is there is replaced.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pgbackup.archiving.receiver.startpoint import server_history
from pgbackup.backup.archivedwal import ArchivedWal
from pgbackup.errors import (
    ConnectionFailed,
    PgbackupError,
    ProtocolViolation,
    ServerError,
    WalGap,
    WrongSystem,
)
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication import client
from pgbackup.replication.client import SystemIdentity
from pgbackup.replication.transport import Host, Transport
from pgbackup.replication.walreceiver import WalStream
from pgbackup.repo.coverage import Gaps, Stretch, stretches_of
from pgbackup.repo.inventory import Inventory, read_inventory
from pgbackup.repo.repository import ClusterRepository


class Filled(NamedTuple):
    """What a host gave: segments, and timelines whose history files were missing."""

    host: str
    stretches: tuple[Stretch, ...]
    histories: tuple[Timeline, ...]


class FillReport(NamedTuple):
    """What came of it.

    failures: hosts that could not be asked, or not to the end, and why.
    gaps:     what is missing still.
    """

    filled: tuple[Filled, ...]
    failures: tuple[tuple[str, PgbackupError], ...]
    inventory: Inventory
    gaps: Gaps


def fill_gaps(cluster: ClusterRepository, hosts: Sequence[Host], level: int | None) -> FillReport:
    """Ask each host for what is missing.

    level: of zstd; None stores segments plain.

    Raises: WrongSystem; Conflict for a host whose WAL is not that of the archive; CorruptData,
    StorageError; ConnectionFailed if no host could be asked.
    """
    filled, failures = [], []
    for host in hosts:
        gaps = read_inventory(cluster).gaps()
        if not (gaps.holes or gaps.histories):
            break
        fetch = _Fetch(cluster, host, level)
        try:
            fetch.run(gaps)
        except (ConnectionFailed, ServerError, ProtocolViolation) as error:
            failures.append((host.name, error))
        if fetch.histories or fetch.numbers:
            filled.append(fetch.filled)
    if failures and len(failures) == len(hosts) and not filled:
        raise failures[-1][1]
    inventory = read_inventory(cluster)
    return FillReport(tuple(filled), tuple(failures), inventory, inventory.gaps())


class _Fetch:
    """One host's turn.

    numbers:   of the segments that it gave.
    histories: timelines of which it gave the history.
    """

    def __init__(self, cluster: ClusterRepository, host: Host, level: int | None) -> None:
        self._cluster = cluster
        self._host = host
        self._level = level
        self._segment_size = 0
        self.numbers: dict[Timeline, set[int]] = {}
        self.histories: list[Timeline] = []

    @property
    def filled(self) -> Filled:
        """What the host gave."""
        stretches = [
            stretch
            for timeline, numbers in self.numbers.items()
            for stretch in stretches_of(timeline, numbers, self._segment_size)
        ]
        return Filled(self._host.name, tuple(stretches), tuple(self.histories))

    def run(self, gaps: Gaps) -> None:
        """Fetch all that the host has of what is missing. Raises: as fill_gaps, ServerError."""
        transport, identity = self._open()
        try:
            for timeline in gaps.histories:
                self._fetch_history(transport, timeline)
            history = server_history(transport, identity.flushed.timeline)
        finally:
            transport.disconnect()
        if self.histories:
            gaps = read_inventory(self._cluster).gaps()
        for hole in gaps.holes:
            end = _end_of(hole.timeline, history, identity)
            whole = end // self._segment_size
            if hole.first.number < whole:
                last = Segment(hole.timeline, min(hole.last.number, whole - 1), self._segment_size)
                self._expect_same_neighbours(hole, end)
                self._fetch_newest(Stretch(hole.first, last))

    def _open(self) -> tuple[Transport, SystemIdentity]:
        """Connect, and check whose WAL it is."""
        transport = self._host.connect()
        try:
            identity = client.identify_system(transport)
            found = identity.system_identifier
            if found != self._cluster.system:
                raise WrongSystem(
                    f'could not fetch WAL from "{self._host.name}": it is of system {found}, not'
                    f" {self._cluster.system}",
                    hint="Check -h, -p and -d.",
                )
            self._segment_size = client.wal_segment_size(transport)
            self._cluster.bind(transport.server_version, self._segment_size)
        except PgbackupError:
            transport.disconnect()
            raise
        return transport, identity

    def _fetch_history(self, transport: Transport, timeline: Timeline) -> None:
        content = client.timeline_history(transport, timeline)
        if content is not None:
            TimelineHistory.parse(timeline, content)
            self._cluster.archive.put_history(timeline, content)
            self.histories.append(timeline)

    def _expect_same_neighbours(self, hole: Stretch, end: Lsn) -> None:
        """Compare the archived segments around a hole with what the host has of them.

        Raises: Conflict.
        """
        around = [hole.last.next()]
        if hole.first.number > 0:
            around.append(Segment(hole.timeline, hole.first.number - 1, hole.first.size))
        for segment in around:
            if segment.end <= end and self._cluster.archive.find(segment.name) is not None:
                self._stream(Stretch(segment, segment), is_wanted=False)

    def _fetch_newest(self, wanted: Stretch) -> None:
        """Fetch from the oldest segment on that the host has: servers remove the oldest first."""
        first, end = wanted.first.number, wanted.last.number + 1
        size = self._segment_size
        if self._stream(wanted) or wanted.segment_count == 1:
            return
        first += 1
        while first < end:
            middle = Segment(wanted.timeline, (first + end) // 2, size)
            if self._stream(Stretch(middle, middle)):
                end = middle.number
            else:
                first = middle.number + 1
        if first <= wanted.last.number:
            self._stream(Stretch(Segment(wanted.timeline, first, size), wanted.last))

    def _stream(self, stretch: Stretch, *, is_wanted: bool = True) -> bool:
        """Archive a stretch, or compare what is archived. Tell whether the host has its start.

        is_wanted: it counts as filled.
        """
        transport, _ = self._open()
        start = WalPosition(stretch.timeline, stretch.start)
        archive, system = self._cluster.archive, self._cluster.system
        wal = ArchivedWal(archive, start, self._segment_size, system, self._level)
        try:
            WalStream(transport, wal, lambda: wal.flush_lsn >= stretch.end).run(start)
        except WalGap:
            return bool(wal.segments)
        finally:
            wal.abort()
            transport.disconnect()
            found = [each.number for each in wal.segments if each.start < stretch.end]
            if is_wanted and found:
                self.numbers.setdefault(stretch.timeline, set()).update(found)
        return True


def _end_of(timeline: Timeline, history: TimelineHistory, identity: SystemIdentity) -> Lsn:
    """Up to where a server has WAL of a timeline; zero if that is not one of its own."""
    if timeline == history.timeline:
        return identity.flushed.lsn
    return next((entry.switch for entry in history.entries if entry.timeline == timeline), Lsn(0))
