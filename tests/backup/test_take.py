"""Backups taken from real servers: what is stored, and that a record names it rightly."""

import errno
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from pgbackup.backup.pgdata.basebackup import DirectoryBackup, ReadOptions
from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.request import BackupRequest, ServerFacts
from pgbackup.backup.stored import StoredBackup
from pgbackup.backup.take import learn_facts, store_backup, stream_backup, take_backup
from pgbackup.backup.wallink import WalLink
from pgbackup.errors import NotFound, ServerError, StorageError, WalGap, WrongSystem
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import BackupRecord, HistoryRecord
from pgbackup.repo.repository import Repository
from pgbackup.storage.api import Storage
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.compress import ZstdSettings
from pgbackup.stream.progress import SilentMeter
from pgbackup.stream.sink import Sink
from tests.backup.pgdata.pgdata import make_pgdata
from tests.backup.pgdata.test_basebackup import STOP, Session
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

MIB = 1 << 20
SYSTEM = 7711075377583810970
SEGMENT = Segment.containing(STOP.timeline, STOP.lsn, MIB)
HISTORY = HistoryRecord("00000002.history", 21, "00000000")
REQUEST = BackupRequest(fast_checkpoint=True, compression=ZstdSettings(1, 2))


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory, major: int) -> Cluster:
    cluster = module_cluster_factory(major)
    place = cluster.account.make_directory(cluster.pgdata.parent / "space")
    cluster.sql(f"CREATE TABLESPACE apart LOCATION '{place}'")
    cluster.sql("CREATE TABLE far TABLESPACE apart AS SELECT generate_series(1, 9) AS n")
    return cluster


@pytest.fixture(scope="module")
def plain_server(module_cluster_factory: ClusterFactory) -> Cluster:
    """One without tablespaces."""
    return module_cluster_factory(18)


def connector(*servers: Cluster) -> Callable[[], LibpqTransport]:
    """Connects to one server after the other, and then to the last."""
    waiting = list(servers)

    def connect() -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(waiting[0].conninfo(), "taker")
        if len(waiting) > 1:
            waiting.pop(0)
        return transport

    return connect


def take(server: Cluster, storage: Storage, request: BackupRequest = REQUEST) -> BackupRecord:
    def open_repository() -> Repository:
        return Repository.open(storage, create=True)

    return take_backup(connector(server), open_repository, request, SilentMeter())


def objects(storage: Storage) -> dict[str, bytes]:
    return {each.name: storage.read(each.name) for each in storage.list()}


