"""Take a base backup of a server: into a repository, or to a file descriptor.

The repository form opens two connections, streams archives and WAL side by side, and writes the
record when everything it names is durable. What fails or is interrupted earlier removes what it
stored, but for WAL, which is true by itself; what is killed is cleaned up by the next run.

Never decides anything about a format or a position: source, links and ends do.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pgbackup
from pgbackup.backup.receive import BackupOutcome, receive_backup
from pgbackup.backup.wal import WalAlongside
from pgbackup.errors import PgbackupError, WalGap
from pgbackup.pg.lsn import Segment
from pgbackup.replication import client
from pgbackup.replication.transport import Transport
from pgbackup.repo import layout
from pgbackup.repo.catalog import (
    ArchiveRecord,
    BackupRecord,
    ChecksumFailures,
    ObjectRecord,
    TablespaceRecord,
    WalRange,
)
from pgbackup.repo.deposit import Deposit
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.stream.checksum import Checksum
from pgbackup.stream.compress import Compress, ZstdSettings
from pgbackup.stream.index import TarIndex
from pgbackup.stream.manifestmember import ManifestMember
from pgbackup.stream.output import Output
from pgbackup.stream.progress import Meter, Progress
from pgbackup.stream.sink import Sink, Tablespace
from pgbackup.wire.basebackup import BaseBackup

FULL = "F"

Connect = Callable[[], Transport]


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What the user asked for.

    comment:     the -l text, kept in backup_label and in the record.
    max_rate:    kilobytes per second, or None.
    checksums:   manifest checksum algorithm, in capitals; NONE is one of them.
    compression: None stores plain tar.
    """

    comment: str = "pgbackup base backup"
    fast_checkpoint: bool = False
    max_rate: int | None = None
    checksums: str = "CRC32C"
    verify_checksums: bool = True
    compression: ZstdSettings | None = None

    def command(self, *, wal: bool) -> BaseBackup:
        """The BASE_BACKUP that this asks for."""
        return BaseBackup(
            label=self.comment,
            fast_checkpoint=self.fast_checkpoint,
            wal=wal,
            max_rate=self.max_rate,
            tablespace_map=False,
            verify_checksums=self.verify_checksums,
            manifest_checksums=self.checksums,
        )


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What has to be known of a server before its backup starts."""

    system_identifier: int
    version: int
    version_text: str
    segment_size: int
    data_directory_mode: int


def take_backup(
    connect: Connect,
    open_repository: Callable[[], Repository],
    request: BackupRequest,
    meter: Meter,
) -> BackupRecord:
    """Back up a server into a repository, with the WAL that makes it usable.

    open_repository: called when both connections stand, so that nothing is made without them.

    Returns: the record, which is stored already.
    """
    started = time.monotonic()
    transport = connect()
    wal_transport: Transport | None = None
    try:
        facts = learn_facts(transport)
        wal_transport = connect()
        cluster = open_repository().cluster(facts.system_identifier)
        cluster.bind(facts.version, facts.segment_size)
        _clean_up(cluster)
        with _clean_up_after_failure(cluster), cluster.catalog.begin(FULL, _now()) as label:
            chain = _Chain(cluster, label, facts, request, wal_transport, meter)
            start_time = _now()
            outcome = chain.run(transport, request.command(wal=False))
            record = chain.record(outcome, start_time, time.monotonic() - started)
            require_wal(cluster, record)
            cluster.catalog.put(record)
        return record
    finally:
        transport.disconnect()
        if wal_transport is not None:
            wal_transport.disconnect()


def stream_backup(
    connect: Connect, descriptor: int, request: BackupRequest, meter: Meter
) -> BackupOutcome:
    """Write a backup as one tar stream, WAL and manifest inside."""
    transport = connect()
    sink: Sink = Output(descriptor)
    if request.compression is not None:
        sink = Compress(sink, request.compression)
    sink = ManifestMember(sink)
    sink = Progress(sink, meter)
    try:
        return receive_backup(transport, request.command(wal=True), sink)
    finally:
        sink.cleanup()
        transport.disconnect()


def learn_facts(transport: Transport) -> ServerFacts:
    """Ask a server who it is."""
    identity = client.identify_system(transport)
    return ServerFacts(
        identity.system_identifier,
        transport.server_version,
        transport.server_version_text,
        client.wal_segment_size(transport),
        int(client.show(transport, "data_directory_mode"), 8),
    )


def require_wal(cluster: ClusterRepository, record: BackupRecord) -> None:
    """Make sure that nobody removed WAL of the backup while it ran.

    A standby begins where it last checkpointed, which can be before what an expire left.

    Raises: WalGap, StorageError.
    """
    names = [segment.name for segment in record.segments()]
    for name in [*names, *(each.name for each in record.histories)]:
        if cluster.archive.find(name) is None:
            raise WalGap(
                f'could not finish backup "{record.label}": WAL file "{name}" was removed from the'
                " archive while it ran",
                hint="Take the backup again, when no expire is running.",
            )


def _clean_up(cluster: ClusterRepository) -> None:
    """Remove what killed commands left: temporary files, and folders without a record."""
    cluster.storage.reap()
    cluster.catalog.clean_unfinished()


@contextmanager
def _clean_up_after_failure(cluster: ClusterRepository) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(PgbackupError):  # the next run tries again
            cluster.catalog.clean_unfinished()
        raise


def _now() -> datetime:
    """The time for labels and records."""
    return datetime.now(UTC)


class _Chain:
    """The chain of one backup into a repository, end first, and the record of what it stored."""

    def __init__(
        self,
        cluster: ClusterRepository,
        label: str,
        facts: ServerFacts,
        request: BackupRequest,
        wal_transport: Transport,
        meter: Meter,
    ) -> None:
        self._label = label
        self._facts = facts
        self._request = request
        folder = layout.backup_folder(facts.system_identifier, label)
        level = None if request.compression is None else request.compression.level

        sink: Sink
        sink = self._deposit = Deposit(cluster.storage, folder)
        sink = self._checksum = Checksum(sink)
        if request.compression is not None:
            sink = Compress(sink, request.compression)
        sink = TarIndex(sink, self._deposit.put_index)
        sink = self._progress = Progress(sink, meter)
        sink = self._wal = WalAlongside(
            sink,
            wal_transport,
            cluster.archive,
            cluster.storage,
            folder,
            system_identifier=facts.system_identifier,
            segment_size=facts.segment_size,
            level=level,
        )
        self._sink = sink

    def run(self, transport: Transport, command: BaseBackup) -> BackupOutcome:
        try:
            self._wal.reserve()
            return receive_backup(transport, command, self._sink)
        finally:
            self._sink.cleanup()

    def record(self, outcome: BackupOutcome, start_time: datetime, duration: float) -> BackupRecord:
        facts, request = self._facts, self._request
        archives = self._archives(outcome)
        manifest = self._checksum.manifest
        assert manifest is not None
        return BackupRecord(
            label=self._label,
            kind="full",
            comment=request.comment,
            tool_version=pgbackup.__version__,
            system_identifier=facts.system_identifier,
            server_version=facts.version,
            server_version_text=facts.version_text,
            wal_segment_size=facts.segment_size,
            data_directory_mode=facts.data_directory_mode,
            timeline=outcome.start.timeline,
            start_lsn=outcome.start.lsn,
            start_time=start_time,
            stop_timeline=outcome.stop.timeline,
            stop_lsn=outcome.stop.lsn,
            stop_time=_now(),
            duration_seconds=round(duration, 3),
            size=sum(archive.size for archive in archives),
            stored_size=sum(archive.stored_size for archive in archives),
            compression="none" if request.compression is None else "zstd",
            checksum_algorithm=request.checksums,
            tablespaces=tuple(
                TablespaceRecord(t.oid, t.location, self._stored_name(t))
                for t in outcome.tablespaces
                if t.oid is not None
            ),
            archives=archives,
            objects=(
                *self._deposit.indexes,
                ObjectRecord(layout.MANIFEST, manifest.size, f"{manifest.crc32c:08x}"),
                *(() if self._wal.tail is None else (self._wal.tail,)),
            ),
            wal=_ranges([s for s in self._wal.segments if s.start < outcome.stop.lsn]),
            histories=tuple(self._wal.histories),
            tail=None if self._wal.tail is None else self._wal.tail.name,
            checksum_failures=ChecksumFailures(outcome.is_damaged, outcome.warnings),
        )

    def _archives(self, outcome: BackupOutcome) -> tuple[ArchiveRecord, ...]:
        records = []
        for tablespace in outcome.tablespaces:
            name = self._stored_name(tablespace)
            stored = self._checksum.archives[name]
            records.append(
                ArchiveRecord(
                    tablespace.oid,
                    name,
                    self._progress.archive_sizes[tablespace.archive_name],
                    stored.size,
                    f"{stored.crc32c:08x}",
                )
            )
        return tuple(records)

    def _stored_name(self, tablespace: Tablespace) -> str:
        """The object that an archive becomes."""
        is_plain = self._request.compression is None
        return tablespace.archive_name + ("" if is_plain else layout.COMPRESSED_SUFFIX)


def _ranges(segments: list[Segment]) -> tuple[WalRange, ...]:
    """Consecutive segments of one timeline, told by the first and the last."""
    ranges: list[WalRange] = []
    previous: Segment | None = None
    for segment in segments:
        if previous is not None and segment == previous.next():
            ranges[-1] = WalRange(segment.timeline, ranges[-1].first, segment.name)
        else:
            ranges.append(WalRange(segment.timeline, segment.name, segment.name))
        previous = segment
    return tuple(ranges)
