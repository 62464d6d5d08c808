"""The receiver as users run it, with real servers: what was acknowledged is in the archive.

PGBACKUP_SEGMENT_SIZES=all receives segments of every size that there is.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pgbackup.pg.control import ClusterState, ControlFile
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication.published import read_positions
from tests.archiving.acknowledged import Commits, back_up, expect_archived
from tests.archiving.receiver.receiving import (
    KEEP,
    MIB,
    cluster_of,
    end,
    expect_no_hole_and_no_wrong_byte,
    load,
    receive_once,
    segments_of,
    wait_until_attached,
    wait_until_received,
)
from tests.cli import program
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.fix_receiver import Receive
from tests.waiting import wait_for

CHECKPOINT_RECORD = 100
"""Bytes that the record of a checkpoint has at least."""

ONE_MAJOR = pytest.mark.parametrize("major", [17])

SMALL = [(1, 14), (2, 13), (4, 18), (8, 15), (16, 16), (32, 18), (64, 17)]
LARGE = [(1024, 15)]
LARGE_TOO = [(128, 13), (256, 18), (512, 14)]
"""Sizes of segments, each with a major."""
ALL_SIZES = os.environ.get("PGBACKUP_SEGMENT_SIZES") == "all"


def test_wal_is_received_as_it_is_written(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    running = receive(server)
    wait_until_attached(server)
    load(server)
    server.sql("SELECT pg_switch_wal()")
    load(server, 2)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)
    stored = list((tmp_path / "repo").glob("*/wal/*.zst"))
    subprocess.run(["zstd", "-t", "-q", *stored], check=True)
    for path in (tmp_path / "repo").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize(
    ("megabytes", "major"),
    [
        *SMALL,
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (LARGE + LARGE_TOO if ALL_SIZES else LARGE)
        ),
    ],
)
def test_segments_of_any_size_are_received(
    cluster_factory: ClusterFactory, major: int, megabytes: int, receive: Receive, tmp_path: Path
) -> None:
    settings = {**KEEP, "wal_init_zero": False}  # the server's zeros take longer than all the rest
    server = cluster_factory(major, wal_segsize_mb=megabytes, settings=settings)
    back_up(tmp_path, server)
    running = receive(server, "-Z", "zstd:1")
    wait_until_attached(server)
    with Commits(server) as commits:
        load(server)
        server.sql("SELECT pg_switch_wal()")
        load(server, 1)
        wait_for(lambda: len(commits.numbers) > 20)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received, megabytes * MIB)
    expect_archived(tmp_path, server, commits.numbers)


def test_a_fast_shutdown_is_not_held_up_and_its_checkpoint_is_received(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={**KEEP, "wal_sender_timeout": 0})
    running = receive(server, "-S", "own", "-C")
    wait_until_attached(server)
    load(server, 2)
    server.stop("fast")  # which waits for a receiver for ever
    end(running)
    (positions,) = (tmp_path / "repo").glob("*/.receive-wal.positions")
    found = read_positions(positions)
    assert found is not None
    expect_no_hole_and_no_wrong_byte(tmp_path, server, found.flushed)
    control = ControlFile.parse((server.pgdata / "global" / "pg_control").read_bytes())
    assert control.state is ClusterState.SHUTDOWNED
    assert found.flushed > control.checkpoint + CHECKPOINT_RECORD


def test_a_promotion_is_followed_with_its_history(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    primary = cluster_factory(major, settings=KEEP)
    back_up(tmp_path, primary)
    with primary.standby(primary.pgdata.parent / "standby", settings=KEEP) as standby:
        standby.start()
        running = receive(standby)
        wait_until_attached(standby)
        with Commits(primary) as before:
            load(primary)
            wait_for(lambda: len(before.numbers) > 20)
        primary.stop("fast")
        standby.promote()
        with Commits(standby, first=1_000_000) as after:
            load(standby)
            standby.sql("SELECT pg_switch_wal()")
            load(standby, 1)
            wait_for(lambda: len(after.numbers) > 20)
        received = wait_until_received(tmp_path, standby)
        end(running)
        history = (standby.pgdata / "pg_wal" / "00000002.history").read_bytes()
        assert cluster_of(tmp_path).archive.read("00000002.history") == history
        switch = Lsn.parse(history.split()[1].decode())
        expect_no_hole_and_no_wrong_byte(tmp_path, standby, received, timeline=2)
        expect_no_hole_and_no_wrong_byte(tmp_path, primary, switch)
    expect_archived(tmp_path, primary, before.numbers + after.numbers)


def test_what_a_slot_holds_is_there_after_checkpoints_without_a_receiver(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    """RC-21: nothing else keeps the WAL here, and a checkpoint removes what nobody needs."""
    server = cluster_factory(major, settings={"wal_keep_size": 0, "max_wal_size": "4MB"})
    back_up(tmp_path, server)
    running = receive(server, "-S", "own", "-C")
    wait_until_attached(server)
    running.process.kill()
    with Commits(server) as commits:
        for _ in range(3):
            load(server, 3)
            server.sql("CHECKPOINT")
        wait_for(lambda: len(commits.numbers) > 20)
    running = receive(server, "-S", "own")
    wait_until_attached(server)
    wait_until_received(tmp_path, server)
    end(running)
    expect_archived(tmp_path, server, commits.numbers)


@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_a_slot_from_before_a_promotion_brings_both_timelines(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    with primary.standby(primary.pgdata.parent / "standby") as standby:
        standby.start()
        program.succeed(
            tmp_path, "slot", "create", "own", "--reserve-wal", "-d", standby.conninfo()
        )
        load(primary)
        end_of_primary = primary.sql("SELECT pg_current_wal_lsn()::text")[0][0]
        standby.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{end_of_primary}'")
        standby.promote()
        load(standby)
        standby.sql("SELECT pg_switch_wal()")
        answer = receive_once(tmp_path, standby, "--once", "-S", "own")
        assert answer.status == 0, answer.err
    found = segments_of(tmp_path)
    assert {each.timeline for each in found} == {1, 2}
    assert cluster_of(tmp_path).archive.find("00000002.history")


# -- stop rules, locks, slots ------------------------------------------------------------------


def test_once_catches_up_and_three_in_overlap_do_no_harm(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    assert receive_once(tmp_path, server, "--once").status == 0
    load(server, 20)
    running = [receive(server, "--once", "--wait", "60") for _ in range(3)]
    assert [each.wait().status for each in running] == [0, 0, 0]
    received = Lsn.parse(server.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])
    (positions,) = (tmp_path / "repo").glob("*/.receive-wal.positions")
    found = read_positions(positions)
    assert found is not None
    assert found.flushed >= received - 1000, "a background record may have come since"
    expect_no_hole_and_no_wrong_byte(tmp_path, server, found.flushed)
    assert not list((tmp_path / "repo").glob("*/wal/000000010000000[0-9A-F]????????")), (
        "a finished run leaves no uncompressed segment"
    )


@ONE_MAJOR
def test_a_second_receiver_is_told_who_holds_the_lock(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    running = receive(server)
    wait_until_attached(server)
    answer = receive_once(tmp_path, server, "--once")
    assert answer.status == 6
    assert str(running.process.pid) in answer.err
    end(running)
    assert receive_once(tmp_path, server, "--once").status == 0


def test_an_end_position_stops_with_one_partial(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    running = receive(server, "--synchronous", "--endpos", stop_ahead(server))
    wait_until_attached(server)
    load(server, 3)
    answer = running.wait()
    assert answer.status == 0, answer.err
    assert len(list((tmp_path / "repo").glob("*/wal/*.partial"))) == 1


@ONE_MAJOR
def test_what_is_flushed_here_is_not_reported_as_applied(
    cluster_factory: ClusterFactory, major: int, receive: Receive
) -> None:
    server = cluster_factory(major)
    running = receive(server, "--synchronous")
    server.poll_until(
        "SELECT flush_lsn >= pg_current_wal_flush_lsn() AND replay_lsn IS NULL"
        " FROM pg_stat_replication"
    )
    end(running)


def stop_ahead(server: Cluster) -> Lsn:
    """A position in the middle of the segment after the next."""
    now = Lsn.parse(server.sql("SELECT pg_current_wal_lsn()::text")[0][0])
    return Lsn((now // MIB + 2) * MIB + MIB // 2)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@ONE_MAJOR
def test_signals_end_a_receiver_that_waits_for_its_server(
    cluster_factory: ClusterFactory,
    major: int,
    receive: Receive,
    tmp_path: Path,
    number: int,
    status: int,
) -> None:
    server = cluster_factory(major)
    running = receive(server)
    wait_until_attached(server)
    server.stop("immediate")
    running.send(number)
    assert running.wait().status == status


@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_an_empty_archive_begins_where_the_slot_does(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    program.succeed(tmp_path, "slot", "create", "own", "--reserve-wal", "-d", server.conninfo())
    (restart,) = server.sql("SELECT restart_lsn::text FROM pg_replication_slots")[0]
    load(server, 4)
    assert receive_once(tmp_path, server, "--once", "-S", "own").status == 0
    first = Segment.containing(Timeline(1), Lsn.parse(restart), MIB)
    assert segments_of(tmp_path)[0] == first


def test_a_missing_slot_is_a_clear_error(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    answer = receive_once(tmp_path, cluster_factory(major), "-S", "missing", "--no-loop")
    assert answer.status == 5
    message, hint = answer.error()
    assert '"missing"' in message
    assert "pgbackup slot create missing" in hint


@ONE_MAJOR
def test_wal_that_the_server_has_removed_is_a_gap(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    assert receive_once(tmp_path, server, "--once").status == 0
    for _ in range(3):
        load(server, 1)
        server.sql("SELECT pg_switch_wal()")
        server.sql("CHECKPOINT")
    answer = receive_once(tmp_path, server)
    assert answer.status == 9
    assert "already been removed" in answer.error()[0]
    assert "new backup" in answer.error()[1]


@pytest.mark.parametrize(
    "words",
    [("-C",), ("-Z", "none:1"), ("-Z", "gzip"), ("--if-not-exists",), ("--endpos", "x")],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert program.run(tmp_path, "receive-wal", *words).status == 2
    assert not (tmp_path / "pgbackup-repo").exists()


# -- what could go wrong -----------------------------------------------------------------------


@ONE_MAJOR
def test_another_system_is_refused_before_a_byte_is_written(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    one, other = cluster_factory(major), cluster_factory(major)
    assert receive_once(tmp_path, one, "--once").status == 0
    system = cluster_of(tmp_path).system
    before = sorted((tmp_path / "repo").rglob("*"))
    answer = receive_once(tmp_path, other, "--system", system)
    assert answer.status == 8
    assert str(system) in answer.err
    assert sorted((tmp_path / "repo").rglob("*")) == before


@ONE_MAJOR
def test_a_system_that_takes_the_place_of_the_server_is_refused(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    one, other = cluster_factory(major), cluster_factory(major, start=False)
    running = receive(one)
    wait_until_attached(one)
    one.stop("fast")
    other.run_directory, there = one.run_directory, other.run_directory
    other.start()
    answer = running.wait()
    other.stop("immediate")
    other.run_directory = there
    assert answer.status == 8
    assert len(list((tmp_path / "repo").glob("*/wal"))) == 1
