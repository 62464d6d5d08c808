"""Stock pg_basebackup alone makes a clone as of a moment: rows committed before, and no others."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.archiving.test_servers import archiving, switch, wait_until_archived
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.serving import Serving

pytestmark = pytest.mark.interop
SETTING = {"time": "pgbackup.target_time", "lsn": "pgbackup.target_lsn"}


@dataclass
class Scene:
    """A repository with two backups.

    moments: by how many rows were committed before, the time and the position.
    backups: as listed, by how many rows are in them.
    """

    directory: Path
    moments: dict[int, dict[str, str]] = field(default_factory=dict)
    backups: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.directory / "repo"


def rows(data: Path, major: int) -> int:
    """Start what was cloned, on the timeline that it is of; how many rows there are."""
    off = {"archive_mode": "off"}
    with Cluster.open_existing(data, major, as_caller=True, settings=off) as server:
        server.start()
        assert server.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(1,)]
        found = [row[0] for row in server.sql("SELECT n FROM t ORDER BY n")]
        server.sql("INSERT INTO t VALUES (0)")
    assert found == list(range(1, len(found) + 1))
    return len(found)


def check_standby(data: Path, major: int, end: str) -> None:
    """It follows, and gets no further than to the moment."""
    with Cluster.open_existing(data, major, as_caller=True) as server:
        server.start()
        server.poll_until("SELECT latest_end_lsn::text FROM pg_stat_wal_receiver", end)
        server.poll_until("SELECT count(*) FROM t", 6)
        assert server.sql("SELECT pg_is_in_recovery()") == [(True,)]


def clone(serving: Serving, target: Path, settings: str, *words: object) -> None:
    done = serving.client("pg_basebackup", "-D", target, "--no-sync", *words, settings=settings)
    assert done.returncode == 0, done.stderr


def build(made: Scene, server: Cluster) -> None:
    """Commit seven rows, some in one segment, with backups before the first and after the third."""
    server.sql("CREATE TABLE t (n int)")
    with server.connect() as connection:
        for number in range(8):
            if number in (0, 3):
                words = ("backup", "-d", server.conninfo(), "-c", "fast", "-B", made.repo, "-q")
                succeed(made.directory, *words)
                listed = succeed(made.directory, "list", "-B", made.repo, "--json").document
                made.backups[number] = listed["backups"][-1]
            found = connection.execute(
                "SELECT clock_timestamp()::text, pg_current_wal_insert_lsn()::text"
            ).fetchone()
            assert found is not None
            made.moments[number] = dict(zip(("time", "lsn"), found, strict=True))
            if number == 6:
                # a transaction that is open at the moment, and is not in the clone
                connection.execute("BEGIN")
                connection.execute("INSERT INTO t VALUES (7)")
                found = connection.execute(
                    "SELECT clock_timestamp()::text, pg_current_wal_insert_lsn()::text"
                ).fetchone()
                assert found is not None
                made.moments[6] = dict(zip(("time", "lsn"), found, strict=True))
                connection.execute("COMMIT")
                break
            connection.execute("INSERT INTO t VALUES (%s)", (number + 1,))
            if number in (1, 4):
                connection.execute("SELECT pg_switch_wal()")
    wait_until_archived(server, switch(server))


@pytest.mark.parametrize("major", [13, 18])
def test_a_clone_has_the_rows_of_its_moment_and_no_others(
    cluster_factory: ClusterFactory, tmp_path: Path, major: int
) -> None:
    settings = archiving(tmp_path / "repo")
    server = cluster_factory(major, as_caller=True, settings=settings)
    scene = Scene(tmp_path)
    build(scene, server)
    with Serving(tmp_path, scene.repo, major) as serving:
        for kind, number, wal in (
            ("time", 2, "stream"),
            ("lsn", 6, "stream"),
            ("time", 5, "fetch"),
            ("lsn", 1, "fetch"),
        ):
            target = tmp_path / f"{kind}-{number}"
            moment = scene.moments[number][kind].replace(" ", "\\ ")
            clone(serving, target, f"-c {SETTING[kind]}={moment}", "-X", wal)
            label = (target / "backup_label").read_text()
            assert rows(target, major) == number
            newest = scene.backups[max(each for each in scene.backups if each < number)]
            assert f"START WAL LOCATION: {newest['start_lsn']} " in label
        standby = tmp_path / "standby"
        clone(serving, standby, f"-c pgbackup.target_lsn={scene.moments[6]['lsn']}", "-R")
        assert scene.moments[6]["lsn"] in (standby / "postgresql.auto.conf").read_text()
        if major == 18:  # what a client of a newer major has written is not for its server
            check_standby(standby, major, scene.moments[6]["lsn"])
        none = tmp_path / "none"
        settings_of_none = "-c pgbackup.target_time=2001-01-01"
        last = serving.client("pg_basebackup", "-D", none, settings=settings_of_none)
        assert last.returncode == 1
        assert "FATAL:  could not reach time 2001-01-01" in last.stderr
        assert "HINT:  See what can be reached" in last.stderr
        assert not none.exists()
