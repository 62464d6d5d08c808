"""A primary whose commits wait for a relay, which waits for a quorum of its own clients.

PGBACKUP_CASCADES=all has the tests of this run on every major, and not on few of them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.archiving.acknowledged import Commits
from tests.binaries import server_majors
from tests.cli import program
from tests.cluster import Cluster
from tests.serve.relaying import NAME, Relay
from tests.waiting import wait_for

IS_LONG = os.environ.get("PGBACKUP_CASCADES") == "all"
WORKERS = 3
SOME = 25
PATIENCE = 90.0
"""Seconds for anything here: a pg_receivewal that lost its server tries again after five."""

WAITING = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
RELAY = f"FROM pg_stat_replication WHERE application_name = '{NAME}'"


def majors(*few: int) -> list[int]:
    """The majors to run on: few of them, or all."""
    chosen = server_majors()
    return chosen if IS_LONG else [each for each in few if each in chosen]


@contextmanager
def relaying(directory: Path, primary: Cluster, upstream: str, quorum: str) -> Iterator[Relay]:
    """A relay of a quorum, connected to the primary. upstream: how it gets there, and elsewhere."""
    with Relay(directory, upstream, "--synchronous-standby-names", quorum) as relay:
        primary.poll_until(f"SELECT write_lsn IS NOT NULL {RELAY}", timeout=PATIENCE)
        yield relay


def wait_for_the_relay(primary: Cluster) -> None:
    """Have commits wait for it from now on."""
    primary.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
    primary.reload()
    primary.poll_until("SHOW synchronous_standby_names", NAME)


@contextmanager
def committing(primary: Cluster, first: int = 0) -> Iterator[Commits]:
    """Commits while the block lasts; a failure ends those that wait, with their server."""
    with Commits(primary, WORKERS, first) as commits:
        try:
            yield commits
        except BaseException:
            primary.kill9()
            raise


def go_on(commits: Commits) -> None:
    """See commits acknowledged, those that waited first."""
    seen = len(commits.numbers)
    wait_for(lambda: len(commits.numbers) > seen + SOME, PATIENCE)


def expect_standstill(
    tmp_path: Path, primary: Cluster, commits: Commits, clients: int | None = None
) -> None:
    """All commits wait, though the relay itself has their WAL. clients: that it still has."""

    def connected() -> int:
        answer = program.succeed(tmp_path, "status", "-B", tmp_path / "repo", "--json")
        return len(answer.document["systems"][0]["clients"])

    def is_still() -> bool:
        seen = len(commits.numbers)
        write_on(primary)
        return primary.sql(WAITING) == [(WORKERS,)] and len(commits.numbers) == seen

    if clients is not None:
        wait_for(lambda: connected() == clients, PATIENCE)
    wait_for(is_still, PATIENCE)
    end = write_on(primary)
    assert primary.sql(f"SELECT coalesce(flush_lsn, '0/0') < '{end}' {RELAY}") == [(True,)]


def write_on(primary: Cluster) -> str:
    """Write without waiting, until the relay reports that it has it; where WAL ends then."""
    primary.sql(
        "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'test', 'more')"
    )
    end = str(primary.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])
    primary.poll_until(f"SELECT write_lsn >= '{end}' {RELAY}", timeout=PATIENCE)
    return end
