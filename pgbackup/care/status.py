"""`status`: what is going on in a repository now, without asking a server.

One look at one moment. A receiver's positions come from the file that it maps, its life from its
lock; a running backup is a folder without record whose lock is held. Writes nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Segment, WalFileKind
from pgbackup.replication.published import ReceiverPositions, read_positions
from pgbackup.repo import layout
from pgbackup.repo.catalog import BackupRecord, DamagedBackup
from pgbackup.repo.repository import ClusterFacts, ClusterRepository
from pgbackup.repo.slots import Slot, read_slots
from pgbackup.serve.standbys.clientsfile import ServedClient, read_clients


class RunningReceiver(NamedTuple):
    """A receiver that is alive.

    holder:    what is known of its process, as `Storage.holder` gives it.
    positions: None until it has published some, or when it runs on another host.
    """

    holder: Mapping[str, str]
    positions: ReceiverPositions | None

    @property
    def status(self) -> str:
        """In the words of pg_stat_wal_receiver; waiting: no connection stands."""
        if self.positions is None:
            return "starting"
        return "streaming" if self.positions.is_streaming else "waiting"

    @property
    def lag(self) -> int | None:
        """Bytes that the server has and we have not made durable."""
        if self.positions is None or not self.positions.server_end:
            return None
        return max(0, self.positions.server_end - self.positions.flushed)

    def rate(self, before: ReceiverPositions | None = None) -> float | None:
        """Bytes per second since an earlier look at the same receiver, or since its start."""
        now = self.positions
        if now is None:
            return None
        start, since = now.start, now.started
        if before is not None and before.started == now.started:
            start, since = before.written, before.updated
        seconds = (now.updated - since) / 1_000_000
        return max(0, now.written - start) / seconds if seconds > 0 else 0.0


class RunningBackup(NamedTuple):
    """A folder without a record that somebody is filling, or removing.

    stored: bytes that are there so far.
    """

    label: str
    holder: Mapping[str, str]
    stored: int


class NewestWal(NamedTuple):
    """The last segment in the archive. archived: when its file was written."""

    segment: Segment
    archived: datetime
    is_partial: bool


class ClusterStatus(NamedTuple):
    """What is going on in one cluster's part.

    damaged: backups whose records cannot be read; last_backup is none of them.
    slots:   of its own clients, each with the PID of the backend that uses it.
    clients: of all processes of this host that serve it.
    """

    system: int
    facts: ClusterFacts | None
    receiver: RunningReceiver | None
    backups: tuple[RunningBackup, ...]
    last_backup: BackupRecord | None
    damaged: tuple[DamagedBackup, ...]
    newest_wal: NewestWal | None
    slots: tuple[tuple[Slot, int | None], ...]
    clients: tuple[ServedClient, ...]


def read_status(cluster: ClusterRepository) -> ClusterStatus:
    """Look at one cluster. Raises: CorruptData, StorageError."""
    facts = cluster.facts()
    records, damaged = cluster.catalog.read_all()
    return ClusterStatus(
        cluster.system,
        facts,
        find_receiver(cluster),
        tuple(running_backups(cluster)),
        records[-1] if records else None,
        tuple(damaged),
        None if facts is None else newest_wal(cluster, facts.wal_segment_size),
        tuple(read_slots(cluster)),
        tuple(read_clients(cluster)),
    )


def find_receiver(cluster: ClusterRepository) -> RunningReceiver | None:
    """The receiver of a cluster's WAL, if one is alive. Raises: StorageError."""
    holder = cluster.storage.holder(layout.receiver_lock(cluster.system))
    if holder is None:
        return None
    root = cluster.storage.features.local_path
    positions = None
    if root is not None:
        try:
            positions = read_positions(f"{root}/{layout.receiver_positions(cluster.system)}")
        except CorruptData:  # of an older version
            positions = None
    if positions is not None and str(positions.pid) != holder.get("pid"):
        positions = None  # of the one before it
    return RunningReceiver(holder, positions)


def running_backups(cluster: ClusterRepository) -> Iterator[RunningBackup]:
    """What other processes are working on, oldest first. Raises: StorageError."""
    for label in cluster.catalog.under_way():
        holder = cluster.storage.holder(layout.backup_lock(cluster.system, label))
        if holder is not None:
            folder = layout.backup_folder(cluster.system, label)
            stored = sum(each.size for each in cluster.storage.list(folder))
            stored += sum(each.size for each in cluster.storage.pending(folder))
            yield RunningBackup(label, holder, stored)


def newest_wal(cluster: ClusterRepository, segment_size: int) -> NewestWal | None:
    """The last segment of the newest timeline, whole or not. Raises: StorageError."""
    for file in reversed(cluster.archive.files()):
        if file.name.kind in (WalFileKind.SEGMENT, WalFileKind.PARTIAL):
            is_partial = file.name.kind is WalFileKind.PARTIAL
            with suppress(NotFound):  # it got its full name meanwhile
                written = cluster.storage.stat(file.object_name).modified
                segment = file.name.segment(segment_size)
                return NewestWal(segment, datetime.fromtimestamp(written, UTC), is_partial)
    return None
