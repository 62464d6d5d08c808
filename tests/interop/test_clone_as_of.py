"""Stock pg_basebackup alone makes a clone as of a moment: rows committed before, and no others."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pgbackup.serve.listener import user_name
from tests.account import program_environment
from tests.archiving.test_servers import archiving, switch, wait_until_archived
from tests.binaries import nearest_client
from tests.cli.program import begin, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import wait_for

pytestmark = pytest.mark.interop
TIMEOUT = 120
SETTING = {"time": "pgbackup.target_time", "lsn": "pgbackup.target_lsn"}


@dataclass
class Served:
    """A served repository with two backups.

    moments: by how many rows were committed before, the time and the position.
    backups: as listed, by how many rows are in them.
    """

    directory: Path
    socket: Path
    major: int
    moments: dict[int, dict[str, str]] = field(default_factory=dict)
    backups: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.directory / "repo"

    def client(self, name: str, settings: str, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a stock client, with settings for its start-up."""
        program = nearest_client(name, self.major)
        return subprocess.run(
            [program, "-h", self.socket, "-U", user_name(), *map(str, words)],
            env={**program_environment(), "PGOPTIONS": settings},
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip

    def clone(self, target: Path, settings: str, *words: object) -> None:
        done = self.client("pg_basebackup", settings, "-D", target, "--no-sync", *words)
        assert done.returncode == 0, done.stderr

    def rows(self, data: Path) -> int:
        """Start what was cloned, on the timeline that it is of; how many rows there are."""
        off = {"archive_mode": "off"}
        with Cluster.open_existing(data, self.major, as_caller=True, settings=off) as server:
            server.start()
            assert server.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(1,)]
            rows = [row[0] for row in server.sql("SELECT n FROM t ORDER BY n")]
            server.sql("INSERT INTO t VALUES (0)")
        assert rows == list(range(1, len(rows) + 1))
        return len(rows)


def build(made: Served, server: Cluster) -> None:
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


@contextmanager
def served(directory: Path, server: Cluster) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="pgb-serve-") as run_directory:
        made = Served(directory, Path(run_directory) / "socket", server.major)
        build(made, server)
        running = begin(directory, "serve", "-B", made.repo, "--listen", made.socket)
        wait_for(lambda: made.socket.exists() and list(made.socket.iterdir()))
        try:
            yield made
        finally:
            running.send(signal.SIGTERM)
            assert running.wait().status == 0


@pytest.mark.parametrize("major", [13, 18])
def test_a_clone_has_the_rows_of_its_moment_and_no_others(
    cluster_factory: ClusterFactory, tmp_path: Path, major: int
) -> None:
    settings = archiving(tmp_path / "repo")
    server = cluster_factory(major, as_caller=True, settings=settings)
    with served(tmp_path, server) as scene:
        for kind, number, wal in (
            ("time", 2, "stream"),
            ("lsn", 6, "stream"),
            ("time", 5, "fetch"),
            ("lsn", 1, "fetch"),
        ):
            target = tmp_path / f"{kind}-{number}"
            moment = scene.moments[number][kind].replace(" ", "\\ ")
            scene.clone(target, f"-c {SETTING[kind]}={moment}", "-X", wal)
            label = (target / "backup_label").read_text()
            assert scene.rows(target) == number
            newest = scene.backups[max(each for each in scene.backups if each < number)]
            assert f"START WAL LOCATION: {newest['start_lsn']} " in label
        standby = tmp_path / "standby"
        scene.clone(standby, f"-c pgbackup.target_lsn={scene.moments[6]['lsn']}", "-R")
        assert scene.moments[6]["lsn"] in (standby / "postgresql.auto.conf").read_text()
        last = scene.client(
            "pg_basebackup", "-c pgbackup.target_time=2001-01-01", "-D", tmp_path / "none"
        )
        assert last.returncode == 1
        assert "FATAL:  could not reach time 2001-01-01" in last.stderr
        assert "HINT:  See what can be reached" in last.stderr
        assert not (tmp_path / "none").exists()
