"""What happens to a backup whose server changes while files are being read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.basebackup import DirectoryBackup, ReadOptions
from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.session import BackupSession, OnlineSession
from pgbackup.backup.pgdata.stopped import StoppedSession
from pgbackup.errors import ConnectionFailed, PgbackupError, Refused, ServerError
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.slotstate import closing
from pgbackup.stream.sink import Sink
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.stream.checked_sink import CheckedSink


class Acting(Sink):
    """A link that does something when the data directory's archive begins."""

    def __init__(self, successor: Sink, act: Callable[[], object]) -> None:
        super().__init__(successor)
        self._act = act

    def begin_archive(self, name: str) -> None:
        self._act()
        super().begin_archive(name)


def back_up(
    data: DataDirectory, session: BackupSession, interval: float, act: Callable[[], object]
) -> CheckedSink:
    end = CheckedSink([100_000])
    sink = Acting(end, act)
    backup = DirectoryBackup(data, session, ReadOptions(check_interval=interval))
    try:
        backup.run(sink)
    finally:
        sink.cleanup()
        backup.close()
    return end


def back_up_server(server: Cluster, interval: float, act: Callable[[], object]) -> CheckedSink:
    transport = LibpqTransport()
    transport.connect(server.conninfo("postgres"), "pgbackup test", replicates=False)
    data = DataDirectory.open(str(server.pgdata))
    with closing(transport):
        return back_up(data, OnlineSession(data, transport, "test", fast=True), interval, act)


each_way = pytest.mark.parametrize(
    "interval", [0.0, ReadOptions().check_interval], ids=["checked at once", "at the end"]
)
"""With the interval of the program a short backup ends before the first check."""


@each_way
def test_a_promoted_standby_fails_the_backup(
    cluster_factory: ClusterFactory, tmp_path: Path, interval: float
) -> None:
    primary = cluster_factory(18)
    with primary.standby(tmp_path / "standby") as standby:
        standby.start()
        assert back_up_server(standby, interval, lambda: None).is_complete
        expected: type[PgbackupError] = Refused if interval == 0 else ServerError
        with pytest.raises(expected, match="the standby was promoted"):
            back_up_server(standby, interval, lambda: standby.sql("SELECT pg_promote()"))
        assert back_up_server(standby, interval, lambda: None).is_complete


@each_way
def test_a_lost_session_fails_the_backup(newest_cluster: Cluster, interval: float) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'pgbackup test'"
    )
    with pytest.raises(ConnectionFailed, match="the connection to the server was lost"):
        back_up_server(newest_cluster, interval, lambda: newest_cluster.sql(kill))


@each_way
def test_checkpoints_meanwhile_do_no_harm(newest_cluster: Cluster, interval: float) -> None:
    assert back_up_server(
        newest_cluster, interval, lambda: newest_cluster.sql("CHECKPOINT")
    ).is_complete


@each_way
def test_a_server_that_is_started_meanwhile_fails_the_backup_of_a_stopped_one(
    newest_cluster: Cluster, interval: float
) -> None:
    newest_cluster.stop()
    data = DataDirectory.open(str(newest_cluster.pgdata))
    assert back_up(data, StoppedSession(data), interval, lambda: None).is_complete
    with pytest.raises(Refused, match="its server was started meanwhile"):
        back_up(data, StoppedSession(data), interval, newest_cluster.start)
