"""The WAL of a data directory, as far as its server has flushed it, and what is archived of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbackup.errors import ClientError, ExitCode, ServerError
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.serve.pgdata.livewal import LiveWal
from pgbackup.storage.memory import MemoryStorage
from tests.archiving.test_servers import switch
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.twotimelines import fail_over
from tests.repo.samples import MIB


@pytest.fixture
def server(cluster_factory: ClusterFactory) -> Cluster:
    return cluster_factory(15, as_caller=True)


@contextmanager
def asked(server: Cluster) -> Iterator[LiveServer]:
    def connect() -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(server.conninfo("postgres"), "test", replicates=False)
        return transport

    made = LiveServer(str(server.pgdata), connect)
    yield made
    made.close()


@pytest.fixture
def live(server: Cluster) -> Iterator[LiveServer]:
    with asked(server) as made:
        yield made


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
    with pytest.raises(
        ServerError, match="could not ask the server of the data directory"
    ) as caught:
        live.position()
    assert caught.value.exit_code == ExitCode.CONNECTION


@pytest.mark.parametrize("major", [13, 18])
def test_a_timeline_ends_where_the_server_leaves_it(
    cluster_factory: ClusterFactory, major: int
) -> None:
    """A standby that is promoted, and one that follows it: its control file is late to say so."""
    primary = cluster_factory(major, as_caller=True)
    place = primary.pgdata.parent
    with primary.standby(place / "heir") as heir, primary.standby(place / "follower") as follower:
        heir.start()
        follower.start()
        with asked(heir) as of_heir, asked(follower) as of_follower:
            lives = (of_heir, of_follower)
            archive = (
                Repository.open(MemoryStorage(), create=True).cluster(of_heir.system()).archive
            )
            primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10)")
            streams = [LiveWal(each, archive, MIB) for each in lives]
            fail_over(primary, heir)
            follower.configure({"primary_conninfo": heir.conninfo()})
            follower.reload()
            heir.sql("CREATE TABLE u AS SELECT generate_series(1, 10)")
            end = heir.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]
            follower.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{end}'", timeout=60)
            assert [each.position().timeline for each in lives] == [2, 2]
            switch = of_heir.history(Timeline(2)).entries[0].switch
            opened = [LiveWal(each, archive, MIB, Timeline(1)) for each in lives]
            for wal in (*streams, *opened):
                start = Segment.containing(Timeline(1), switch, MIB).start
                content = read_on(wal, start)
                assert len(content) == switch - start
                assert (
                    content
                    == path_of(heir, Segment(Timeline(2), start // MIB, MIB)).read_bytes()[
                        : len(content)
                    ]
                )
                assert wal.is_over(switch)
                assert (wal.switch, wal.next_timeline) == (switch, 2)
            assert LiveWal(of_follower, archive, MIB).flushed > switch


def read_on(wal: LiveWal, start: Lsn) -> bytes:
    """From a position to the end of the timeline."""
    found = b""
    while wal.find(Lsn(start + len(found))) is not None:
        found += read(wal, Lsn(start + len(found)))
    return found
