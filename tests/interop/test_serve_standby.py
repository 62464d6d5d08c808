"""Real standbys of every major clone from a repository that is served, and follow it.

A receiver in another process archives what the primary writes. PGBACKUP_STANDBY_ROUNDS says how
often everything is interrupted in every way; without it each major goes through some of them.
"""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from tests.binaries import CLIENT_MAJORS, server_majors
from tests.cli.program import Running, begin, succeed
from tests.cluster import Cluster, Settings
from tests.fix_cluster import ClusterFactory
from tests.interop.servers import check_structure
from tests.interop.serving import Serving
from tests.interop.twotimelines import fail_over
from tests.waiting import wait_for

pytestmark = pytest.mark.interop
ROUNDS = int(os.environ.get("PGBACKUP_STANDBY_ROUNDS", "0"))
SLOT = "follower"
MIB = 1 << 20
SETTINGS: Settings = {
    "hot_standby": True,
    "recovery_target_timeline": "latest",
    "wal_retrieve_retry_interval": "100ms",
}


class Archive:
    """A receiver that goes wherever the primary is, until the end of a with block."""

    def __init__(self, directory: Path, repo: Path, *servers: Cluster) -> None:
        self._directory = directory
        hosts = ",".join(str(each.run_directory) for each in servers)
        ports = ",".join(str(each.port) for each in servers)
        where = f"host={hosts} port={ports} user=postgres target_session_attrs=read-write"
        self._words = ("-B", repo, "-d", where, "--wait", "30", "--synchronous")
        self._running: Running | None = None

    def __enter__(self) -> "Archive":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def start(self) -> None:
        self._running = begin(self._directory, "receive-wal", *self._words)

    def end(self, how: signal.Signals) -> None:
        assert self._running is not None
        self._running.send(how)
        self._running.process.wait()


class Follower:
    """A standby whose primary is what we serve."""

    def __init__(self, server: Cluster) -> None:
        self.server = server
        self._numbers = itertools.count(1)

    def follow(self, primary: Cluster) -> None:
        """Have the primary write, and wait until the standby shows it."""
        number = next(self._numbers)
        primary.sql(f"INSERT INTO t SELECT {number}, repeat('x', 1000) FROM generate_series(1, 50)")
        self.server.poll_until(f"SELECT count(*) FROM t WHERE n = {number}", 50)

    def receiver(self) -> int:
        """The process that streams now."""
        self.server.poll_until("SELECT status FROM pg_stat_wal_receiver", "streaming")
        return int(self.server.sql("SELECT pid FROM pg_stat_wal_receiver")[0][0])

    def check(self, primary: Cluster) -> None:
        query = "SELECT n, count(*), sum(length(x)) FROM t GROUP BY n ORDER BY n"
        assert self.server.sql(query) == primary.sql(query)


@contextmanager
def following(directory: Path, serving: Serving, major: int, way: str) -> Iterator[Follower]:
    """A new standby.

    way: cloned by a stock client; restored by ourselves; or that with a temporary slot.
    """
    target = directory / "standby"
    restore = ("restore", "-q", "-D", target, "-B", serving.repo, "--restore-command", "false")
    restore += ("-R", "-d", serving.conninfo())
    settings = dict(SETTINGS)
    if way == "cloned":
        words = ("-D", target, "-X", "stream", "-R", "-C", "-S", SLOT, "--no-sync")
        serving.succeed("pg_basebackup", *words)
    elif way == "restored":
        serving.succeed("pg_receivewal", "--create-slot", "-S", SLOT)
        succeed(directory, *restore, "-S", SLOT)
        settings["hot_standby_feedback"] = True
    else:
        succeed(directory, *restore)
        settings["wal_receiver_create_temp_slot"] = True
    with Cluster.open_existing(target, major, as_caller=True, settings=settings) as server:
        server.start()
        yield Follower(server)


def ways() -> list[tuple[int, str]]:
    """How a standby of each major comes to be."""
    short = [(each, "cloned" if each in CLIENT_MAJORS else "restored") for each in server_majors()]
    if not ROUNDS:
        return short
    return short + [
        (major, way)
        for major in server_majors()
        for way in ("restored", "temporary")
        if (major, way) not in short
    ]


