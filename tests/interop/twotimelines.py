"""A repository whose cluster has been failed over: a backup, and WAL of two timelines."""

from dataclasses import dataclass
from pathlib import Path

from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

MIB = 1 << 20
OLD, NEW = Timeline(1), Timeline(2)


@dataclass(frozen=True)
class TwoTimelines:
    """What is in the archive.

    switch: where the second timeline begins, within a segment.
    end:    behind the last whole segment.
    """

    repo: Path
    cluster: ClusterRepository
    old: list[Segment]
    new: list[Segment]
    switch: Lsn

    @property
    def end(self) -> Lsn:
        return self.new[-1].end

    def read(self, segment: Segment) -> bytes:
        return self.cluster.archive.read(segment.name)

    @property
    def history(self) -> bytes:
        return self.cluster.archive.read(NEW.history_name)


def make_two_timelines(factory: ClusterFactory, major: int, directory: Path) -> TwoTimelines:
    """Back up a server, write, fail over and write again; a receiver catches up each time."""
    repo = directory / "repo"
    primary = factory(major)
    primary.sql("CREATE TABLE t (n int, x text)")
    succeed(directory, "backup", "-q", "-B", repo, "-d", primary.conninfo(), "-c", "fast")
    with primary.standby(primary.pgdata.parent / "heir") as heir:
        heir.start()
        for server in (primary, heir):
            if server is heir:
                fail_over(primary, heir)
            server.sql("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 2500) n")
            words = ("-q", "-B", repo, "-d", server.conninfo(), "--synchronous", "--once")
            succeed(directory, "receive-wal", *words)
    return read_two_timelines(repo)


def fail_over(primary: Cluster, heir: Cluster) -> None:
    """Have a standby take over with all that was written."""
    ((position,),) = primary.sql("SELECT pg_current_wal_lsn()::text")
    heir.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
    primary.stop()
    heir.promote()


def read_two_timelines(repo: Path) -> TwoTimelines:
    cluster = Repository.open(LocalStorage(repo)).only_cluster()
    segments = [each.name.segment(MIB) for each in cluster.archive.segments()]
    history = TimelineHistory.parse(NEW, cluster.archive.read(NEW.history_name))
    return TwoTimelines(
        repo,
        cluster,
        [each for each in segments if each.timeline == OLD],
        [each for each in segments if each.timeline == NEW],
        history.switch_from(OLD),
    )
