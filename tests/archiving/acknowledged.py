"""Commits that a client saw, and the proof that an archive has them all.

What was acknowledged is there: `wal verify` and `wal gaps` find nothing, and a server that is
restored to the end of the archive, the unfinished segment included, holds every row.
"""

import itertools
import shlex
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import psycopg

from tests.cli import program
from tests.cluster import Cluster

TABLE = "CREATE TABLE IF NOT EXISTS seen (number int PRIMARY KEY, content text)"
PAUSE = 0.002
"""Seconds between two commits of a thread; together they write a few megabytes a second."""

RETRY_INTERVAL = 0.05
"""Seconds between attempts to reach a server that is down."""


class Commits:
    """Threads that commit numbered rows while the block lasts, whatever becomes of the server.

    numbers: of the rows whose commit was acknowledged.
    """

    def __init__(self, server: Cluster, workers: int = 3, first: int = 0) -> None:
        """Touch nothing yet. The table must be there, and no row from the first number on."""
        self._server = server
        self._next = itertools.count(first)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(workers)]
        self.numbers: list[int] = []

    def __enter__(self) -> "Commits":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._commit()
            except psycopg.OperationalError:
                self._stop.wait(RETRY_INTERVAL)

    def _commit(self) -> None:
        with self._server.connect(connect_timeout=5) as connection:
            while not self._stop.is_set():
                number = next(self._next)
                connection.execute("INSERT INTO seen VALUES (%s, repeat('x', 1500))", [number])
                self.numbers.append(number)
                self._stop.wait(PAUSE)


def back_up(tmp_path: Path, server: Cluster) -> None:
    """Take the backup that `expect_restored` begins with, the table of rows in it."""
    server.sql(TABLE)
    words = ("-B", tmp_path / "repo", "-d", server.conninfo(), "-c", "fast", "-q")
    program.succeed(tmp_path, "backup", *words)


def hook(verb: str, repo: Path, *rest: str) -> str:
    """A command for postgresql.conf."""
    words = ["env", f"PYTHONPATH={program.ROOT}", sys.executable, "-m", "pgbackup"]
    return " ".join([*map(shlex.quote, [*words, verb, "-B", str(repo)]), *rest])


def expect_clean(tmp_path: Path) -> None:
    """Nothing is missing in the archive, and every record chains that was not read before."""
    for command in ("verify", "gaps"):
        program.succeed(tmp_path, "wal", command, "-B", tmp_path / "repo")


def expect_restored(tmp_path: Path, server: Cluster, numbers: Iterable[int]) -> str:
    """Restore, let the new server recover through wal-get, and look for every row.

    Returns: the log of the new server.
    """
    repo, place = tmp_path / "repo", server.pgdata.parents[1] / "restored"
    command = hook("wal-get", repo, "--partial", "%f", "%p")
    words = ("-B", repo, "-D", place, "--restore-command", command, "-q")
    program.succeed(tmp_path, "restore", *words)
    settings = {"synchronous_standby_names": "", "archive_mode": "off"}
    with Cluster.open_existing(place, server.major, as_caller=True, settings=settings) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        there = {row[0] for row in restored.sql("SELECT number FROM seen")}
        log = restored.log
    shutil.rmtree(place)
    assert there
    assert not set(numbers) - there
    return log


def expect_archived(tmp_path: Path, server: Cluster, numbers: Iterable[int]) -> None:
    """The archive is clean, and a server restored from it has every row."""
    expect_clean(tmp_path)
    expect_restored(tmp_path, server, numbers)
