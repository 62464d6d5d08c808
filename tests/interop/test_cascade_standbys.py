"""Cascaded synchronous commit with real standbys: nothing acknowledged is lost on the quorum."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.archiving.acknowledged import TABLE
from tests.archiving.receiver.receiving import KEEP, load
from tests.cluster import Cluster, Settings
from tests.fix_cluster import ClusterFactory
from tests.interop.cascading import (
    IS_LONG,
    PATIENCE,
    RELAY,
    WAITING,
    WORKERS,
    committing,
    expect_standstill,
    go_on,
    majors,
    relaying,
    wait_for_the_relay,
    write_on,
)
from tests.serve.relaying import NAME, Relay

pytestmark = pytest.mark.interop

SETTINGS: Settings = {
    "recovery_target_timeline": "latest",
    "wal_retrieve_retry_interval": "100ms",
    "synchronous_standby_names": "",
}
SECOND = 1_000_000
"""The first number of a row that is written to a second primary."""

ANY, BOTH = "ANY 1 (s1, s2)", "FIRST 2 (s1, s2)"


class Cascade(NamedTuple):
    """heir: a standby of the primary's own, for a failover."""

    primary: Cluster
    relay: Relay
    s1: Cluster
    s2: Cluster
    heir: Cluster | None

    def kill9(self) -> None:
        """Everything at once, as nearly as can be."""
        self.relay.kill9()
        for each in (self.s1, self.s2, self.primary, self.heir):
            if each is not None:
                each.kill9()


@contextmanager
def cascade(
    factory: ClusterFactory, major: int, directory: Path, quorum: str, *, has_heir: bool = False
) -> Iterator[Cascade]:
    """Two standbys of a relay, which started; nobody waits for it yet."""
    primary = factory(major, settings=KEEP, as_caller=True)
    primary.sql(TABLE)
    place = primary.pgdata.parent
    with ExitStack() as stack:
        heir = None
        if has_heir:
            settings = {**SETTINGS, "synchronous_standby_names": NAME}
            heir = stack.enter_context(primary.standby(place / "heir", settings=settings))
            heir.start()
        relay = stack.enter_context(relaying(directory, primary, upstream(primary, heir), quorum))
        relay.wait_until_serving()
        standbys = []
        for name in ("s1", "s2"):
            settings = {**SETTINGS, "primary_conninfo": relay.conninfo(name)}
            standby = primary.standby(place / name, settings=settings)
            standbys.append(stack.enter_context(standby))
            standby.start()
        yield Cascade(primary, relay, *standbys, heir)


def upstream(*servers: Cluster | None) -> str:
    """How to get to whichever is the primary."""
    known = [each for each in servers if each is not None]
    hosts = ",".join(str(each.run_directory) for each in known)
    ports = ",".join(str(each.port) for each in known)
    return f"host={hosts} port={ports} user=postgres target_session_attrs=read-write"


def rows(standby: Cluster) -> set[int]:
    """What a standby that was killed has when it takes over."""
    standby.start()
    standby.promote()
    standby.poll_until("SELECT pg_is_in_recovery()", False, timeout=PATIENCE)
    return {row[0] for row in standby.sql("SELECT number FROM seen")}


