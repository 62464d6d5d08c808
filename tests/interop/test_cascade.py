"""Cascaded synchronous commit: a primary waits for a relay, and that for one of two receivers."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.account import program_environment
from tests.archiving.acknowledged import TABLE, Commits
from tests.archiving.receiver.receiving import KEEP
from tests.binaries import client_bin
from tests.cli import program
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.serve.relaying import NAME, Relay
from tests.waiting import wait_for

pytestmark = pytest.mark.interop

WORKERS = 3
SOME = 25
PATIENCE = 90.0
"""Seconds for anything here: a pg_receivewal that lost its server tries again after five."""

WAITING = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
RELAY = f"FROM pg_stat_replication WHERE application_name = '{NAME}'"


class Receivers:
    """pg_receivewal --synchronous by name, each with a directory; they can be killed."""

    def __init__(self, directory: Path, relay: Relay) -> None:
        self._directory = directory
        self._relay = relay
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        self.place(name).mkdir(exist_ok=True)
        self._running[name] = subprocess.Popen(
            [
                client_bin("pg_receivewal", 17), "-D", self.place(name), "--synchronous",
                "--no-loop", "-d", self._relay.conninfo(name),
            ],
            env=program_environment(), stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill9(self, *names: str) -> None:
        for name in names or tuple(self._running):
            process = self._running.pop(name)
            process.kill()
            process.wait()

    def place(self, name: str) -> Path:
        return self._directory / name


@contextmanager
def cascade(tmp_path: Path, primary: Cluster, quorum: str) -> Iterator[tuple[Relay, Receivers]]:
    """A primary whose commits wait for a relay that waits for a quorum."""
    words = ("--synchronous-standby-names", quorum)
    with Relay(tmp_path, primary.conninfo(), *words) as relay:
        primary.poll_until(f"SELECT write_lsn IS NOT NULL {RELAY}")
        receivers = Receivers(tmp_path, relay)
        try:
            yield relay, receivers
        finally:
            receivers.kill9()


def wait_for_the_relay(primary: Cluster) -> None:
    primary.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
    primary.reload()
    primary.poll_until("SHOW synchronous_standby_names", NAME)


def go_on(commits: Commits) -> None:
    seen = len(commits.numbers)
    wait_for(lambda: len(commits.numbers) > seen + SOME, PATIENCE)


def expect_standstill(tmp_path: Path, primary: Cluster, commits: Commits) -> None:
    """All clients wait, though the relay itself has the WAL of their commits."""

    def clients() -> object:
        answer = program.succeed(tmp_path, "status", "-B", tmp_path / "repo", "--json")
        return answer.document["systems"][0]["clients"]

    def is_still() -> bool:
        seen = len(commits.numbers)
        write_on(primary)
        return primary.sql(WAITING) == [(WORKERS,)] and len(commits.numbers) == seen

    wait_for(lambda: not clients(), PATIENCE)
    wait_for(is_still, PATIENCE)
    end = write_on(primary)
    assert primary.sql(f"SELECT flush_lsn < '{end}' {RELAY}") == [(True,)]


def write_on(primary: Cluster) -> str:
    """Write without waiting, until the relay reports that it has it; where WAL ends then."""
    primary.sql(
        "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'test', 'more')"
    )
    end = str(primary.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])
    primary.poll_until(f"SELECT write_lsn >= '{end}' {RELAY}", timeout=PATIENCE)
    return end


def held(places: list[Path], target: Path) -> Path:
    """Every segment as the one of several receivers has it that has more of it."""
    target.mkdir()
    names = {path.name.removesuffix(".partial") for place in places for path in place.iterdir()}
    for name in names:
        paths = [place / name for place in places] + [place / f"{name}.partial" for place in places]
        contents = [path.read_bytes() for path in paths if path.exists()]
        (target / name).write_bytes(max(contents, key=lambda data: len(data.rstrip(b"\0"))))
    return target


def expect_rows(tmp_path: Path, primary: Cluster, wal: Path, numbers: list[int]) -> None:
    """A backup and the WAL in a directory, of which nothing is ours, have every row."""
    place = primary.pgdata.parents[1] / "restored"
    words = ("-B", tmp_path / "base", "-D", place, "--restore-command", f"cp {wal}/%f %p", "-q")
    program.succeed(tmp_path, "restore", *words)
    with Cluster.open_existing(place, primary.major, as_caller=True) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False, timeout=PATIENCE)
        there = {row[0] for row in restored.sql("SELECT number FROM seen")}
    shutil.rmtree(place)
    assert not set(numbers) - there


@pytest.mark.parametrize("major", [17])
def test_no_acknowledged_commit_is_lost_on_the_quorum(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    primary = cluster_factory(major, settings=KEEP)
    primary.sql(TABLE)
    words = ("-B", tmp_path / "base", "-d", primary.conninfo(), "-c", "fast", "-q")
    program.succeed(tmp_path, "backup", *words)
    with cascade(tmp_path, primary, "ANY 1 (s1, s2)") as (relay, receivers):
        receivers.start("s1")
        receivers.start("s2")
        wait_for_the_relay(primary)
        with Commits(primary, WORKERS) as commits:
            go_on(commits)
            receivers.kill9("s1")
            go_on(commits)
            receivers.kill9("s2")
            expect_standstill(tmp_path, primary, commits)
            receivers.start("s1")
            go_on(commits)
            receivers.start("s2")
            go_on(commits)
            relay.kill9()
            receivers.kill9()
            primary.kill9()
        wal = held([receivers.place("s1"), receivers.place("s2")], tmp_path / "held")
        expect_rows(tmp_path, primary, wal, commits.numbers)
