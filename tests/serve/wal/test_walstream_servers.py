"""The WAL of real servers, streamed out of the archive while a receiver goes on with it."""

from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.serve.wal.walsource import WalSource
from pgbackup.serve.wal.walstream import WalStream
from pgbackup.storage.local import LocalStorage
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.fix_receiver import Receive
from tests.repo.samples import MIB
from tests.serve.wal.streaming import pieces
from tests.waiting import wait_for

ROUNDS = 8


def write(server: Cluster) -> int:
    """Write about half a segment; return where WAL ends then."""
    server.sql("SELECT pg_logical_emit_message(true, 'test', repeat(md5(random()::text), 15000))")
    return Lsn.parse(str(server.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]))


def in_pg_wal(server: Cluster, timeline: int, start: int, end: int) -> bytes:
    """What the server itself has in its files of a timeline."""
    found = b""
    for number in range(start // MIB, -(-end // MIB)):
        name = Segment(Timeline(timeline), number, MIB).name
        found += (server.pgdata / "pg_wal" / name).read_bytes()
    return found[start % MIB :][: end - start]


def stream_rounds(cluster: ClusterRepository, writer: Cluster, timeline: int, start: int) -> bytes:
    """Stream what is written meanwhile; each round has to come before the next begins."""
    found = b""
    source = WalSource(cluster, Timeline(timeline))
    with WalNews(cluster) as news, WalStream(source, Lsn(start), news) as stream:
        for _ in range(ROUNDS):
            end = write(writer)
            found += b"".join(pieces(stream, start + len(found), end))
            assert start + len(found) <= stream.source.flushed
    return found


@pytest.mark.parametrize("major", [13, 18])
def test_clients_follow_a_receiver_and_a_promoted_server(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    settings = {"wal_keep_size": "64MB", "autovacuum": False}
    primary = cluster_factory(major, settings=settings)
    with primary.standby(tmp_path / "standby") as standby:
        standby.start()
        running = receive(standby, "--synchronous")
        wait_for(lambda: list(tmp_path.glob("repo/*/wal/*.partial")))
        cluster = Repository.open(LocalStorage(tmp_path / "repo")).only_cluster()
        start = min(file.name.segment(MIB).start for file in cluster.archive.files())
        first = stream_rounds(cluster, primary, 1, start)
        with (
            WalNews(cluster) as news,
            WalStream(WalSource(cluster), Lsn(start), news) as left,
        ):
            standby.promote()
            second_end = write(standby)
            whole = b"".join(pieces(left, start))
            switch = left.source.switch
            assert left.source.next_timeline == 2
        assert switch is not None
        assert len(whole) == switch - start
        assert whole.startswith(first)
        assert whole == in_pg_wal(standby, 1, start, switch // MIB * MIB) + in_pg_wal(
            standby, 2, switch // MIB * MIB, switch
        )
        begin = switch // MIB * MIB
        second = stream_rounds(cluster, standby, 2, begin)
        assert second == in_pg_wal(standby, 2, begin, begin + len(second))
        assert begin + len(second) > second_end
        running.process.terminate()
        assert running.wait().status == 0
        again = WalSource(cluster)
        with WalNews(cluster) as news, WalStream(again, Lsn(begin), news) as stream:
            assert b"".join(pieces(stream, begin, again.flushed)).startswith(second)
