"""Real servers stop where they were told to, on random targets over several timelines.

PGBACKUP_TARGETS sets how many targets are tried on each server.
"""

import os
import random
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.archiving.test_servers import archiving, switch, wait_until_archived
from tests.cli.program import Answer, run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

pytestmark = pytest.mark.interop

TARGETS = int(os.environ.get("PGBACKUP_TARGETS", "12"))
TIMELINES = 4
SHOWN = "2026-11-22 16:42:00"


@dataclass
class Moment:
    """A commit of the table t, and everything that it can be named by.

    rows: what a server has that stops behind it; before: one that stops in front of it.
    """

    timeline: int
    rows: frozenset[int]
    before: frozenset[int]
    time: str
    xid: int
    start: str
    end: str
    name: str


@dataclass
class Scene:
    """An archive with several timelines, and what was committed on each.

    backups: the rows that are in each backup.
    """

    directory: Path
    major: int
    moments: list[Moment] = field(default_factory=list)
    backups: dict[str, tuple[int, frozenset[int]]] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.directory / "repo"

    def restore(self, *words: object) -> Answer:
        shutil.rmtree(self.directory / "data", ignore_errors=True)
        return run(
            self.directory, "restore", "-B", self.repo, "-D", self.directory / "data", *words
        )

    def back_up(self, server: Cluster, timeline: int, rows: frozenset[int]) -> None:
        words = ("backup", "-d", server.conninfo(), "-c", "fast", "-B", self.repo)
        label = re.search(r"backup (\S+) of", succeed(self.directory, *words).err)
        assert label is not None
        self.backups[label[1]] = (timeline, rows)

    def rows(self, words: tuple[object, ...]) -> frozenset[int]:
        """Restore, recover to the target, and look."""
        answer = self.restore(*words)
        assert answer.status == 0, f"{words}: {answer.err}"
        return self.found(words)

    def found(self, words: object) -> frozenset[int]:
        settings = {"archive_mode": "off"}
        with Cluster.open_existing(
            self.directory / "data", self.major, as_caller=True, settings=settings
        ) as server:
            server.start()
            server.poll_until(
                "SELECT NOT pg_is_in_recovery() OR pg_get_wal_replay_pause_state() = 'paused'"
                if self.major >= 14
                else "SELECT NOT pg_is_in_recovery() OR pg_is_wal_replay_paused()"
            )
            return frozenset(row[0] for row in server.sql("SELECT n FROM t"))


def commit(server: Cluster, timeline: int, number: int, rows: frozenset[int]) -> Moment:
    """Add a row in a transaction of its own, with a restore point behind it."""
    with server.connect() as connection:
        start = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        xid = connection.execute(
            "INSERT INTO t VALUES (%s) RETURNING txid_current()", (number,)
        ).fetchone()
        end = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        name = f"point {number}"
        connection.execute("SELECT pg_create_restore_point(%s)", (name,))
        assert start is not None
        assert xid is not None
        assert end is not None
        time = connection.execute(
            "SELECT pg_xact_commit_timestamp(xmin)::text FROM t WHERE n = %s", (number,)
        ).fetchone()
        assert time is not None
    return Moment(
        timeline, rows | {number}, rows, time[0], xid[0], start[0], end[0], name
    )  # fmt: skip


def work(scene: Scene, server: Cluster, timeline: int, rows: frozenset[int]) -> frozenset[int]:
    """Commit rows on a timeline, in several segments, with a backup in the middle."""
    for step in range(1, 9):
        moment = commit(server, timeline, 100 * timeline + step, rows)
        scene.moments.append(moment)
        rows = moment.rows
        if step % 3 == 0:
            switch(server)
        if step == 4 and timeline in (1, 3):
            scene.back_up(server, timeline, rows)
    commit(server, timeline, 100 * timeline + 50, rows)  # so that the last moment can be passed
    wait_until_archived(server, switch(server))
    return rows


