"""Real servers archive and recover through the hooks, with nothing between."""

import os
import shlex
from pathlib import Path

import pytest

from pgbackup.pg.control import ClusterState, ControlFile
from tests.archiving.acknowledged import hook
from tests.cli.program import succeed
from tests.cluster import Cluster, ClusterError
from tests.fix_cluster import ClusterFactory

pytestmark = pytest.mark.interop

ROWS = "SELECT count(*), coalesce(max(n), 0) FROM t"
COUNT = "SELECT count(*)::int FROM t"


def archiving(repo: Path) -> dict[str, str | int | float | bool]:
    return {"archive_mode": "on", "archive_command": hook("wal-push", repo, "%p")}


def switch(server: Cluster) -> str:
    """End the current segment, in which something is; return its name."""
    name: str = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    server.sql("SELECT pg_switch_wal()")
    return name


def insert(server: Cluster, count: int) -> str:
    """Commit rows, each stretch in a segment of its own; return the name of the last."""
    name = ""
    for _ in range(count):
        server.sql(
            "INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series("
            "(SELECT coalesce(max(n), 0) + 1 FROM t), (SELECT coalesce(max(n), 0) + 50 FROM t)) n"
        )
        name = switch(server)
    return name


def wait_until_archived(server: Cluster, name: str) -> None:
    server.poll_until(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver")


def backed_up(
    cluster_factory: ClusterFactory, major: int, repo: Path, segments: int, **options: object
) -> Cluster:
    """A server that archives, with a backup, and rows in so many segments after it."""
    server = cluster_factory(major, as_caller=True, settings=archiving(repo), **options)
    server.sql("CREATE TABLE t (n int, content text)")
    succeed(repo.parent, "backup", "-d", server.conninfo(), "-c", "fast", "-B", repo)
    wait_until_archived(server, insert(server, segments))
    return server


def restore(repo: Path, target: Path, command: str) -> None:
    succeed(repo.parent, "restore", "-B", repo, "-D", target, "--restore-command", command)


def test_a_server_archives_and_another_recovers_to_the_end(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = backed_up(cluster_factory, major, repo, 12)
    expected = server.sql(ROWS)
    assert server.sql("SELECT failed_count FROM pg_stat_archiver") == [(0,)]
    server.stop()
    restore(repo, target, hook("wal-get", repo, "%f", "%p"))
    with Cluster.open_existing(target, major, as_caller=True) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        assert restored.sql(ROWS) == expected
        wal = restored.pgdata / "pg_wal"
        assert not [name for name in os.listdir(wal) if name.startswith((".", "RECOVERY"))]  # noqa: PTH208
        wait_until_archived(restored, insert(restored, 2))
        assert len(list(repo.glob("*/wal/00000002.history"))) == 1


def test_a_segment_size_of_64_mb_goes_through(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = backed_up(cluster_factory, 15, repo, 2, wal_segsize_mb=64)
    expected = server.sql(ROWS)
    server.stop()
    restore(repo, target, hook("wal-get", repo, "%f", "%p"))
    with Cluster.open_existing(target, 15, as_caller=True) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        assert restored.sql(ROWS) == expected


def test_a_failing_archive_command_keeps_the_file_and_recovers(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    repo.mkdir(mode=0o700)
    (repo / "precious").touch()
    server = cluster_factory(major, as_caller=True, settings=archiving(repo))
    name = switch(server)
    server.poll_until("SELECT failed_count > 0 FROM pg_stat_archiver")
    status = server.pgdata / "pg_wal" / "archive_status"
    assert (status / f"{name}.ready").exists()
    server.kill9()
    server.start()
    assert (status / f"{name}.ready").exists()
    (repo / "precious").unlink()
    wait_until_archived(server, name)
    assert not (status / f"{name}.ready").exists()
    assert len(list(repo.glob(f"*/wal/{name}*"))) == 1


def cut_after(script: Path, repo: Path, name: str) -> str:
    """A restore_command that takes the repository away when a segment is wanted."""
    get = hook("wal-get", repo, "--timeout", "1", '"$1"', '"$2"')
    script.write_text(
        f'if [ "$1" = {name} ]; then mv {shlex.quote(str(repo))} '
        f"{shlex.quote(str(repo))}.away; fi\nexec {get}\n"
    )
    return f"sh {shlex.quote(str(script))} %f %p"


def start_and_promote(server: Cluster) -> None:
    """Start a server whose recovery has no target, and wait for the end of recovery."""
    server.start()
    server.poll_until("SELECT pg_is_in_recovery()", False)


def test_a_repository_that_goes_away_in_mid_recovery_does_not_promote_the_server(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = backed_up(cluster_factory, major, repo, 10)
    expected = server.sql(ROWS)
    server.stop()
    segments = sorted(path.name[:24] for path in repo.glob("*/wal/0*.zst"))
    restore(repo, target, cut_after(tmp_path / "get.sh", repo, segments[-5]))
    with Cluster.open_existing(target, major, as_caller=True) as restored:
        with pytest.raises(ClusterError):
            start_and_promote(restored)
        control = ControlFile.parse((target / "global" / "pg_control").read_bytes())
        assert control.state is not ClusterState.IN_PRODUCTION
        assert control.redo.timeline == 1
        assert not (target / "pg_wal" / "00000002.history").exists()
        assert "could not open repository" in restored.log_file.read_text()
        repo.with_name("repo.away").rename(repo)
        (tmp_path / "get.sh").write_text(f"exec {hook('wal-get', repo, '$1', '$2')}\n")
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        assert restored.sql(ROWS) == expected


def begin_standby(target: Path) -> None:
    """Let a restored directory become a standby that lives on its restore_command alone."""
    (target / "recovery.signal").unlink()
    (target / "standby.signal").touch()


def test_a_standby_fed_by_the_archive_alone_holds_what_was_archived_and_can_be_promoted(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """RC-02: its commands run, and an end command that fails only warns."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = backed_up(cluster_factory, major, repo, 3)
    server.sql("INSERT INTO t VALUES (-1)")  # in a segment that is not archived
    restore(repo, target, hook("wal-get", repo, "--timeout", "0", "%f", "%p"))
    begin_standby(target)
    settings = {
        "wal_retrieve_retry_interval": "200ms",
        "archive_cleanup_command": f"touch {shlex.quote(str(tmp_path))}/cleaned-%r",
        "recovery_end_command": f"touch {shlex.quote(str(tmp_path / 'ended'))}; false",
    }
    with Cluster.open_existing(target, major, as_caller=True, settings=settings) as standby:
        standby.start()
        standby.poll_until(COUNT, 150)
        wait_until_archived(server, insert(server, 1))
        standby.poll_until(COUNT, 201)
        server.sql("CHECKPOINT")
        wait_until_archived(server, insert(server, 1))
        standby.poll_until(COUNT, 251)  # so the checkpoint is replayed too
        standby.sql("CHECKPOINT")
        server.stop("immediate")
        standby.promote()
        standby.poll_until("SELECT pg_is_in_recovery()", False)
        assert standby.sql(COUNT) == [(251,)]
        wait_until_archived(standby, insert(standby, 1))
        assert list(tmp_path.glob("cleaned-0000*"))
        assert (tmp_path / "ended").exists()
        assert "recovery_end_command" in standby.log
        assert not list((target / "pg_wal").glob("RECOVERY*"))
    assert len(list(repo.glob("*/wal/00000002.history"))) == 1
    restore(repo, tmp_path / "other", hook("wal-get", repo, "%f", "%p"))
    with Cluster.open_existing(tmp_path / "other", major, as_caller=True) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        assert restored.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(3,)]
        assert restored.sql(COUNT) == [(301,)]


def test_a_standby_archives_what_it_receives_only_if_it_always_does(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """RC-07: what two servers archive is there once, and both succeed."""
    repo = tmp_path / "repo"
    primary = cluster_factory(major, as_caller=True, settings=archiving(repo))
    archived = "SELECT archived_count::int, failed_count::int FROM pg_stat_archiver"
    with primary.standby(primary.pgdata.parents[1] / "standby") as standby:
        standby.start()
        wait_until_archived(primary, switch_used(primary))
        name = switch_used(primary)
        wait_until_archived(primary, name)
        status = standby.pgdata / "pg_wal" / "archive_status" / f"{name}.done"
        standby.poll_until("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()")
        assert not list(status.parent.glob("*.ready"))
        assert standby.sql(archived) == [(0, 0)]
        standby.configure({"archive_mode": "always"})
        standby.restart()
        standby.poll_until("SELECT count(*) = 1 FROM pg_stat_wal_receiver")
        name = switch_used(primary)
        wait_until_archived(primary, name)
        wait_until_archived(standby, name)
        assert standby.sql(archived)[0][1] == 0
    assert primary.sql(archived)[0][1] == 0
    assert len(list(repo.glob(f"*/wal/{name}*"))) == 1
    assert not list(repo.glob("*/conflict/*"))


def switch_used(server: Cluster) -> str:
    """Write something, and end its segment; return the segment's name."""
    server.sql("SELECT pg_logical_emit_message(true, 'test', 'text')")
    return switch(server)


def test_a_standby_that_lives_on_the_archive_outlives_its_absence(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    """RC-02: it holds exactly what was archived, and goes on when the archive is back."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = backed_up(cluster_factory, 18, repo, 3)
    restore(repo, target, hook("wal-get", repo, "--timeout", "0", "%f", "%p"))
    begin_standby(target)
    with Cluster.open_existing(
        target, 18, as_caller=True, settings={"wal_retrieve_retry_interval": "200ms"}
    ) as standby:
        standby.start()
        standby.poll_until(COUNT, 150)
        repo.rename(repo.with_name("away"))
        insert(server, 2)
        standby.poll_until("SELECT pg_is_in_recovery()", True)
        repo.with_name("away").rename(repo)
        standby.poll_until(COUNT, 250)
        wal = standby.pgdata / "pg_wal"
        assert not list(wal.glob("RECOVERY*"))


@pytest.mark.parametrize("major", [13, 15, 18])
def test_a_shutdown_does_not_wait_for_a_blocked_restore_command(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """RC-20: the hook ends by the signal that the startup process gets."""
    repo, target = tmp_path / "repo", tmp_path / "data"
    server = backed_up(cluster_factory, major, repo, 2)
    server.stop()
    restore(repo, target, hook("wal-get", repo, "--timeout", "300", "%f", "%p"))
    begin_standby(target)
    with Cluster.open_existing(target, major, as_caller=True) as standby:
        standby.start()
        standby.poll_until(COUNT, 100)
        repo.rename(repo.with_name("away"))
        standby.stop("fast")
        assert not standby.running