@pytest.mark.parametrize(("major", "way"), ways())
def test_a_standby_follows_through_restarts_and_a_failover(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, way: str
) -> None:
    primary = cluster_factory(major)
    primary.sql("CREATE TABLE t (n int, x text)")
    repo = tmp_path / "repo"
    succeed(tmp_path, "backup", "-B", repo, "-d", primary.conninfo(), "-c", "fast", "-q")
    heir = primary.standby(primary.pgdata.parent / "heir")
    with (
        heir,
        Archive(tmp_path, repo, primary, heir) as archive,
        Serving(tmp_path, repo, major) as serving,
    ):
        heir.start()
        before, after = interruptions(serving, archive, major)
        with following(tmp_path, serving, major, way) as follower:
            follower.follow(primary)
            for interrupt in before:
                interrupt()
                follower.follow(primary)
            receiver = follower.receiver()
            fail_over(primary, heir)
            follower.follow(heir)
            follower.server.poll_until("SELECT received_tli FROM pg_stat_wal_receiver", 2)
            assert follower.receiver() == receiver, follower.server.log_tail()
            for interrupt in after:
                interrupt()
            follower.follow(heir)
            follower.server.promote()
            follower.check(heir)
            follower.server.sql("INSERT INTO t VALUES (0, 'promoted')")
            check_structure(follower.server)
    check_slots(tmp_path, repo, [] if way == "temporary" else [SLOT])


@pytest.mark.parametrize("major", [13, 18])
def test_a_standby_goes_on_where_a_record_was_never_completed(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    primary.sql("CREATE TABLE t (n int, x text)")
    repo = tmp_path / "repo"
    succeed(tmp_path, "backup", "-B", repo, "-d", primary.conninfo(), "-c", "fast", "-q")
    with Archive(tmp_path, repo, primary):
        primary.sql("INSERT INTO t VALUES (0, 'before')")
        begin_of_record = insert_lsn(primary)
        primary.sql("SELECT pg_logical_emit_message(false, '', repeat('x', 3500000))")
        end = insert_lsn(primary)
        wait_for(lambda: last_segment(tmp_path, repo) >= segment_of(end).number - 1)
    lose(repo, behind=segment_of(begin_of_record).next())
    target = tmp_path / "heir"
    succeed(tmp_path, "restore", "-q", "-D", target, "-B", repo, "--target-latest")
    with Cluster.open_existing(target, major, as_caller=True, settings=SETTINGS) as heir:
        heir.start()
        heir.poll_until("SELECT pg_is_in_recovery()", False)
        history = (heir.pgdata / "pg_wal" / "00000002.history").read_text()
        assert segment_of(Lsn.parse(history.split("\t")[1])) == segment_of(begin_of_record)
        with (
            Archive(tmp_path, repo, heir),
            Serving(tmp_path, repo, major) as serving,
            following(tmp_path, serving, major, "restored") as follower,
        ):
            follower.follow(heir)
            follower.server.poll_until("SELECT received_tli FROM pg_stat_wal_receiver", 2)
            follower.check(heir)
            follower.server.promote()
            check_structure(follower.server)


def insert_lsn(server: Cluster) -> Lsn:
    return Lsn.parse(server.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])


def segment_of(lsn: Lsn) -> Segment:
    return Segment.containing(Timeline(1), lsn, MIB)


def last_segment(directory: Path, repo: Path) -> int:
    """The number of the last whole segment that is archived; 0 if there is none yet."""
    listed = succeed(directory, "wal", "list", "-B", repo, "--json").document["timelines"]
    stretches = listed[0]["stretches"] if listed else []
    return Segment.parse(stretches[-1]["last"], MIB).number if stretches else 0


def lose(repo: Path, behind: Segment) -> None:
    """Let everything go that was archived behind a segment, as if it had never come."""
    for path in repo.glob("*/wal/0*"):
        if path.name[:24] > behind.name:
            path.unlink()
    for path in repo.glob("*/.receive-wal.positions"):
        path.unlink()


def interruptions(
    serving: Serving, archive: Archive, major: int
) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
    """What happens to the two processes that a standby depends on, before and after a failover."""

    def restart_serve() -> None:
        serving.stop()
        serving.start()

    def crash_serve() -> None:
        serving.kill()
        serving.start()

    def restart_receiver() -> None:
        archive.end(signal.SIGTERM)
        archive.start()

    def crash_receiver() -> None:
        archive.end(signal.SIGKILL)
        archive.start()

    pairs = [restart_serve, crash_receiver], [crash_serve, restart_receiver]
    if ROUNDS:
        return (pairs[0] + pairs[1]) * ROUNDS, pairs[0] + pairs[1]
    return pairs[major % 2], pairs[1 - major % 2][:1]


def check_slots(directory: Path, repo: Path, names: list[str]) -> None:
    """The slots that are left have moved with their standbys, to the new timeline."""
    slots = succeed(directory, "slot", "show", "-B", repo, "--json").document["slots"]
    assert [each["slot_name"] for each in slots] == names
    assert [each["restart_tli"] for each in slots] == [2] * len(names)
