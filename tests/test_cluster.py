"""The test servers themselves: every later test on a real server rests on these."""

import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.binaries import CLIENT_MAJORS, INSTALL_SCRIPT, MAJORS, install
from tests.cluster import Cluster, ClusterError, MissingProgram, client_bin, server_majors
from tests.fix_cluster import ClusterFactory

SYSTEM_IDENTIFIER = "SELECT system_identifier::text FROM pg_control_system()"


def test_a_cluster_is_of_the_major_asked_for(cluster: Cluster, major: int) -> None:
    assert cluster.sql("SELECT 1; SELECT current_setting('server_version_num')::int / 10000") == [
        (major,)
    ]
    assert cluster.sql("SHOW wal_segment_size") == [("1MB",)]
    assert cluster.sql("SHOW data_checksums") == [("on",)]


def test_a_replication_connection_names_the_system(cluster: Cluster) -> None:
    with cluster.connect(replication=True) as connection:
        row = connection.execute("IDENTIFY_SYSTEM").fetchone()
    assert row is not None
    assert row[0].decode() == cluster.sql(SYSTEM_IDENTIFIER)[0][0]
    assert row[1] == 1


def test_pgbench_fills_and_amcheck_checks(cluster: Cluster) -> None:
    cluster.pgbench_init()
    run = cluster.pgbench(clients=2, transactions=20)
    output, _ = run.communicate(timeout=60)
    assert "40/40" in output
    cluster.sql("CREATE EXTENSION amcheck")
    cluster.sql("SELECT bt_index_check('pgbench_accounts_pkey', heapallindexed => true)")
    assert cluster.sql("SELECT count(*) FROM pgbench_history") == [(40,)]


