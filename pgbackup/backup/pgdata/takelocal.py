"""Take a base backup of a data directory on this host: into a repository, or to a descriptor.

Of a running server, over an SQL connection that stays open from start to stop and, for a
repository, a replication connection that brings the WAL; of a stopped one without any connection.

Never decides anything about a format or a position: source, links and ends do.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from pgbackup.backup.chain import MakeWal
from pgbackup.backup.pgdata.basebackup import DirectoryBackup, ReadOptions
from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.served import check_served
from pgbackup.backup.pgdata.session import BackupSession, OnlineSession
from pgbackup.backup.pgdata.stopped import StoppedSession, StoppedWal
from pgbackup.backup.receive import BackupOutcome
from pgbackup.backup.request import BackupRequest, ServerFacts
from pgbackup.backup.take import (
    is_primary,
    open_cluster,
    stdout_chain,
    store_backup,
    wal_alongside,
)
from pgbackup.backup.wallink import WalLink
from pgbackup.replication.transport import Transport
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.stream.progress import Meter
from pgbackup.stream.sink import Sink

Connect = Callable[[], Transport]


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Where to read.

    connect:         opens a replication connection to the server, if it runs.
    connect_for_sql: opens an ordinary session there.
    estimate:        look at everything before, to tell how far the backup is.
    """

    data: DataDirectory
    connect: Connect
    connect_for_sql: Connect
    estimate: bool = False


def take_local_backup(
    source: LocalSource,
    open_repository: Callable[[], Repository],
    request: BackupRequest,
    meter: Meter,
) -> BackupRecord:
    """Back up a data directory into a repository, with the WAL that makes it usable.

    open_repository: called when it is sure that there is something to back up.

    Returns: the record, which is stored already.
    """
    with ExitStack() as stack:
        session, facts = open_session(source, request, stack)
        backup = _reader(source, session, request, wal=False)
        stack.callback(backup.close)
        make_wal: MakeWal
        if source.data.is_shut_down:
            cluster = open_cluster(open_repository, facts)
            make_wal = _stopped_wal(cluster, source.data, request)
        else:
            wal_transport = _connected(source.connect, stack)
            cluster = open_cluster(open_repository, facts)
            make_wal = wal_alongside(cluster, wal_transport, facts, request)
        return store_backup(cluster, facts, request, meter, make_wal, backup.run)


def stream_local_backup(
    source: LocalSource, descriptor: int, request: BackupRequest, meter: Meter
) -> BackupOutcome:
    """Write a backup of a data directory as one tar stream, WAL and manifest inside."""
    with ExitStack() as stack:
        session, _ = open_session(source, request, stack)
        backup = _reader(source, session, request, wal=True)
        stack.callback(backup.close)
        sink = stdout_chain(descriptor, request, meter)
        stack.callback(sink.cleanup)
        return backup.run(sink)


def open_session(
    source: LocalSource, request: BackupRequest, stack: ExitStack
) -> tuple[BackupSession, ServerFacts]:
    """Make sure that the data directory can be backed up, running or stopped, and how."""
    data = source.data
    if data.is_shut_down:
        stopped = StoppedSession(data)
        stopped.begin()
        # Which minor release wrote the files can be known from a running server alone.
        return stopped, _facts(data, data.major * 10000, str(data.major), is_primary=False)
    transport = _connected(source.connect_for_sql, stack)
    check_served(data, transport)
    session = OnlineSession(data, transport, request.comment, fast=request.fast_checkpoint)
    version, text = transport.server_version, transport.server_version_text
    return session, _facts(data, version, text, is_primary=is_primary(transport))


def _connected(connect: Connect, stack: ExitStack) -> Transport:
    transport = connect()
    stack.callback(transport.disconnect)
    return transport


def _stopped_wal(
    cluster: ClusterRepository, data: DataDirectory, request: BackupRequest
) -> MakeWal:
    level = None if request.compression is None else request.compression.level

    def make(successor: Sink, folder: str) -> WalLink:
        return StoppedWal(successor, data, cluster.archive, cluster.storage, folder, level=level)

    return make


def _facts(
    data: DataDirectory, version: int, version_text: str, *, is_primary: bool
) -> ServerFacts:
    return ServerFacts(
        data.control.system_identifier,
        version,
        version_text,
        data.control.wal_segment_size,
        data.directory_mode,
        is_primary,
    )


def _reader(
    source: LocalSource, session: BackupSession, request: BackupRequest, *, wal: bool
) -> DirectoryBackup:
    threads = 1 if request.compression is None else request.compression.workers
    return DirectoryBackup(
        source.data,
        session,
        ReadOptions(
            checksums=request.checksums,
            verify_checksums=request.verify_checksums,
            wal=wal,
            direct_io=request.direct_io,
            threads=threads,
            estimate=source.estimate,
            max_rate=request.max_rate,
        ),
    )
