"""The receiver's slot in danger: watched, capped, lost, and shadowed on other servers."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbackup.pg.lsn import Lsn
from pgbackup.replication.published import read_positions
from tests.cli.program import Answer, Running, begin, run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import wait_for

MAJORS = pytest.mark.parametrize("major", [13, 16, 18])
ONE_MAJOR = pytest.mark.parametrize("major", [17])
RESTART = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'own'"

Receive = Callable[..., Running]


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Receive]:
    """Starts receivers with the slot "own", looked at often; those left are killed at the end."""
    started: list[Running] = []

    def start(conninfo: str, *arguments: object) -> Running:
        words = ("-d", conninfo, "-S", "own", "--slot-interval", "0.2", *arguments)
        started.append(begin(tmp_path, "receive-wal", *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def once(tmp_path: Path, server: Cluster, *arguments: object) -> Answer:
    words = ("-d", server.conninfo(), "-S", "own", *arguments)
    return run(tmp_path, "receive-wal", "--once", *words)


def told(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in tmp_path.glob("*.err"))


def end(running: Running) -> None:
    running.send(signal.SIGTERM)
    answer = running.wait()
    assert answer.status == 0, answer.err


def write_segments(server: Cluster, count: int) -> None:
    for _ in range(count):
        server.sql("SELECT pg_logical_emit_message(false, 'test', repeat(md5('x'), 9000))")
        server.sql("SELECT pg_switch_wal()")


def holes(tmp_path: Path) -> list[dict[str, Any]]:
    """What `wal gaps` finds."""
    answer = run(tmp_path, "wal", "gaps", "--json")
    found = answer.document["holes"]
    assert answer.status == (9 if found else 0), answer.err
    assert isinstance(found, list)
    return found


def begin_archive(cluster_factory: ClusterFactory, major: int, tmp_path: Path) -> Cluster:
    """A server with a slot, and an archive that is up to date."""
    server = cluster_factory(major)
    assert once(tmp_path, server, "-C").status == 0
    write_segments(server, 1)
    assert once(tmp_path, server).status == 0
    return server


def lose_slot(server: Cluster) -> None:
    """Let the server remove WAL that the slot holds and the archive has not."""
    server.configure({"max_slot_wal_keep_size": "2MB"})
    server.reload()
    write_segments(server, 5)
    server.sql("CHECKPOINT")
    server.poll_until("SELECT wal_status FROM pg_replication_slots", "lost")


# -- lost WAL ----------------------------------------------------------------------------------


@MAJORS
def test_a_lost_slot_is_a_gap_that_can_be_accepted(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = begin_archive(cluster_factory, major, tmp_path)
    lose_slot(server)
    for _ in range(2):
        answer = once(tmp_path, server)
        assert answer.status == 9
        message, hint = answer.error()
        assert 'slot "own" was lost' in message
        assert "already been removed" in message
        for way in ("wal fill", "--accept-gap", "new backup"):
            assert way in hint
    (hole,) = holes(tmp_path)
    assert [known["is_accepted"] for known in hole["known"]] == [False]
    assert 'slot "own" was lost' in run(tmp_path, "wal", "gaps").out.decode()
    assert once(tmp_path, server, "--accept-gap").status == 0
    server.poll_until("SELECT wal_status FROM pg_replication_slots", "reserved")
    write_segments(server, 3)
    assert once(tmp_path, server).status == 0, "the gap is behind it for good"
    (hole,) = holes(tmp_path)
    (known,) = hole["known"]
    assert (hole["first"], hole["last"]) == (known["first"], known["last"])
    assert known["is_accepted"]
    succeed(tmp_path, "wal", "verify", "--all")


@ONE_MAJOR
def test_what_a_lost_slot_has_not_cost_is_no_gap(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={"wal_keep_size": "3MB"})
    assert once(tmp_path, server, "-C").status == 0
    conninfo = server.conninfo()
    server.configure({"max_slot_wal_keep_size": "2MB"})
    server.reload()
    for _ in range(6):
        write_segments(server, 1)
        succeed(tmp_path, "receive-wal", "--once", "-d", conninfo)
    server.sql("CHECKPOINT")
    server.poll_until("SELECT wal_status FROM pg_replication_slots", "lost")
    answer = once(tmp_path, server)
    assert answer.status == 0, answer.err
    assert 'slot "own" was lost; made anew' in answer.err
    assert holes(tmp_path) == []


@MAJORS
def test_without_a_slot_too_a_gap_can_be_accepted(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    to = ("receive-wal", "--once", "-d", server.conninfo())
    succeed(tmp_path, *to)
    write_segments(server, 1)
    succeed(tmp_path, *to)
    for _ in range(4):
        write_segments(server, 1)
        server.sql("CHECKPOINT")
    assert run(tmp_path, *to).status == 9
    answer = succeed(tmp_path, *to, "--accept-gap")
    assert "going on behind a gap" in answer.err
    write_segments(server, 1)
    succeed(tmp_path, *to)
    (hole,) = holes(tmp_path)
    assert hole["known"][0]["is_accepted"]
    succeed(tmp_path, "wal", "verify", "--all")


# -- the guard ---------------------------------------------------------------------------------


@ONE_MAJOR
def test_a_slot_over_its_cap_is_told_once(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    succeed(tmp_path, "slot", "create", "own", "--reserve-wal", "-d", server.conninfo())
    write_segments(server, 6)
    running = receive(server.conninfo(), "--slot-cap", "3MB")
    wait_for(lambda: "within its cap again" in told(tmp_path))
    end(running)
    assert told(tmp_path).count("over its cap of 3 MB") == 1
    assert holes(tmp_path) == []


@MAJORS
def test_a_slot_over_its_cap_is_released_and_the_hole_recorded(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = begin_archive(cluster_factory, major, tmp_path)
    write_segments(server, 6)
    answer = once(tmp_path, server, "--slot-cap", "3MB,release")
    assert answer.status == 9
    message, hint = answer.error()
    assert 'slot "own" was released' in message
    assert "--create-slot" in hint
    assert server.sql(RESTART) == []
    (hole,) = holes(tmp_path)
    (known,) = hole["known"]
    assert 'slot "own" was released' in known["reason"]
    assert hole["segments"] >= 6
    answer = once(tmp_path, server, "-C")
    assert answer.status == 0, "nothing was removed meanwhile"
    assert holes(tmp_path) == []
    write_segments(server, 1)
    assert once(tmp_path, server).status == 0
    assert holes(tmp_path) == []


@ONE_MAJOR
def test_a_state_that_gets_worse_is_told_while_receiving(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={"max_wal_size": "2MB", "min_wal_size": "2MB"})
    running = receive(server.conninfo(), "-C")
    server.poll_until("SELECT active FROM pg_replication_slots")
    running.send(signal.SIGSTOP)
    server.sql("SELECT pg_switch_wal()")
    write_segments(server, 6)
    server.poll_until("SELECT wal_status FROM pg_replication_slots", "extended")
    server.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
    running.send(signal.SIGCONT)
    wait_for(lambda: 'slot "own" is extended' in told(tmp_path))
    wait_for(lambda: 'slot "own" is reserved again' in told(tmp_path))
    end(running)
    assert told(tmp_path).count('slot "own" is extended') == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--slot-cap", "1GB"),
        ("--shadow-slots",),
        ("-S", "own", "--slot-cap", "1"),
        ("-S", "own", "--slot-cap", "1GB,drop"),
        ("-S", "own", "--slot-cap", "-1GB"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path, "receive-wal", *words).status == 2


# -- shadow slots ------------------------------------------------------------------------------


def position(server: Cluster) -> Lsn:
    """Where the slot "own" is; zero if it holds nothing."""
    rows = server.sql(RESTART)
    return Lsn.parse(rows[0][0]) if rows and rows[0][0] else Lsn(0)


def both(primary: Cluster, standby: Cluster) -> str:
    return (
        f"host={primary.run_directory},{standby.run_directory} user=postgres"
        " target_session_attrs=read-write application_name=pgb"
    )


@pytest.mark.parametrize("major", [13, 14, 15, 16, 17, 18])
def test_a_failover_leaves_no_hole_with_shadow_slots(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    with primary.standby(primary.pgdata.parent / "standby") as standby:
        standby.start()
        running = receive(both(primary, standby), "-C", "--shadow-slots")
        wait_for(lambda: position(standby) > 0)
        first = position(standby)
        write_segments(primary, 3)
        wait_for(lambda: position(standby) >= first + (2 << 20))
        running.send(signal.SIGSTOP)
        write_segments(primary, 4)
        last = primary.sql("SELECT pg_current_wal_lsn()::text")[0][0]
        standby.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{last}'")
        standby.sql("CHECKPOINT")
        primary.kill9()
        standby.promote()
        standby.sql("CHECKPOINT")
        write_segments(standby, 2)
        standby.sql("CHECKPOINT")
        running.send(signal.SIGCONT)
        standby.poll_until(
            "SELECT count(*)::int FROM pg_stat_replication WHERE state = 'streaming'"
            " AND sent_lsn = pg_current_wal_lsn() AND flush_lsn >= '" + last + "'",
            1,
        )
        gone = f'slot "own" on {primary.run_directory} stays where it is'
        wait_for(lambda: gone in told(tmp_path))
        end(running)
        assert holes(tmp_path) == []
        succeed(tmp_path, "wal", "verify", "--all")
        listed = succeed(tmp_path, "wal", "list", "--json").document["timelines"]
        assert [each["timeline"] for each in listed] == [1, 2]


@ONE_MAJOR
def test_a_shadow_slot_is_never_ahead_of_what_is_stored(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    with primary.standby(primary.pgdata.parent / "standby") as standby:
        standby.start()
        running = receive(both(primary, standby), "-C", "--shadow-slots")
        wait_for(lambda: position(standby) > 0)
        first = position(standby)
        for _ in range(20):
            write_segments(primary, 1)
            shadow = position(standby)
            (published,) = tmp_path.glob("pgbackup-repo/*/.receive-wal.positions")
            stored = read_positions(published)
            assert stored is not None
            assert shadow <= stored.flushed
        wait_for(lambda: position(standby) > first)
        end(running)


@ONE_MAJOR
def test_a_shadow_that_fails_does_not_stop_the_receiving(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    other = cluster_factory(major)
    running = receive(both(primary, other), "-C", "--shadow-slots")
    wait_for(lambda: "the server is of system" in told(tmp_path))
    other.stop("immediate")
    wait_for(lambda: "could not connect to the server" in told(tmp_path))
    write_segments(primary, 2)
    now = primary.sql("SELECT pg_current_wal_lsn()::text")[0][0]
    primary.poll_until(f"SELECT restart_lsn >= '{now}' FROM pg_replication_slots")
    end(running)
    assert told(tmp_path).count("the server is of system") == 1
    assert other.start() is None
    assert other.sql(RESTART) == []
