"""The WAL of a data directory, as far as its server has flushed it, and what is archived of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.errors import ClientError, ServerError
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.serve.pgdata.livewal import LiveWal
from pgbackup.storage.memory import MemoryStorage
from tests.archiving.test_servers import switch
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.repo.samples import MIB


@pytest.fixture
def server(cluster_factory: ClusterFactory) -> Cluster:
    return cluster_factory(15, as_caller=True)


@pytest.fixture
def live(server: Cluster) -> Iterator[LiveServer]:
    def connect() -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(server.conninfo("postgres"), "test", replicates=False)
        return transport

    made = LiveServer(str(server.pgdata), connect)
    yield made
    made.close()


@pytest.fixture
def cluster(live: LiveServer) -> ClusterRepository:
    return Repository.open(MemoryStorage(), create=True).cluster(live.system())


def read(wal: LiveWal, start: Lsn) -> bytes:
    """From a position to the end of what is there of its segment."""
    extent = wal.find(start)
    assert extent is not None
    data = b"".join(wal.contents(extent, start))
    assert start + len(data) >= extent.end
    return data[: extent.end - start]


def path_of(server: Cluster, segment: Segment) -> Path:
    return server.pgdata / "pg_wal" / segment.name


def test_wal_ends_where_the_server_has_flushed(
    server: Cluster, live: LiveServer, cluster: ClusterRepository
) -> None:
    wal = LiveWal(live, cluster.archive, MIB)
    end = wal.flushed
    assert wal.find(end) is None
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10)")
    segment = Segment.containing(Timeline(1), end, MIB)
    data = read(wal, end)
    assert len(data) == wal.flushed - end > 0
    offset = end - segment.start
    assert path_of(server, segment).read_bytes()[offset : offset + len(data)] == data
    server.restart()
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 10)")
    later = wal.flushed
    assert wal.find(later) is not None
    server.stop()
    assert live.position().lsn >= wal.flushed
    with pytest.raises(ClientError, match="timeline 2 is not in this server's history"):
        LiveWal(live, cluster.archive, MIB, Timeline(2))


def test_what_the_server_has_removed_comes_from_the_archive(
    server: Cluster, live: LiveServer, cluster: ClusterRepository
) -> None:
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10)")
    segment = Segment.parse(switch(server), MIB)
    wal = LiveWal(live, cluster.archive, MIB)
    content = path_of(server, segment).read_bytes()
    assert read(wal, segment.start) == content
    path_of(server, segment).rename(server.pgdata / "elsewhere")
    with pytest.raises(ClientError, match=f"{segment.name} has already been removed") as caught:
        wal.find(segment.start)
    assert caught.value.sqlstate == "58P01"
    with cluster.archive.segment_writer(segment, 1) as writer:
        writer.write(content)
        writer.commit()
    assert read(wal, Lsn(segment.start + 5000)) == content[5000:]


def test_a_file_that_is_recycled_while_it_is_read_is_noticed(
    server: Cluster, live: LiveServer, cluster: ClusterRepository
) -> None:
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10)")
    segment = Segment.parse(switch(server), MIB)
    wal = LiveWal(live, cluster.archive, MIB)
    extent = wal.find(segment.start)
    assert extent is not None
    pieces = wal.contents(extent, segment.start)
    next(pieces)
    path_of(server, segment).rename(server.pgdata / "elsewhere")
    with pytest.raises(ClientError, match="has already been removed"):
        next(pieces)


def test_a_server_that_was_killed_is_told_of(server: Cluster, live: LiveServer) -> None:
    server.stop("immediate")
    with pytest.raises(ServerError, match="could not ask the server of the data directory"):
        live.position()