def test_a_record_describes_the_server_and_what_was_asked_for(server: Cluster) -> None:
    storage = MemoryStorage()
    before = Lsn.parse(server.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
    record = take(server, storage, replace(REQUEST, comment="it's 5 o'clock", checksums="SHA256"))
    after = Lsn.parse(server.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
    facts = server.sql(
        "SELECT system_identifier, current_setting('server_version_num')::int,"
        " current_setting('server_version') FROM pg_control_system()"
    )[0]
    assert (record.system_identifier, record.server_version) == facts[:2]
    assert record.server_version_text == facts[2].split()[0]
    assert before <= record.start_lsn < record.stop_lsn <= after
    assert (record.timeline, record.stop_timeline) == (Timeline(1), Timeline(1))
    assert (record.comment, record.checksum_algorithm) == ("it's 5 o'clock", "SHA256")
    assert (record.wal_segment_size, record.data_directory_mode) == (MIB, 0o700)
    assert (record.kind, record.compression, record.tail) == ("full", "zstd", None)
    assert record.start_time <= record.stop_time
    ((oid, location),) = server.sql(
        "SELECT oid::int, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'apart'"
    )
    assert [(each.oid, each.location) for each in record.tablespaces] == [(oid, location)]
    cluster = Repository.open(storage).cluster(record.system_identifier)
    assert cluster.catalog.get("latest") == record


@pytest.mark.parametrize("compression", [None, ZstdSettings(1, 1)], ids=["plain", "zstd"])
def test_a_record_names_every_object_with_its_size_and_checksum(
    server: Cluster, compression: ZstdSettings | None
) -> None:
    storage = MemoryStorage()
    record = take(server, storage, replace(REQUEST, compression=compression))
    folder = layout.backup_folder(record.system_identifier, record.label)
    stored = {
        name.removeprefix(folder): content
        for name, content in objects(storage).items()
        if name.startswith(folder)
    }
    described = {each.name: (each.stored_size, each.crc32c) for each in record.archives}
    described |= {each.name: (each.size, each.crc32c) for each in record.objects}
    stored.pop(layout.RECORD)
    assert described == {
        name: (len(content), f"{crc32c(content):08x}") for name, content in stored.items()
    }
    assert record.size == sum(each.size for each in record.archives)
    backup = StoredBackup(storage, record)
    for archive in backup.archives:
        members = [entry.name for entry in backup.index(archive)]
        assert ("PG_VERSION" in members) == (archive.record.tablespace is None)


def test_the_archive_has_every_segment_from_start_to_stop(server: Cluster) -> None:
    storage = MemoryStorage()
    record = take(server, storage)
    segments = list(record.segments())
    assert segments[0].start <= record.start_lsn
    assert segments[-1].start < record.stop_lsn <= segments[-1].end
    cluster = Repository.open(storage).cluster(record.system_identifier)
    assert cluster.archive.missing(record.wal, MIB) == []
    for segment in segments:
        content = b"".join(cluster.archive.chunks(segment.name, MIB))
        assert content == (server.pgdata / "pg_wal" / segment.name).read_bytes()


def test_backups_in_one_second_have_labels_of_their_own(plain_server: Cluster) -> None:
    storage = MemoryStorage()
    labels = [take(plain_server, storage).label for _ in range(3)]
    assert labels == sorted(set(labels))


def test_nothing_of_a_backup_stays_on_the_server(plain_server: Cluster) -> None:
    take(plain_server, MemoryStorage())
    plain_server.poll_until("SELECT count(*) FROM pg_replication_slots", 0)
    plain_server.poll_until(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taker'", 0
    )


def test_connections_that_lead_to_two_servers_are_refused(
    plain_server: Cluster, cluster_factory: ClusterFactory
) -> None:
    storage = MemoryStorage()
    connect = connector(plain_server, cluster_factory(18))
    with pytest.raises(WrongSystem, match="the second connection led to system"):
        take_backup(connect, lambda: Repository.open(storage, create=True), REQUEST, SilentMeter())
    assert not [name for name in objects(storage) if "/backups/" in name or "/wal/" in name]


def test_a_server_that_is_known_otherwise_is_refused_before_a_byte(plain_server: Cluster) -> None:
    storage = MemoryStorage()
    transport = connector(plain_server)()
    facts = learn_facts(transport)
    transport.disconnect()
    cluster = Repository.open(storage, create=True).cluster(facts.system_identifier)
    cluster.bind(facts.version, 16 * MIB)
    before = objects(storage)
    with pytest.raises(WrongSystem):
        take(plain_server, storage)
    assert objects(storage) == before


def test_an_error_of_the_server_leaves_nothing(plain_server: Cluster) -> None:
    storage = MemoryStorage()
    with pytest.raises(ServerError, match="unrecognized checksum algorithm"):
        take(plain_server, storage, replace(REQUEST, checksums="MD5"))
    assert not [name for name in objects(storage) if "/backups/" in name or "/wal/" in name]


# -- failures of the storage -----------------------------------------------------------------------


class FailingFileSystem(FileSystem):
    """Fails for good from the n-th call of one method on."""

    def __init__(self, call: str, number: int) -> None:
        self.calls = 0
        original = getattr(self, call)

        def failing(*arguments: object, **options: object) -> object:
            self.calls += 1
            if number and self.calls >= number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments, **options)

        setattr(self, call, failing)


class Lost(WalLink):
    """Somebody removes from the archive what this link has put there."""

    def __init__(self, successor: Sink, storage: Storage, lost: str) -> None:
        super().__init__(successor)
        self._storage = storage
        self._lost = lost

    def end_backup(self, stop: WalPosition) -> None:
        archive = WalArchive(self._storage, SYSTEM)
        segment = Segment.containing(stop.timeline, stop.lsn, MIB)
        for name in (segment.name, HISTORY.name):
            if name != self._lost:
                archive.put_file(name, b"1\t0/100000\tpromoted\n")
        self.segments.append(segment)
        self.histories.append(HISTORY)
        self.successor.end_backup(stop)


@pytest.mark.parametrize("lost", [SEGMENT.name, HISTORY.name, ""], ids=["segment", "history", "-"])
def test_a_backup_exists_only_if_its_wal_is_there_at_its_end(tmp_path: Path, lost: str) -> None:
    storage = MemoryStorage()
    cluster = Repository.open(storage, create=True).cluster(SYSTEM)
    data = DataDirectory.open(str(make_pgdata(tmp_path / "data", 13)))
    backup = DirectoryBackup(data, Session(), ReadOptions())
    facts = ServerFacts(SYSTEM, 130000, "13", MIB, 0o700, is_primary=True)

    def attempt() -> BackupRecord:
        return store_backup(
            cluster,
            facts,
            REQUEST,
            SilentMeter(),
            lambda successor, folder: Lost(successor, storage, lost),
            backup.run,
        )

    if lost:
        with pytest.raises(WalGap, match=lost):
            attempt()
        assert not list(storage.list(layout.backups_folder(SYSTEM)))
    else:
        taken = attempt()
        assert cluster.catalog.list() == [taken]


@pytest.mark.parametrize("call", ["open_new", "fsync", "link"])
def test_a_storage_that_fails_at_any_step_has_no_backup(
    plain_server: Cluster, tmp_path: Path, call: str
) -> None:
    whole = FailingFileSystem(call, 0)
    take(plain_server, LocalStorage(tmp_path / "whole", filesystem=whole))
    assert whole.calls >= 6
    for number in range(1, whole.calls + 1):
        place = tmp_path / str(number)
        with pytest.raises(StorageError, match="no space left on device"):
            take(plain_server, LocalStorage(place, filesystem=FailingFileSystem(call, number)))
        try:
            repository = Repository.open(LocalStorage(place))
        except NotFound:
            continue
        for system in repository.systems():
            catalog = repository.cluster(system).catalog
            assert catalog.damaged() == []
            if call != "fsync":  # what cannot be deleted for good waits for the next run
                assert catalog.unfinished() == []
                assert catalog.list() == []


# -- standard output -------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "out.tar"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield descriptor, path
    os.close(descriptor)


def test_a_stream_holds_data_wal_and_manifest(
    plain_server: Cluster, output: tuple[int, Path]
) -> None:
    descriptor, path = output
    request = replace(REQUEST, compression=None)
    outcome = stream_backup(connector(plain_server), descriptor, request, SilentMeter())
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:") as tar:
        names = tar.getnames()
    assert names[-1] == "backup_manifest"
    assert {"PG_VERSION", "backup_label", "global/pg_control"} <= set(names)
    assert [name for name in names if name.startswith("pg_wal/0000")]
    assert not outcome.is_damaged