def test_a_killed_cluster_starts_again_with_everything_committed(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    cluster.kill9()
    assert not cluster.running
    cluster.start()
    assert "database system was not properly shut down" in cluster.log
    assert cluster.sql("SELECT sum(n) FROM t") == [(500500,)]


def test_a_standby_follows_and_is_promoted(cluster: Cluster) -> None:
    with cluster.standby(cluster.pgdata.parent / "standby") as standby:
        standby.start()
        cluster.sql("CREATE TABLE t AS SELECT 42 AS n")
        standby.poll_until("SELECT to_regclass('t') IS NOT NULL")
        assert standby.sql("SELECT n FROM t") == [(42,)]
        assert cluster.sql("SELECT application_name FROM pg_stat_replication") == [("standby",)]
        standby.promote()
        assert standby.sql("SELECT pg_is_in_recovery()") == [(False,)]


def test_a_copied_data_directory_is_opened_where_it_lies(cluster: Cluster, tmp_path: Path) -> None:
    cluster.sql("CREATE TABLE t AS SELECT 42 AS n")
    cluster.stop()
    copy = tmp_path / "deep" / "restored"
    shutil.copytree(cluster.pgdata, copy)
    copy.chmod(0o755)
    with Cluster.open_existing(copy, cluster.major, settings={"work_mem": "1MB"}) as restored:
        restored.start()
        assert restored.sql("SELECT n FROM t") == [(42,)]
        assert restored.sql("SHOW work_mem") == [("1MB",)]
        assert restored.pid is not None
    assert not restored.running
    assert not restored.run_directory.exists()


def test_clusters_from_one_template_are_different_systems(
    cluster_factory: ClusterFactory, major: int
) -> None:
    first, second = cluster_factory(major), cluster_factory(major)
    assert first.sql(SYSTEM_IDENTIFIER) != second.sql(SYSTEM_IDENTIFIER)
    for cluster in (first, second):
        cluster.kill9()
        cluster.start()
        assert "different database system" not in cluster.log


def test_options_of_initdb_are_passed_on(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(
        MAJORS[-1],
        wal_segsize_mb=64,
        checksums=False,
        allow_group_access=True,
        settings={"log_line_prefix": "it's ", "wal_level": "logical"},
    )
    assert cluster.sql("SHOW wal_segment_size") == [("64MB",)]
    assert cluster.sql("SHOW data_checksums") == [("off",)]
    assert cluster.sql("SHOW data_directory_mode") == [("0750",)]
    assert cluster.sql("SHOW log_line_prefix") == [("it's ",)]
    assert cluster.sql("SHOW wal_level") == [("logical",)]


def test_tcp_listens_on_the_loopback_address_only_when_asked(
    cluster_factory: ClusterFactory,
) -> None:
    open_one, closed = cluster_factory(MAJORS[-1], tcp=True), cluster_factory(MAJORS[-1])
    with psycopg.connect(open_one.conninfo("postgres", host="127.0.0.1")) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
    assert closed.sql("SHOW listen_addresses") == [("",)]


def test_a_server_as_caller_runs_this_python_as_archive_command(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir(mode=0o700)
    copy = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
    cluster = cluster_factory(
        MAJORS[-1],
        as_caller=True,
        settings={
            "archive_mode": True,
            "archive_command": f'{sys.executable} -c "{copy}" %p {archive}/%f',
        },
    )
    name = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    cluster.poll_until("SELECT last_archived_wal FROM pg_stat_archiver", name)
    assert (archive / name).stat().st_size == 1 << 20


def test_a_server_that_cannot_start_shows_its_log(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(MAJORS[-1], start=False, settings={"max_connections": "none"})
    with pytest.raises(ClusterError, match='invalid value for parameter "max_connections"'):
        cluster.start()
    assert not cluster.running


def test_polling_gives_up_and_says_what_it_saw(newest_cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="'SELECT 1' gave 1 instead of 2 for 0 s"):
        newest_cluster.poll_until("SELECT 1", 2, timeout=0)


@pytest.mark.interop
@pytest.mark.parametrize("major", [m for m in CLIENT_MAJORS if m in server_majors()])
@pytest.mark.parametrize("name", ["pg_basebackup", "pg_receivewal", "pg_verifybackup", "psql"])
def test_a_client_program_is_of_exactly_the_major_asked_for(name: str, major: int) -> None:
    install(major)
    answer = subprocess.run(
        [client_bin(name, major), "--version"], capture_output=True, text=True, check=True
    )
    assert f"{name} (PostgreSQL) {major}." in answer.stdout


def test_a_missing_program_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGBACKUP_PG_CACHE", str(tmp_path))
    with pytest.raises(MissingProgram, match="run scripts/install-postgres 18"):
        client_bin("pg_no_such_program", 18)


@pytest.mark.parametrize(
    ("chosen", "at_least", "expected"),
    [
        pytest.param("", 13, list(MAJORS), id="all by default"),
        pytest.param("18, 15", 13, [15, 18], id="some"),
        pytest.param("13,17,18", 17, [17, 18], id="new enough"),
    ],
)
def test_the_environment_limits_the_majors(
    monkeypatch: pytest.MonkeyPatch, chosen: str, at_least: int, expected: list[int]
) -> None:
    monkeypatch.setenv("PGBACKUP_TEST_MAJORS", chosen)
    assert server_majors(at_least) == expected


def test_an_unknown_major_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGBACKUP_TEST_MAJORS", "15,12")
    with pytest.raises(ValueError, match="'12' is none of 13, 14"):
        server_majors()


@pytest.mark.slow
def test_a_failing_test_reports_the_log_and_leaves_no_server(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_it(newest_cluster):\n"
        "    print('PGDATA', newest_cluster.pgdata)\n"
        "    newest_cluster.sql('SELECT no_such_column')\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.fix_cluster", "-c", "/dev/null",
         "--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base"),
         str(tmp_path / "test_it.py")],
        cwd=INSTALL_SCRIPT.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
    assert 'ERROR:  column "no_such_column" does not exist' in run.stdout
    (pgdata,) = (line.split()[1] for line in run.stdout.splitlines() if line.startswith("PGDATA"))
    assert not Path(pgdata).exists()


@pytest.mark.server
@pytest.mark.parametrize(
    "name", ["demo", "a-name-too-long-for-a-socket" * 4], ids=["short", "long"]
)
def test_the_command_makes_starts_asks_and_stops(name: str, tmp_path: Path) -> None:
    install(MAJORS[-1])
    directory = tmp_path / name

    def run(*words: str) -> str:
        command = [sys.executable, str(INSTALL_SCRIPT.with_name("cluster")), *words]
        return subprocess.check_output(command, text=True).strip()

    conninfo = run("create", str(directory), "--segsize", "1", "--set", "work_mem=2MB")
    try:
        assert run("conninfo", str(directory)) == conninfo
        run("stop", str(directory))
        assert run("start", str(directory)) == conninfo
        assert run("sql", str(directory), "SELECT 1, current_setting('work_mem')") == "1\t2MB"
    finally:
        run("stop", str(directory))
    with Cluster.attach(directory) as cluster:
        assert not cluster.running
        shutil.rmtree(cluster.run_directory)
