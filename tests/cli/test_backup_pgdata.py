"""backup --pgdata: a data directory on this host, read by ourselves, is a backup like any other."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.backup.pgdata.pgdata import make_pgdata
from tests.cli.program import Answer, begin, command, environment, run
from tests.cluster import Cluster, client_bin
from tests.fix_cluster import ClusterFactory
from tests.waiting import wait_for


def back_up(server: Cluster, repo: Path, *options: str) -> Answer:
    words = ("--pgdata", str(server.pgdata), "-d", server.conninfo(), "-c", "fast")
    return run(repo.parent, "backup", *words, "-B", str(repo), *options)


def test_it_is_verified_restored_and_started(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    space = server.account.make_directory(server.pgdata.parent / "space")
    server.sql(f"CREATE TABLESPACE apart LOCATION '{space}'")
    server.sql("CREATE TABLE far TABLESPACE apart AS SELECT generate_series(1, 50000) AS n")
    server.sql("CREATE UNLOGGED TABLE gone AS SELECT generate_series(1, 1000) AS n")
    repo, target = tmp_path / "repo", tmp_path / "data"
    said = back_up(server, repo, "--json", "-l", "it's local", "-j", "2")
    assert said.status == 0, said.err
    document = said.document["backup"]
    assert document["comment"] == "it's local"
    assert document["page_checksum_failures"] is False
    assert [each["location"] for each in document["tablespaces"]] == [str(space)]
    verified = run(tmp_path, "verify", "-B", str(repo))
    assert verified.status == 0, verified.out
    moved = f"{space}={tmp_path / 'space'}"
    restored = run(tmp_path, "restore", "-B", str(repo), "-D", str(target), "-T", moved)
    assert restored.status == 0, restored.err
    with Cluster.open_existing(target, major) as copy:
        copy.account.give(tmp_path / "space")
        copy.start()
        assert copy.sql("SELECT sum(n) FROM far") == [(1_250_025_000,)]
        assert copy.sql("SELECT count(*) FROM gone") == [(0,)]


@pytest.mark.interop
@pytest.mark.parametrize("major", [13, 15, 18])
def test_one_stream_holds_everything(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n")
    target = tmp_path / "data"
    target.mkdir(mode=0o700)
    words = ("--pgdata", str(server.pgdata), "-d", server.conninfo(), "-c", "fast", "-D", "-")
    with subprocess.Popen(
        command("backup", *words), env=environment(), stdout=subprocess.PIPE
    ) as backup:
        subprocess.run(["tar", "x", "-C", target], stdin=backup.stdout, check=True)
    assert backup.returncode == 0
    if major > 13:
        subprocess.run([client_bin("pg_verifybackup", major), "-q", target], check=True)
    with Cluster.open_existing(target, major) as copy:
        copy.start()
        assert copy.sql("SELECT sum(n) FROM t") == [(5_000_050_000,)]


def test_a_damaged_page_is_told_and_kept(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(15)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n")
    (name,) = server.sql("SELECT pg_relation_filepath('t')")[0]
    server.stop()
    with (server.pgdata / name).open("r+b") as file:
        file.seek(3 * 8192 + 4000)
        file.write(b"damaged!")
    server.start()
    repo = tmp_path / "repo"
    said = back_up(server, repo)
    assert said.status == 10
    expected = f'WARNING: checksum verification failed in file "./{name}", block 3: calculated '
    assert expected in said.err
    listed = run(tmp_path, "list", "-B", str(repo), "--json").document
    assert [each["page_checksum_failures"] for each in listed["backups"]] == [True]
    assert run(tmp_path, "verify", "-B", str(repo)).status == 0
    verified = run(tmp_path, "verify", "--pages", "-B", str(repo))
    assert verified.status == 7
    assert expected.removeprefix("WARNING: ").replace("./", "") in verified.out.decode()
    assert back_up(server, repo, "--no-verify-checksums").status == 0


def test_another_directory_than_the_server_s_is_refused(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server, other = cluster_factory(15), cluster_factory(15)
    words = ("--pgdata", str(other.pgdata), "-d", server.conninfo())
    said = run(tmp_path, "backup", *words, "-B", str(tmp_path / "repo"))
    assert said.status == 8
    assert "could not back up data directory" in said.err
    assert not (tmp_path / "repo").exists()


def test_direct_reads_and_other_checksums_make_the_same_backup(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(17)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n")
    for number, options in enumerate(
        [
            ("--direct-io", "-Z", "none"),
            ("--direct-io", "--manifest-checksums", "SHA256"),
            ("--manifest-checksums", "none", "-r", "500M"),
        ]
    ):
        repo = tmp_path / str(number)
        said = back_up(server, repo, *options)
        assert said.status == 0, said.err
        verified = run(tmp_path, "verify", "-B", str(repo))
        assert verified.status == 0, verified.out


def test_a_repository_in_the_data_directory_is_refused(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    said = run(pgdata, "backup", "--pgdata", ".")
    assert said.status == 2
    assert "it lies in the data directory" in said.err
    assert not (pgdata / "pgbackup-repo").exists()


def test_direct_io_is_for_data_directories_alone(tmp_path: Path) -> None:
    said = run(tmp_path, "backup", "--direct-io", "-B", str(tmp_path / "repo"))
    assert said.status == 2
    assert "--direct-io needs --pgdata" in said.err


def test_a_stopped_server_is_backed_up_without_a_connection(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    space = server.account.make_directory(server.pgdata.parent / "space")
    server.sql(f"CREATE TABLESPACE apart LOCATION '{space}'")
    server.sql("CREATE TABLE far TABLESPACE apart AS SELECT generate_series(1, 50000) AS n")
    server.sql("CREATE UNLOGGED TABLE kept AS SELECT generate_series(1, 1000) AS n")
    server.stop()
    repo, target = tmp_path / "repo", tmp_path / "data"
    said = run(tmp_path, "backup", "--pgdata", str(server.pgdata), "-B", str(repo), "-h", "/none")
    assert said.status == 0, said.err
    verified = run(tmp_path, "verify", "-B", str(repo))
    assert verified.status == 0, verified.out
    moved = f"{space}={tmp_path / 'space'}"
    restored = run(tmp_path, "restore", "-B", str(repo), "-D", str(target), "-T", moved)
    assert restored.status == 0, restored.err
    with Cluster.open_existing(target, major) as copy:
        copy.account.give(tmp_path / "space")
        copy.start()
        assert copy.sql("SELECT sum(n) FROM far") == [(1_250_025_000,)]
        assert copy.sql("SELECT count(*) FROM kept") == [(1000,)]
        assert "was not properly shut down" not in copy.log_tail()


@pytest.mark.parametrize("major", [13, 18])
def test_recovery_goes_on_from_the_backup_of_a_stopped_server(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={"wal_keep_size": "64MB"})
    server.sql("CREATE UNLOGGED TABLE gone AS SELECT generate_series(1, 1000) AS n")
    server.stop()
    repo, target = tmp_path / "repo", tmp_path / "data"
    said = run(tmp_path, "backup", "--pgdata", str(server.pgdata), "-B", str(repo))
    assert said.status == 0, said.err
    server.start()
    server.sql("CREATE TABLE later AS SELECT generate_series(1, 1000) AS n")
    lsn = server.sql("SELECT pg_create_restore_point('here')")[0][0]
    server.sql("SELECT pg_switch_wal()")
    (last,) = server.sql(f"SELECT pg_walfile_name('{lsn}')")[0]
    for name in sorted(path.name for path in (server.pgdata / "pg_wal").glob("0*")):
        if name <= last:
            pushed = run(server.pgdata, "wal-push", "-B", str(repo), f"pg_wal/{name}")
            assert pushed.status == 0, pushed.err
    words = ("-B", str(repo), "-D", str(target), "--target-name", "here")
    restored = run(tmp_path, "restore", *words, "--target-action", "promote")
    assert restored.status == 0, restored.err
    with Cluster.open_existing(target, major, as_caller=True) as copy:
        copy.start()
        copy.poll_until("SELECT NOT pg_is_in_recovery()")
        assert copy.sql("SELECT count(*) FROM later") == [(1000,)]
        assert copy.sql("SELECT count(*) FROM gone") == [(0,)]


def test_a_stopped_standby_is_backed_up(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(18)
    with server.standby(tmp_path / "standby") as standby:
        standby.start()
        server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n")
        position = server.sql("SELECT pg_current_wal_lsn()")[0][0]
        standby.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
        standby.stop()
        repo, target = tmp_path / "repo", tmp_path / "data"
        said = run(tmp_path, "backup", "--pgdata", str(standby.pgdata), "-B", str(repo))
        assert said.status == 0, said.err
    verified = run(tmp_path, "verify", "-B", str(repo))
    assert verified.status == 0, verified.out
    restored = run(tmp_path, "restore", "-B", str(repo), "-D", str(target))
    assert restored.status == 0, restored.err
    with Cluster.open_existing(target, 18) as copy:
        copy.start()
        assert copy.sql("SELECT sum(n) FROM t") == [(5_000_050_000,)]


def test_a_crashed_server_is_no_stopped_one(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(18)
    server.stop("immediate")
    words = ("--pgdata", str(server.pgdata), "-d", server.conninfo())
    said = run(tmp_path, "backup", *words, "-B", str(tmp_path / "repo"))
    assert said.status == 3
    assert not (tmp_path / "repo").exists()


def test_an_interrupt_leaves_nothing(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(15)
    repo = tmp_path / "repo"
    words = ("--pgdata", server.pgdata, "-d", server.conninfo(), "-c", "fast", "-r", "32")
    running = begin(tmp_path, "backup", *words, "-B", repo)
    wait_for(lambda: list(repo.glob("*/backups/*/*")))
    running.send(signal.SIGINT)
    answer = running.wait()
    assert answer.status == 130
    assert "interrupted by SIGINT" in answer.err
    assert not list(repo.glob("*/backups/*"))
    server.poll_until(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbackup'", 0
    )
