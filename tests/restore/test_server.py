"""Real servers start from what was restored, also from the less usual clusters."""

import stat
from pathlib import Path

from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import take_backup
from pgbackup.backup.verification.verify import verify_backup
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import Transport
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.restore.plan import plan_restore
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.restore.run import run_restore
from pgbackup.restore.settings import Recovery
from pgbackup.storage.local import LocalStorage
from pgbackup.stream.compress import ZstdSettings
from pgbackup.stream.progress import SilentMeter
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory


def back_up(cluster: Cluster, repo: Path) -> ClusterRepository:
    def connect() -> Transport:
        transport = LibpqTransport()
        transport.connect(cluster.conninfo(), "pgbackup")
        return transport

    repository = Repository.open(LocalStorage(repo), create=True)
    request = BackupRequest(fast_checkpoint=True, compression=ZstdSettings(1, 2))
    record = take_backup(connect, lambda: repository, request, SilentMeter())
    return repository.cluster(record.system_identifier)


def restore(
    cluster: ClusterRepository, target: Path, *mappings: str, recovery: Recovery | None = None
) -> None:
    record = cluster.catalog.get("latest")
    report = verify_backup(cluster, record, jobs=2, meter=SilentMeter())
    assert report.problems == ()
    plan = plan_restore(record, str(target), mappings, recovery=recovery)
    run_restore(plan, cluster, jobs=2, meter=SilentMeter())


def test_tablespaces_in_place_and_group_access_survive(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    # Without this setting a server does not get through recovery with such a tablespace.
    settings = {"allow_in_place_tablespaces": True}
    server = cluster_factory(major, allow_group_access=True, settings=settings)
    space = server.account.make_directory(server.pgdata.parent / "space")
    with server.connect() as connection:
        connection.execute("CREATE TABLESPACE inside LOCATION ''")
        connection.execute(f"CREATE TABLESPACE outside LOCATION '{space}'")
        for name in ("inside", "outside"):
            connection.execute(
                f"CREATE TABLE {name} TABLESPACE {name} AS SELECT 'from {name}' AS t"
            )
    target = tmp_path / "data"
    restore(back_up(server, tmp_path / "repo"), target, f"{space}={tmp_path / 'new'}")
    assert {
        stat.S_IMODE(path.lstat().st_mode)
        for path in (target, *target.rglob("*"))
        if not path.is_symlink()
    } == {0o750, 0o640}
    with Cluster.open_existing(target, major) as restored:
        restored.account.give(tmp_path / "new")
        restored.start()
        for name in ("inside", "outside"):
            assert restored.sql(f"SELECT t FROM {name}") == [(f"from {name}",)]


def test_a_server_goes_on_with_a_restore_command_to_the_end_of_wal(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    archive = tmp_path / "it's an archive"
    server = cluster_factory(
        major,
        start=False,
        settings={"archive_mode": True, "archive_command": f'cp %p "{archive}/%f"'},
    )
    server.account.make_directory(archive)
    server.start()
    # A recovery of the source's own past must not decide where this one ends.
    server.sql("ALTER SYSTEM SET recovery_target_name = 'long ago'")
    server.sql("CREATE TABLE t AS SELECT 1 AS n")
    repository = back_up(server, tmp_path / "repo")
    server.sql("INSERT INTO t VALUES (2)")
    last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    server.poll_until(f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver")
    target = tmp_path / "data"
    latest = RecoveryTarget(TargetKind.END_OF_WAL)
    recovery = Recovery(latest, restore_command=f'cp "{archive}/%f" "%p"')
    restore(repository, target, recovery=recovery)
    with Cluster.open_existing(target, major, settings={"archive_mode": False}) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", expected=False)
        assert restored.sql("SELECT sum(n) FROM t") == [(3,)]
        assert restored.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(2,)]