def build(scene: Scene, cluster_factory: ClusterFactory, source: random.Random) -> None:
    """Make timelines, each by a recovery to a moment of an earlier one."""
    settings = archiving(scene.repo) | {"track_commit_timestamp": True}
    server = cluster_factory(scene.major, as_caller=True, settings=settings)
    server.sql("CREATE TABLE t (n int)")
    scene.back_up(server, 1, frozenset())
    work(scene, server, 1, frozenset())
    server.stop()
    for timeline in range(2, TIMELINES + 1):
        fork = source.choice([each for each in scene.moments if each.timeline == timeline - 1])
        words = ("--target-name", fork.name, "--target-action", "promote")
        answer = scene.restore(*words)
        assert answer.status == 0, answer.err
        with Cluster.open_existing(
            scene.directory / "data", scene.major, as_caller=True
        ) as restored:
            restored.start()
            restored.poll_until("SELECT pg_is_in_recovery()", False)
            work(scene, restored, timeline, fork.rows)
            restored.stop()


def aim(moment: Moment, source: random.Random) -> tuple[tuple[object, ...], frozenset[int]]:
    """A target at a moment, and the rows that must be there."""
    exclusive = source.random() < 0.5
    kind = source.choice(["time", "lsn", "xid", "name"])
    words: tuple[object, ...]
    if kind == "name":
        words, expected = ("--target-name", moment.name), moment.rows
    elif kind == "xid":
        words, expected = ("--target-xid", moment.xid), moment.rows
    elif kind == "time":
        words, expected = ("--target-time", moment.time), moment.rows
    else:
        # Behind the commit; the record that begins there is the restore point.
        words, expected = ("--target-lsn", moment.end), moment.rows
    if exclusive and kind != "name":
        words += ("--target-exclusive",)
        if kind in ("xid", "time"):
            expected = moment.before
    elif kind != "name" and source.random() < 0.5:
        words += ("--target-inclusive",)
    return (*words, "--target-timeline", moment.timeline), expected


@pytest.mark.slow
@pytest.mark.parametrize("major", [13, 18], ids=lambda major: f"pg{major}")
def test_random_targets_over_several_timelines_give_exactly_the_committed_prefix(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    source = random.Random(major)
    scene = Scene(tmp_path, major)
    build(scene, cluster_factory, source)
    for _ in range(TARGETS - 2):
        words, expected = aim(source.choice(scene.moments), source)
        assert scene.rows(words) == expected, shlex.join(map(str, words))
    for label, (_, expected) in source.sample(sorted(scene.backups.items()), 2):
        assert scene.rows((label, "--target-immediate")) == expected
    check_unreachable(scene)


def check_unreachable(scene: Scene) -> None:
    """Targets out of reach are refused before a byte is written, with a nearest one that works."""
    newest = scene.moments[-1]
    for words in (
        ("--target-time", "2100-01-01 00:00:00+00"),
        ("--target-time", "2001-01-01 00:00:00+00"),
        ("--target-lsn", "FF/0"),
        ("--target-lsn", "0/28"),
        ("--target-xid", newest.xid + 100_000),
        ("--target-name", "never made"),
    ):
        answer = scene.restore(*words)
        assert (answer.status, (scene.directory / "data").exists()) == (9, False), words
        nearest = shlex.split(option(answer))
        found = scene.rows(tuple(nearest))
        expected = scene.backups[nearest[0]][1] if nearest[0] in scene.backups else None
        assert found == expected if expected is not None else found >= newest.rows, words


def option(answer: Answer) -> str:
    """The first words of a hint that can be typed."""
    hint = next(line for line in answer.lines if line.startswith("HINT: "))
    found = re.search(
        r"(?:\d{8}T\d{6}F )?--target-(?:(?:latest|immediate)|\S+ (?:\"[^\"]*\"|[^ ;]+))"
        r"(?: --target-timeline \d+)?",
        hint,
    )
    assert found is not None, hint
    return found[0]
