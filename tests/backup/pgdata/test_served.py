"""Whether a data directory is that of the server at the other end, on real servers."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.served import check_served
from pgbackup.errors import WrongSystem
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.onlinebackup import begin_online_backup
from pgbackup.replication.slotstate import closing
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory


@contextmanager
def session(server: Cluster) -> Iterator[LibpqTransport]:
    transport = LibpqTransport()
    transport.connect(server.conninfo("postgres"), "pgbackup test", replicates=False)
    with closing(transport):
        yield transport


def check(data_of: Cluster | Path, server: Cluster) -> None:
    path = data_of if isinstance(data_of, Path) else data_of.pgdata
    with session(server) as transport:
        check_served(DataDirectory.open(str(path)), transport)


def test_a_server_knows_its_own_data_directory(cluster: Cluster) -> None:
    check(cluster, cluster)


def test_the_data_directory_of_another_cluster_is_refused(cluster_factory: ClusterFactory) -> None:
    one, other, older = cluster_factory(18), cluster_factory(18), cluster_factory(17)
    with pytest.raises(WrongSystem, match=r"it is of system \d+, the server of \d+") as info:
        check(one, other)
    assert "SHOW data_directory" in str(info.value.hint)
    with pytest.raises(WrongSystem, match="it is of PostgreSQL 17, the server is of 18"):
        check(older, one)


def test_standby_and_primary_are_not_taken_for_each_other(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.standby(tmp_path / "standby") as standby:
        standby.start()
        check(standby, standby)
        with pytest.raises(WrongSystem, match='its state is "in archive recovery", the server\'s'):
            check(standby, cluster)
        with pytest.raises(WrongSystem, match='its state is "in production"'):
            check(cluster, standby)


def test_a_copy_is_told_from_the_original_once_a_backup_has_begun(
    newest_cluster: Cluster, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(newest_cluster.pgdata, copy, ignore=shutil.ignore_patterns("pg_wal", "base"))
    check(copy, newest_cluster)
    with session(newest_cluster) as transport:
        begin_online_backup(transport, "test", fast=True, segment_size=1 << 20)
        with pytest.raises(WrongSystem, match=r"its last checkpoint is at .*, the server's at"):
            check(copy, newest_cluster)
        check(newest_cluster, newest_cluster)
