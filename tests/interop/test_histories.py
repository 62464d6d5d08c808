"""On random histories, `windows` agrees with what recovery really reaches.

PGBACKUP_HISTORIES says how many there are for each of two majors.
"""

import os
import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn
from pgbackup.pg.walrecord import from_datetime, to_datetime
from pgbackup.repo.moments.survey import Survey, commit_before, read_survey
from pgbackup.repo.moments.windows import Window
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from tests.archiving.test_servers import archiving, hook, wait_until_archived
from tests.cli.program import succeed
from tests.cluster import Cluster, ClusterError, Settings
from tests.fix_cluster import ClusterFactory

pytestmark = [pytest.mark.interop, pytest.mark.slow]

HISTORIES = int(os.environ.get("PGBACKUP_HISTORIES", "1"))
TARGETS = 3  # of each history
SETTINGS = {"fsync": False, "autovacuum": False, "max_prepared_transactions": 4}


class History:
    """A cluster that lives a random life, and its repository."""

    def __init__(self, factory: ClusterFactory, major: int, base: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.major = major
        self.base = base
        self.repo = base / "repo"
        self.server = factory(major, as_caller=True, settings={**archiving(self.repo), **SETTINGS})
        self.server.sql("CREATE TABLE t (n int)")
        self._targets = 0

    def live(self) -> None:
        """Do what a cluster can go through, then lose a segment or not."""
        self.back_up()
        steps = [self.commit, self.commit, self.switch, self.switch, self.name, self.back_up]
        for _ in range(self.random.randint(2, 3)):
            for _ in range(self.random.randint(3, 7)):
                self.random.choice(steps)()
            if self.random.random() < 0.7:
                self.recover()
            self.commit()
        self.switch()
        self.server.stop()
        segments = sorted(self.repo.glob("*/wal/*0*.zst")) or sorted(self.repo.glob("*/wal/*0*"))
        segments = [each for each in segments if len(each.name.partition(".")[0]) == 24]
        if self.random.random() < 0.4:
            self.random.choice(segments[1:-1] or segments).unlink()

    def commit(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.server.sql("INSERT INTO t SELECT generate_series(1, 100)")
        if self.random.random() < 0.3:
            self.server.sql("BEGIN; INSERT INTO t VALUES (0); ROLLBACK")

    def switch(self) -> None:
        name = self.server.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")[0][0]
        self.server.sql("INSERT INTO t VALUES (1); SELECT pg_switch_wal()")
        wait_until_archived(self.server, name)

    def name(self) -> None:
        self.server.sql(f"SELECT pg_create_restore_point('point {self.random.random()}')")

    def back_up(self) -> None:
        succeed(self.base, "backup", "-d", self.server.conninfo(), "-c", "fast", "-B", self.repo)

    def recover(self) -> None:
        """Go on from some moment, on a new timeline."""
        self.switch()
        self.server.stop()
        _, survey = self.survey()
        window = self.random.choice([each for each in survey.windows if each.is_reachable])
        settings: dict[str, str | int | float | bool] = {
            "recovery_target_action": "promote",
            "recovery_target_timeline": str(int(window.timeline)),
        }
        if window.last_record is not None and self.random.random() < 0.7:
            lsn = self.random.randint(window.start.lsn, window.last_record)
            settings["recovery_target_lsn"] = str(Lsn(lsn))
        self.server = self.restore(window, settings)
        self.server.start()
        self.server.poll_until("SELECT pg_is_in_recovery()", False)

    def survey(self) -> tuple[ClusterRepository, Survey]:
        cluster = Repository.open(LocalStorage(self.repo)).only_cluster()
        return cluster, read_survey(cluster)

    def restore(self, window: Window, settings: Settings) -> Cluster:
        """Restore a backup. settings: they come behind those that restore writes, and beat them."""
        self._targets += 1
        target = self.base / f"data{self._targets}"
        words = ["restore", "-q", "-B", self.repo, "-D", target, window.label]
        get = hook("wal-get", self.repo, "%f", "%p")
        succeed(self.base, *words, "--restore-command", get)
        with (target / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        return Cluster.open_existing(target, self.major, as_caller=True)

    def reach(self, window: Window, target: dict[str, str]) -> datetime | None:
        """Recover to a target; the time of the last commit or abort.

        Raises: ClusterError if the server refuses.
        """
        settings = {
            "recovery_target_timeline": str(int(window.timeline)),
            "recovery_target_action": "pause",
            "archive_mode": "off",
            **target,
        }
        with self.restore(window, settings) as server:
            server.start()
            server.poll_until("SELECT pg_is_wal_replay_paused()")
            time: datetime | None = server.sql("SELECT pg_last_xact_replay_timestamp()")[0][0]
            return time


@pytest.mark.parametrize("seed", range(HISTORIES))
@pytest.mark.parametrize("major", [13, 18], ids=["pg13", "pg18"])
def test_windows_are_what_recovery_reaches(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, seed: int
) -> None:
    history = History(cluster_factory, major, tmp_path, 1000 * major + seed)
    history.live()
    cluster, survey = history.survey()
    assert survey.unread == ()
    usable = [each for each in survey.windows if each.is_reachable and each.last_record]
    source = history.random
    for window in source.sample(usable, min(TARGETS, len(usable))):
        assert window.last_record is not None
        kind = source.choice(["lsn", "last", "behind", "time", "early", "late"])
        if window.before_time is None or window.after_time is None:
            kind = source.choice(["lsn", "last", "behind"])
        elif window.after_time >= window.before_time:
            kind = "late"
        print(kind, window)
        if kind in ("lsn", "last", "behind"):
            lsn = source.randint(window.start.lsn, window.last_record)
            lsn = {"lsn": lsn, "last": window.last_record, "behind": window.last_record + 1}[kind]
            settings = {"recovery_target_lsn": str(Lsn(lsn))}
            assert (Lsn(lsn) in window) == (kind != "behind")
            if kind == "behind":
                with pytest.raises(ClusterError, match="before configured recovery target"):
                    history.reach(window, settings)
            else:
                history.reach(window, settings)
            continue
        assert window.after_time is not None
        assert window.before_time is not None
        span = (window.before_time - window.after_time) // timedelta(microseconds=1)
        time = window.after_time + timedelta(microseconds=source.randrange(max(span, 1)))
        time = {"time": time, "early": window.after_time, "late": window.before_time}[kind]
        settings = {"recovery_target_time": time.isoformat()}
        if kind == "late":
            with pytest.raises(ClusterError, match="before configured recovery target"):
                history.reach(window, settings)
            continue
        expected = commit_before(
            cluster, survey.timelines, survey.index, window, from_datetime(time)
        )
        reached = history.reach(window, settings)
        if expected is not None:
            assert reached is not None
            assert to_datetime(expected.time) <= reached <= time