@pytest.mark.parametrize("major", majors(18))
def test_no_acknowledged_commit_is_lost_on_either_standby(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    with cascade(cluster_factory, major, tmp_path, ANY) as all_of_it:
        primary, relay, s1, s2, _ = all_of_it
        wait_for_the_relay(primary)
        with committing(primary) as commits:
            for each in (s1, s2):
                go_on(commits)
                each.kill9()
                go_on(commits)
                each.start()
            s1.kill9()
            s2.kill9()
            expect_standstill(tmp_path, primary, commits, clients=0)
            s2.start()
            go_on(commits)
            relay.kill9()
            relay.start()
            go_on(commits)
            s1.start()
            go_on(commits)
            all_of_it.kill9()
        numbers = set(commits.numbers)
        assert not numbers - max(rows(s1), rows(s2), key=len)


@pytest.mark.parametrize("major", majors(13))
def test_no_acknowledged_commit_is_lost_on_any_of_both_standbys(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    with cascade(cluster_factory, major, tmp_path, BOTH) as all_of_it:
        primary, _, s1, s2, _ = all_of_it
        wait_for_the_relay(primary)
        with committing(primary) as commits:
            for each in (s1, s2):
                go_on(commits)
                each.kill9()
                expect_standstill(tmp_path, primary, commits, clients=1)
                each.start()
            go_on(commits)
            all_of_it.kill9()
        for each in (s1, s2):
            assert not set(commits.numbers) - rows(each)


@pytest.mark.parametrize("major", majors(14))
def test_commits_that_wait_for_remote_apply_wait_for_the_quorum(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    with cascade(cluster_factory, major, tmp_path, ANY) as (primary, _, s1, s2, _):
        primary.sql("ALTER SYSTEM SET synchronous_commit = remote_apply")
        wait_for_the_relay(primary)
        for each in (s1, s2):
            each.sql("SELECT pg_wal_replay_pause()")
        with committing(primary) as commits:
            primary.poll_until(WAITING, WORKERS, timeout=PATIENCE)
            end = write_on(primary)
            primary.poll_until(f"SELECT flush_lsn >= '{end}' {RELAY}", timeout=PATIENCE)
            assert primary.sql(WAITING) == [(WORKERS,)]
            assert not commits.numbers
            s2.sql("SELECT pg_wal_replay_resume()")
            go_on(commits)


@pytest.mark.parametrize("major", majors(17))
def test_standbys_are_waited_for_on_the_timeline_of_a_new_primary(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    with cascade(cluster_factory, major, tmp_path, BOTH, has_heir=True) as all_of_it:
        primary, _, s1, s2, heir = all_of_it
        assert heir is not None
        wait_for_the_relay(primary)
        with committing(primary) as before:
            go_on(before)
        receiver = s2.sql("SELECT pid FROM pg_stat_wal_receiver")
        primary.stop()
        s1.kill9()
        heir.promote()
        with committing(heir, first=SECOND) as commits:
            s2.poll_until("SELECT received_tli FROM pg_stat_wal_receiver", 2, timeout=PATIENCE)
            assert s2.sql("SELECT pid FROM pg_stat_wal_receiver") == receiver
            expect_standstill(tmp_path, heir, commits, clients=1)
            assert not commits.numbers
            s1.start()
            go_on(commits)
            all_of_it.kill9()
        for each in (s1, s2):
            assert not set(before.numbers + commits.numbers) - rows(each)


@pytest.mark.parametrize("megabytes", [0, 3] if IS_LONG else [0])
@pytest.mark.parametrize("major", majors(15))
def test_a_standby_that_is_ahead_of_a_new_primary_does_not_count(
    cluster_factory: ClusterFactory, major: int, megabytes: int, tmp_path: Path
) -> None:
    with cascade(cluster_factory, major, tmp_path, ANY, has_heir=True) as all_of_it:
        primary, relay, _, s2, heir = all_of_it
        assert heir is not None
        wait_for_the_relay(primary)
        with committing(primary) as lost:
            go_on(lost)
            heir.stop()
            load(primary, megabytes)
            go_on(lost)
            primary.kill9()
        heir.start()
        heir.promote()
        with committing(heir, first=SECOND) as commits:
            expect_standstill(tmp_path, heir, commits)
            assert not commits.numbers
            settings = {**SETTINGS, "primary_conninfo": relay.conninfo("s2")}
            with heir.standby(s2.pgdata.parents[1] / "anew", settings=settings) as anew:
                anew.start()
                go_on(commits)
                all_of_it.kill9()
                anew.kill9()
                assert not set(commits.numbers) - rows(anew)
