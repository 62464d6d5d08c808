"""Take a base backup of a server: into a repository, or to a file descriptor.

The repository form opens two connections, streams archives and WAL side by side, and writes the
record when everything it names is durable. What fails or is interrupted earlier removes what it
stored, but for WAL, which is true by itself; what is killed is cleaned up by the next run.

Never decides anything about a format or a position: source, links and ends do.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pgbackup.backup.chain import BackupChain, MakeWal, Source, now
from pgbackup.backup.receive import BackupOutcome, receive_backup
from pgbackup.backup.request import BackupRequest, ServerFacts
from pgbackup.backup.wal import WalAlongside
from pgbackup.backup.wallink import WalLink
from pgbackup.errors import PgbackupError, WalGap
from pgbackup.replication import client
from pgbackup.replication.transport import Transport
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.stream.compress import Compress
from pgbackup.stream.manifestmember import ManifestMember
from pgbackup.stream.output import Output
from pgbackup.stream.progress import Meter, Progress
from pgbackup.stream.sink import Sink

FULL = "F"

Connect = Callable[[], Transport]


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
    transport = connect()
    wal_transport: Transport | None = None
    try:
        facts = learn_facts(transport)
        wal_transport = connect()
        cluster = open_cluster(open_repository, facts)
        return store_backup(
            cluster,
            facts,
            request,
            meter,
            wal_alongside(cluster, wal_transport, facts, request),
            lambda sink: receive_backup(transport, request.command(wal=False), sink),
        )
    finally:
        transport.disconnect()
        if wal_transport is not None:
            wal_transport.disconnect()


def open_cluster(
    open_repository: Callable[[], Repository], facts: ServerFacts
) -> ClusterRepository:
    """The place of a cluster's backups, where nothing of another kind can come."""
    cluster = open_repository().cluster(facts.system_identifier)
    cluster.bind(facts.version, facts.segment_size)
    return cluster


def wal_alongside(
    cluster: ClusterRepository, transport: Transport, facts: ServerFacts, request: BackupRequest
) -> MakeWal:
    """Let a second connection bring the WAL."""

    def make(successor: Sink, folder: str) -> WalLink:
        return WalAlongside(
            successor,
            transport,
            cluster.archive,
            cluster.storage,
            folder,
            system_identifier=facts.system_identifier,
            segment_size=facts.segment_size,
            is_primary=facts.is_primary,
            level=None if request.compression is None else request.compression.level,
        )

    return make


def store_backup(
    cluster: ClusterRepository,
    facts: ServerFacts,
    request: BackupRequest,
    meter: Meter,
    make_wal: MakeWal,
    source: Source,
) -> BackupRecord:
    """Take a backup from whatever source, and store its record when all of it is durable."""
    started = time.monotonic()
    _clean_up(cluster)
    with _clean_up_after_failure(cluster), cluster.catalog.begin(FULL, now()) as label:
        chain = BackupChain(cluster, label, facts, request, make_wal, meter)
        start_time = now()
        outcome = chain.run(source)
        record = chain.record(outcome, start_time, time.monotonic() - started)
        require_wal(cluster, record)
        cluster.catalog.put(record)
    return record


def stream_backup(
    connect: Connect, descriptor: int, request: BackupRequest, meter: Meter
) -> BackupOutcome:
    """Write a backup as one tar stream, WAL and manifest inside."""
    transport = connect()
    sink = stdout_chain(descriptor, request, meter)
    try:
        return receive_backup(transport, request.command(wal=True), sink)
    finally:
        sink.cleanup()
        transport.disconnect()


def stdout_chain(descriptor: int, request: BackupRequest, meter: Meter) -> Sink:
    """The chain of a backup that is one stream."""
    sink: Sink = Output(descriptor)
    if request.compression is not None:
        sink = Compress(sink, request.compression)
    sink = ManifestMember(sink)
    return Progress(sink, meter)


def learn_facts(transport: Transport) -> ServerFacts:
    """Ask a server who it is."""
    identity = client.identify_system(transport)
    return ServerFacts(
        identity.system_identifier,
        transport.server_version,
        transport.server_version_text,
        client.wal_segment_size(transport),
        int(client.show(transport, "data_directory_mode"), 8),
        is_primary(transport),
    )


def is_primary(transport: Transport) -> bool:
    """Whether a server is surely no standby, where all transactions are read-only."""
    return client.show(transport, "transaction_read_only") == "off"


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
