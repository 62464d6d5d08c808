"""Backups from standbys, and of servers that have been promoted."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.program import Answer, Running, begin, run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.servers import check_structure

pytestmark = pytest.mark.interop
STREAMING = "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'"
LOCAL = pytest.mark.parametrize("local", [False, True], ids=["server", "pgdata"])
"""Whether the data directory is read by the server or by ourselves."""
EDGES = pytest.mark.parametrize("major", [13, 18], ids=["pg13", "pg18"])


def make_standby(primary: Cluster) -> Cluster:
    """A running standby that has everything the primary has by now."""
    standby = primary.standby(primary.pgdata.parent / "standby")
    standby.start()
    catch_up(primary, standby)
    return standby


def catch_up(primary: Cluster, standby: Cluster) -> None:
    ((position,),) = primary.sql("SELECT pg_current_wal_insert_lsn()::text")
    primary.sql("SELECT txid_current()")
    standby.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")


def words(server: Cluster, local: bool) -> tuple[object, ...]:
    """The command line of a backup."""
    source = ("--pgdata", server.pgdata) if local else ()
    return ("backup", "-d", server.conninfo(), "-c", "fast", *source)


def backup(directory: Path, server: Cluster, local: bool, *options: object) -> Answer:
    return run(directory, *words(server, local), "--json", *options)


@contextmanager
def halted(under_way: Running, server: Cluster) -> Iterator[None]:
    """Let a backup stand still, once archives and WAL are flowing, until the block ends."""
    server.poll_until(STREAMING)
    under_way.send(signal.SIGSTOP)
    try:
        yield
    finally:
        under_way.send(signal.SIGCONT)


def labels(directory: Path) -> list[str]:
    listed = succeed(directory, "list", "--json").document["backups"]
    return [each["label"] for each in listed]


@LOCAL
@EDGES
def test_a_backup_of_a_standby_keeps_its_unfinished_segment(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, local: bool
) -> None:
    primary = cluster_factory(major)
    primary.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) AS n")
    with make_standby(primary) as standby:
        primary.sql("INSERT INTO t SELECT n FROM generate_series(1001, 2000) AS n")
        catch_up(primary, standby)
        answer = backup(tmp_path, standby, local)
        assert answer.status == 0, answer.err
    document = answer.document["backup"]
    (tail,) = tmp_path.glob(f"pgbackup-repo/*/backups/{document['label']}/*.partial")
    archived = [path.name for path in tmp_path.glob("pgbackup-repo/*/wal/*")]
    assert not [name for name in archived if name.startswith(tail.stem)]
    succeed(tmp_path, "verify")
    assert primary.running, "the primary does not stop for it"

    target = tmp_path / "data"
    succeed(tmp_path, "restore", "-D", target)
    with Cluster.open_existing(target, major) as restored:
        restored.start()
        assert restored.sql("SELECT pg_is_in_recovery()") == [(False,)]
        assert restored.sql("SELECT count(*), sum(n) FROM t") == [(2000, 2001000)]
        check_structure(restored)


@LOCAL
def test_a_backup_of_a_busy_standby_can_be_restored(
    cluster_factory: ClusterFactory, tmp_path: Path, local: bool
) -> None:
    primary = cluster_factory(16)
    primary.pgbench_init()
    with make_standby(primary) as standby:
        primary.pgbench(clients=2)
        answer = backup(tmp_path, standby, local, "-r", "20M")
        assert answer.status == 0, answer.err
    primary.stop("immediate")
    assert answer.document["backup"]["wal"], "whole segments, too"
    succeed(tmp_path, "verify")
    target = tmp_path / "data"
    succeed(tmp_path, "restore", "-D", target)
    with Cluster.open_existing(target, 16) as restored:
        restored.start()
        check_structure(restored)


@LOCAL
@EDGES
def test_a_promotion_during_the_backup_fails_it(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, local: bool
) -> None:
    primary = cluster_factory(major)
    primary.pgbench_init()
    with make_standby(primary) as standby:
        under_way = begin(tmp_path, *words(standby, local), "-r", "12M")
        try:
            with halted(under_way, standby):
                standby.promote()
        finally:
            answer = under_way.wait()
        assert answer.status == 1, answer.err
        message, _ = answer.error()
        assert "standby was promoted" in message
        assert labels(tmp_path) == []
        assert not list(tmp_path.glob("pgbackup-repo/*/backups/*"))
        again = backup(tmp_path, standby, local)
        assert again.status == 0, again.err
        assert labels(tmp_path) == [again.document["backup"]["label"]]


@LOCAL
@EDGES
def test_a_backup_on_a_later_timeline_has_its_history(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, local: bool
) -> None:
    primary = cluster_factory(major)
    primary.sql("CREATE TABLE t AS SELECT 1 AS n")
    with make_standby(primary) as standby:
        standby.promote()
        standby.poll_until("SELECT NOT pg_is_in_recovery()")
        standby.sql("INSERT INTO t VALUES (2)")
        answer = backup(tmp_path, standby, local)
        assert answer.status == 0, answer.err
        again = backup(tmp_path, standby, local)
        assert again.status == 0, again.err
    document = answer.document["backup"]
    assert (document["timeline"], document["stop_timeline"]) == (2, 2)
    (history,) = tmp_path.glob("pgbackup-repo/*/wal/00000002.history")
    assert b"no recovery target" in history.read_bytes()
    succeed(tmp_path, "verify", document["label"])

    target = tmp_path / "data"
    succeed(tmp_path, "restore", document["label"], "-D", target)
    assert (target / "pg_wal" / "00000002.history").read_bytes() == history.read_bytes()
    with Cluster.open_existing(target, major) as restored:
        restored.start()
        assert restored.sql("SELECT sum(n) FROM t") == [(3,)]


@LOCAL
def test_a_standby_that_follows_a_promotion_during_its_backup_can_be_restored(
    cluster_factory: ClusterFactory, tmp_path: Path, local: bool
) -> None:
    primary = cluster_factory(17)
    primary.pgbench_init()
    with make_standby(primary) as middle, middle.standby(tmp_path / "last") as last:
        last.start()
        under_way = begin(tmp_path, *words(last, local), "-r", "12M", "--json")
        try:
            with halted(under_way, last):
                middle.promote()
                middle.sql("CREATE TABLE after_promotion AS SELECT 1 AS n")
                middle.sql("CHECKPOINT")
                last.poll_until("SELECT to_regclass('after_promotion') IS NOT NULL")
                last.sql("CHECKPOINT")
        finally:
            answer = under_way.wait()
    assert answer.status == 0, answer.err
    document = answer.document["backup"]
    assert (document["timeline"], document["stop_timeline"]) == (1, 2)
    target = tmp_path / "data"
    succeed(tmp_path, "restore", "-D", target)
    with Cluster.open_existing(target, 17) as restored:
        restored.start()
        assert restored.sql("SELECT count(*) FROM pgbench_accounts") == [(100000,)]
        assert restored.sql("SELECT n FROM after_promotion") == [(1,)]
        check_structure(restored)
