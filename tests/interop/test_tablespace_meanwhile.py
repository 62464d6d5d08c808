"""A tablespace that is created while a backup runs: recovery makes it, and what is in it."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.takelocal import LocalSource, take_local_backup
from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import take_backup
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

pytestmark = pytest.mark.interop

REQUEST = BackupRequest(fast_checkpoint=True)


class Creating:
    """A meter that creates a tablespace while the first archive flows past.

    That one is larger than all that can be on its way to us, so the data directory comes later.
    """

    def __init__(self, server: Cluster, place: Path) -> None:
        self._server = server
        self._place = place
        self._is_done = False

    def begin(self, total: int | None) -> None:
        pass

    def advance(self, length: int) -> None:
        if not self._is_done:
            self._is_done = True
            self._server.sql(f"CREATE TABLESPACE late LOCATION '{self._place}'")
            self._server.sql("CREATE TABLE t TABLESPACE late AS SELECT generate_series(1, 9) AS n")


@pytest.mark.parametrize(
    ("major", "local"), [(13, False), (18, True)], ids=["server of 13", "pgdata of 18"]
)
def test_a_tablespace_that_is_created_during_a_backup_is_recovered(
    cluster_factory: ClusterFactory, major: int, local: bool, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    early, late = (
        server.account.make_directory(server.pgdata.parent / name) for name in ("early", "late")
    )
    server.sql(f"CREATE TABLESPACE early LOCATION '{early}'")
    server.sql(
        "CREATE TABLE large TABLESPACE early AS"
        " SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 8000) n"
    )
    take(server, tmp_path / "repo", Creating(server, late), local)
    server.stop()
    shutil.rmtree(late)
    server.account.make_directory(late)

    words = ("-B", tmp_path / "repo")
    succeed(tmp_path, "verify", *words)
    target = tmp_path / "data"
    succeed(tmp_path, "restore", *words, "-D", target, "-T", f"{early}={tmp_path / 'early'}")
    assert len(list((target / "pg_tblspc").iterdir())) == 1, "recovery has yet to make the other"
    with Cluster.open_existing(target, major) as restored:
        restored.start()
        assert restored.sql("SELECT count(*) FROM large") == [(8000,)]
        assert restored.sql("SELECT sum(n) FROM t") == [(45,)]
        assert list(late.iterdir()), "the link leads where it did"


def take(server: Cluster, repo: Path, meter: Creating, local: bool) -> None:
    def connect(*, replicates: bool = True) -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(server.conninfo("postgres"), "taker", replicates=replicates)
        return transport

    def open_repository() -> Repository:
        return Repository.open(LocalStorage(repo), create=True)

    if local:
        sql = partial(connect, replicates=False)
        source = LocalSource(DataDirectory.open(str(server.pgdata)), connect, sql)
        take_local_backup(source, open_repository, REQUEST, meter)
    else:
        take_backup(connect, open_repository, REQUEST, meter)
