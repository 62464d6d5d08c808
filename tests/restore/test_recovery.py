"""What PostgreSQL's own recovery tests check, of servers restored by us."""

from pathlib import Path

import pytest

from tests.archiving.test_servers import archiving, switch, wait_until_archived
from tests.cli.program import run, succeed
from tests.cluster import Cluster, ClusterError
from tests.fix_cluster import ClusterFactory

pytestmark = pytest.mark.interop


def back_up(server: Cluster, repo: Path) -> None:
    succeed(repo.parent, "backup", "-d", server.conninfo(), "-c", "fast", "-B", repo)


def archived(server: Cluster) -> None:
    wait_until_archived(server, switch(server))


def restore(repo: Path, target: Path, *words: object) -> None:
    succeed(repo.parent, "restore", "-B", repo, "-D", target, *words)


def started(target: Path, major: int) -> Cluster:
    """The restored server, out of recovery or paused in it; it archives nothing."""
    server = Cluster.open_existing(target, major, as_caller=True, settings={"archive_mode": "off"})
    server.start()
    return server


def promoted(target: Path, major: int) -> Cluster:
    server = started(target, major)
    server.poll_until("SELECT pg_is_in_recovery()", False)
    return server


def test_unlogged_tables_are_empty_and_usable(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """RC-05."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = cluster_factory(major, as_caller=True, settings=archiving(repo))
    server.sql("CREATE UNLOGGED TABLE u AS SELECT 1 AS n")
    back_up(server, repo)
    server.sql("CREATE UNLOGGED TABLE later AS SELECT 1 AS n")
    archived(server)
    restore(repo, target, "--target-latest")
    with promoted(target, major) as restored:
        for table in ("u", "later"):
            assert restored.sql(f"SELECT count(*) FROM {table}") == [(0,)]
            assert restored.sql(f"INSERT INTO {table} VALUES (2) RETURNING n") == [(2,)]


def test_a_prepared_transaction_waits_at_a_target_between_prepare_and_commit(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """RC-08, and a transaction that another session ended."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    settings = archiving(repo) | {"max_prepared_transactions": 5}
    server = cluster_factory(major, as_caller=True, settings=settings)
    server.sql("CREATE TABLE t (n int)")
    back_up(server, repo)
    with server.connect() as connection:
        connection.execute("BEGIN; CREATE TABLE side (n int); SAVEPOINT s")
        found = connection.execute("INSERT INTO t VALUES (1) RETURNING txid_current()").fetchone()
        connection.execute("PREPARE TRANSACTION 'p'")
    assert found is not None
    server.sql("SELECT pg_create_restore_point('between')")
    server.sql("COMMIT PREPARED 'p'")
    server.sql("INSERT INTO t VALUES (2)")
    archived(server)
    before = sorted(repo.rglob("*"))
    restore(repo, target, "--target-name", "between", "--plan")
    assert sorted(repo.rglob("*")) == before  # what was read for the plan is not noted
    restore(repo, target, "--target-name", "between", "--target-action", "promote")
    with promoted(target, major) as restored:
        assert restored.sql("SELECT gid FROM pg_prepared_xacts") == [("p",)]
        assert restored.sql("SELECT n FROM t") == []
        restored.sql("COMMIT PREPARED 'p'")
        assert restored.sql("SELECT n FROM t") == [(1,)]
    again = tmp_path / "again"
    restore(repo, again, "--target-xid", found[0], "--target-action", "promote")
    with promoted(again, major) as restored:
        assert restored.sql("SELECT n FROM t") == [(1,)]


def test_a_transaction_of_a_later_epoch_is_a_target(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    """RC-03."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = cluster_factory(18, as_caller=True, start=False, settings=archiving(repo))
    server.account.run(server.bin("pg_resetwal"), "-e", "3", "-D", server.pgdata)
    server.start()
    server.sql("CREATE TABLE t (n int)")
    back_up(server, repo)
    xid = server.sql("INSERT INTO t VALUES (1) RETURNING pg_current_xact_id()::text")[0][0]
    server.sql("INSERT INTO t VALUES (2)")
    archived(server)
    assert int(xid) >> 32 == 3
    restore(repo, target, "--target-xid", xid, "--target-action", "promote")
    with promoted(target, 18) as restored:
        assert restored.sql("SELECT n FROM t") == [(1,)]


def test_wal_of_wal_level_minimal_stops_recovery(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    """RC-09."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = cluster_factory(18, as_caller=True, settings=archiving(repo))
    back_up(server, repo)
    server.configure({"wal_level": "minimal", "archive_mode": "off", "max_wal_senders": 0})
    server.restart()
    server.sql("CREATE TABLE t AS SELECT 1 AS n")
    server.configure({"wal_level": "replica", "archive_mode": "on", "max_wal_senders": 10})
    server.restart()
    archived(server)
    answer = run(tmp_path, "restore", "-B", repo, "-D", target, "--target-latest")
    if answer.status == 9:  # what was written meanwhile was never archived
        for segment in sorted((server.pgdata / "pg_wal").glob("0" * 7 + "?" * 17)):
            path = f"pg_wal/{segment.name}"
            if segment.name < switch(server):
                run(server.pgdata, "wal-push", "-B", repo, path)
        restore(repo, target, "--target-latest")
    with pytest.raises(ClusterError, match="wal_level=minimal"):
        promoted(target, 18)


def test_recovery_goes_on_over_a_tablespace_that_was_dropped(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """RC-13."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = cluster_factory(major, as_caller=True, settings=archiving(repo))
    space = server.account.make_directory(server.pgdata.parent / "space")
    with server.connect() as connection:
        connection.execute(f"CREATE TABLESPACE s LOCATION '{space}'")
        connection.execute("CREATE TABLE t TABLESPACE s AS SELECT 1 AS n")
    back_up(server, repo)
    with server.connect() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        connection.execute("CREATE TABLE kept AS SELECT n FROM t")
        connection.execute("DROP TABLE t")
        connection.execute("DROP TABLESPACE s")
        connection.execute("CHECKPOINT")
        connection.execute("INSERT INTO kept VALUES (3)")
    archived(server)
    restore(repo, target, "--target-latest", "-T", f"{space}={tmp_path / 'space'}")
    with promoted(target, major) as restored:
        assert restored.sql("SELECT n FROM kept ORDER BY n") == [(1,), (2,), (3,)]
        assert restored.sql("SELECT 1 FROM pg_tablespace WHERE spcname = 's'") == []


def test_a_standby_follows_its_primary_through_its_slot(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = cluster_factory(major, as_caller=True, settings=archiving(repo))
    server.sql("CREATE TABLE t AS SELECT 1 AS n")
    back_up(server, repo)
    server.sql("INSERT INTO t VALUES (2)")
    archived(server)
    succeed(tmp_path, "slot", "create", "node_2", "-d", server.conninfo())
    restore(repo, target, "-R", "-d", server.conninfo("postgres"), "--slot", "node_2")
    with started(target, major) as standby:
        server.sql("INSERT INTO t VALUES (3)")
        standby.poll_until("SELECT count(*) FROM t", 3)
        assert standby.sql("SELECT pg_is_in_recovery()") == [(True,)]
        server.poll_until("SELECT active FROM pg_replication_slots WHERE slot_name = 'node_2'")
        standby.promote()
        standby.poll_until("SELECT pg_is_in_recovery()", False)
        name = standby.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
        assert name.startswith("00000002")


def test_what_a_receiver_has_of_the_last_segment_is_recovered(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = cluster_factory(major, as_caller=True)
    server.sql("CREATE TABLE t AS SELECT 1 AS n")
    back_up(server, repo)
    server.sql("INSERT INTO t VALUES (2)")
    xid = server.sql("INSERT INTO t VALUES (3) RETURNING txid_current()")[0][0]
    server.sql("INSERT INTO t VALUES (4)")
    words = ("receive-wal", "-B", repo, "-d", server.conninfo(), "--once", "--wait", "60")
    succeed(tmp_path, *words)
    assert list(repo.glob("*/wal/*.partial"))
    restore(repo, target, "--target-xid", xid, "--target-action", "promote")
    with promoted(target, major) as restored:
        assert restored.sql("SELECT n FROM t ORDER BY n") == [(1,), (2,), (3,)]
    restore(repo, tmp_path / "all", "--target-latest")
    with promoted(tmp_path / "all", major) as restored:
        assert restored.sql("SELECT n FROM t ORDER BY n") == [(1,), (2,), (3,), (4,)]


def test_a_restored_server_that_would_archive_is_warned_of(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    server = cluster_factory(18, as_caller=True, settings=archiving(repo))
    back_up(server, repo)
    warned = succeed(tmp_path, "restore", "-B", repo, "-D", tmp_path / "one")
    assert "will archive into this repository and on the same timeline" in warned.err
    server.configure({"archive_mode": "off"})
    server.restart()
    back_up(server, repo)
    silent = succeed(tmp_path, "restore", "-B", repo, "-D", tmp_path / "two")
    assert "warning" not in silent.err
