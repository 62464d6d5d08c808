"""The receiver as users run it, with real servers: what was acknowledged is in the archive."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgbackup.pg.control import ClusterState, ControlFile
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication.published import read_positions
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from tests.cli import program
from tests.cli.program import Running
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

MIB = 1 << 20
KILLS = int(os.environ.get("PGBACKUP_TEST_KILLS", "6"))
"""How often the receiver is killed under load; 100 before a release."""

CHECKPOINT_RECORD = 100
"""Bytes that the record of a checkpoint has at least."""

Receive = Callable[..., Running]
MAJORS = pytest.mark.parametrize("major", [13, 15, 18])
ONE_MAJOR = pytest.mark.parametrize("major", [17])


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Receive]:
    """Starts receivers; those still running are killed at the end."""
    started: list[Running] = []

    def start(server: Cluster, *arguments: object) -> Running:
        name = f"pgb{len(started)}"
        words = ("-B", tmp_path / "repo", "-d", server.conninfo(application_name=name))
        started.append(program.begin(tmp_path, "receive-wal", *words, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def receive_once(tmp_path: Path, server: Cluster, *arguments: object) -> program.Answer:
    words = ("-B", tmp_path / "repo", "-d", server.conninfo(), *arguments)
    return program.run(tmp_path, "receive-wal", *words)


def cluster_of(tmp_path: Path) -> ClusterRepository:
    return Repository.open(LocalStorage(tmp_path / "repo")).only_cluster()


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the time is over"
        time.sleep(0.02)


def wait_until_attached(server: Cluster, count: int = 1) -> None:
    server.poll_until(
        "SELECT count(*)::int FROM pg_stat_replication WHERE state = 'streaming'"
        " AND application_name LIKE 'pgb%'",
        count,
    )


def wait_until_received(tmp_path: Path, server: Cluster) -> Lsn:
    """Wait until all that the server has now is flushed by the receiver."""
    now = Lsn.parse(server.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])

    def is_flushed() -> bool:
        found = [
            read_positions(path) for path in (tmp_path / "repo").glob("*/.receive-wal.positions")
        ]
        return any(each is not None and each.flushed >= now for each in found)

    wait_for(is_flushed)
    return now


def load(server: Cluster, megabytes: int = 3) -> None:
    server.sql(
        "SELECT pg_logical_emit_message(false, 'test', repeat(md5(g::text), 31250))"
        f" FROM generate_series(1, {megabytes}) g"
    )


def end(running: Running) -> program.Answer:
    running.send(signal.SIGTERM)
    answer = running.wait()
    assert answer.status == 0, answer.err
    return answer


def segments_of(tmp_path: Path, size: int = MIB) -> list[Segment]:
    archive = cluster_of(tmp_path).archive
    return [file.name.segment(size) for file in archive.segments()]


def expect_no_hole_and_no_wrong_byte(
    tmp_path: Path, server: Cluster, received: Lsn, size: int = MIB, timeline: int = 1
) -> None:
    """Compare with the server's own files; it must have kept them all."""
    archive = cluster_of(tmp_path).archive
    found = [each for each in segments_of(tmp_path, size) if each.timeline == timeline]
    numbers = [each.number for each in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for segment in found:
        own = (server.pgdata / "pg_wal" / segment.name).read_bytes()
        assert b"".join(archive.chunks(segment.name, size)) == own, segment.name
    last = Segment.containing(Timeline(timeline), received, size)
    assert found[-1].end == last.start
    length = received - last.start
    if length:
        (partial,) = (tmp_path / "repo").glob(f"*/wal/{last.name}.partial")
        own = (server.pgdata / "pg_wal" / last.name).read_bytes()
        assert partial.stat().st_size == size
        assert partial.read_bytes()[:length] == own[:length]


KEEP = {"wal_keep_size": "4GB"}


@MAJORS
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
    for path in (tmp_path / "repo").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize(
    ("megabytes", "major"),
    [
        (1, 14),
        (16, 16),
        (64, 17),
        pytest.param(1024, 15, marks=pytest.mark.slow),
    ],
)
def test_segments_of_any_size_are_received(
    cluster_factory: ClusterFactory, major: int, megabytes: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, wal_segsize_mb=megabytes, settings=KEEP)
    running = receive(server, "-Z", "zstd:1")
    wait_until_attached(server)
    load(server)
    server.sql("SELECT pg_switch_wal()")
    load(server, 1)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received, megabytes * MIB)


@MAJORS
def test_restarts_of_the_server_are_followed(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    running = receive(server, "-S", "own", "-C")
    for stop in (lambda: server.stop("fast"), lambda: server.stop("immediate"), server.kill9):
        wait_until_attached(server)
        load(server, 2)
        stop()
        server.start()
    wait_until_attached(server)
    load(server, 2)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)


@ONE_MAJOR
def test_killed_under_load_the_receiver_goes_on_without_a_hole(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={**KEEP, "max_wal_size": "1GB"})
    server.pgbench_init()
    bench = server.pgbench(2, seconds=600)
    source = random.Random(3)
    for number in range(KILLS):
        running = receive(server, "-S", "own", "-C", "--if-not-exists")
        wait_for(lambda name=f"pgb{number}": is_streaming(server, name))
        time.sleep(source.random() / 2)  # the moment of the kill is the test's input
        running.process.kill()
        running.process.wait()
    bench.kill()
    running = receive(server, "-S", "own")
    wait_for(lambda: is_streaming(server, f"pgb{KILLS}"))
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)


@ONE_MAJOR
def test_killed_far_behind_the_receiver_goes_on_without_a_hole(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={**KEEP, "max_wal_size": "1GB"})
    assert receive_once(tmp_path, server, "--once").status == 0
    load(server, 150)
    source = random.Random(4)
    for _ in range(KILLS):
        running = receive(server)
        there = len(segments_of(tmp_path))
        wanted = there + source.randrange(1, 150 // KILLS)
        wait_for(lambda wanted=wanted: len(segments_of(tmp_path)) >= wanted)
        running.process.kill()
        running.process.wait()
    running = receive(server)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)


def is_streaming(server: Cluster, name: str) -> bool:
    return bool(server.sql(f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{name}'"))


@MAJORS
def test_a_fast_shutdown_is_not_held_up_and_its_checkpoint_is_received(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    running = receive(server, "-S", "own", "-C")
    wait_until_attached(server)
    load(server, 2)
    began = time.monotonic()
    server.stop("fast")
    assert time.monotonic() - began < 5
    end(running)
    (positions,) = (tmp_path / "repo").glob("*/.receive-wal.positions")
    found = read_positions(positions)
    assert found is not None
    expect_no_hole_and_no_wrong_byte(tmp_path, server, found.flushed)
    control = ControlFile.parse((server.pgdata / "global" / "pg_control").read_bytes())
    assert control.state is ClusterState.SHUTDOWNED
    assert found.flushed > control.checkpoint + CHECKPOINT_RECORD


@MAJORS
def test_a_promotion_is_followed_with_its_history(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    primary = cluster_factory(major, settings=KEEP)
    with primary.standby(primary.pgdata.parent / "standby", settings=KEEP) as standby:
        standby.start()
        running = receive(standby)
        wait_until_attached(standby)
        load(primary)
        primary.stop("fast")
        standby.promote()
        load(standby)
        standby.sql("SELECT pg_switch_wal()")
        load(standby, 1)
        received = wait_until_received(tmp_path, standby)
        end(running)
        history = (standby.pgdata / "pg_wal" / "00000002.history").read_bytes()
        assert cluster_of(tmp_path).archive.read("00000002.history") == history
        switch = Lsn.parse(history.split()[1].decode())
        expect_no_hole_and_no_wrong_byte(tmp_path, standby, received, timeline=2)
        expect_no_hole_and_no_wrong_byte(tmp_path, primary, switch)


@pytest.mark.parametrize("major", [15, 18])
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


@ONE_MAJOR
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


@ONE_MAJOR
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
    began = time.monotonic()
    running.send(number)
    assert running.wait().status == status
    assert time.monotonic() - began < 2


@MAJORS
def test_slots_are_created_shown_and_dropped(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    to = ("-d", server.conninfo())
    program.succeed(tmp_path, "slot", "create", "own", *to)
    query = "SELECT slot_type, restart_lsn::text FROM pg_replication_slots"
    assert server.sql(query) == [("physical", None)]
    assert program.run(tmp_path, "slot", "create", "own", *to).status == 6
    program.succeed(tmp_path, "slot", "create", "own", "--if-not-exists", *to)
    answer = program.run(tmp_path, "slot", "show", "own", *to)
    if major < 15:
        assert answer.status == 10
        assert f"PostgreSQL {major} tells nothing of a slot" in answer.err
    else:
        assert answer.status == 0
        assert b"physical" in answer.out
    program.succeed(tmp_path, "slot", "drop", "own", *to)
    assert server.sql(query) == []
    assert program.run(tmp_path, "slot", "drop", "own", *to).status == 5


@pytest.mark.parametrize("major", [15, 18])
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


@MAJORS
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


@ONE_MAJOR
def test_a_full_disk_is_waited_out(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    repo = tmp_path / "repo"
    repo.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", repo], check=True)
    try:
        running = receive(server, "-S", "own", "-C", "-Z", "none")
        wait_until_attached(server)
        load(server, 10)
        wait_for(lambda: "no space left" in running_errors(tmp_path))
        (flushed,) = server.sql("SELECT restart_lsn::text FROM pg_replication_slots")[0]
        expect_promise_kept(tmp_path, server, Lsn.parse(flushed))
        subprocess.run(["mount", "-o", "remount,size=200m", repo], check=True)
        received = wait_until_received(tmp_path, server)
        end(running)
        expect_no_hole_and_no_wrong_byte(tmp_path, server, received)
    finally:
        subprocess.run(["umount", "-l", repo], check=True)


def running_errors(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in tmp_path.glob("*.err"))


def expect_promise_kept(tmp_path: Path, server: Cluster, flushed: Lsn) -> None:
    """Everything from the first segment to the flush position is on the disk."""
    folder = next((tmp_path / "repo").glob("*/wal"))
    segment = min(segments_of(tmp_path), key=lambda each: each.number)
    while segment.start < flushed:
        length = min(flushed - segment.start, MIB)
        own = (server.pgdata / "pg_wal" / segment.name).read_bytes()
        plain, partial = folder / segment.name, folder / f"{segment.name}.partial"
        assert (plain if plain.exists() else partial).read_bytes()[:length] == own[:length]
        segment = segment.next()


@pytest.mark.parametrize("major", [14, 18])
def test_no_commit_that_was_acknowledged_is_lost_with_the_server(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={"synchronous_standby_names": "pgb0"})
    running = receive(server, "--synchronous", "-S", "own", "-C")
    wait_until_attached(server)
    program.succeed(tmp_path, "backup", "-B", tmp_path / "repo", "-d", server.conninfo(), "-c",
                    "fast")  # fmt: skip
    server.sql("CREATE TABLE seen (id int PRIMARY KEY, text text)")
    acknowledged: list[int] = []
    threads = [
        threading.Thread(target=insert_until_killed, args=(server, worker, acknowledged))
        for worker in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) > 300)
    running.process.kill()
    server.kill9()
    for thread in threads:
        thread.join()
    expect_restored(tmp_path, server, acknowledged)


def insert_until_killed(server: Cluster, worker: int, acknowledged: list[int]) -> None:
    try:
        with server.connect() as connection:
            for number in range(1_000_000):
                value = number * 10 + worker
                connection.execute("INSERT INTO seen VALUES (%s, repeat('x', 500))", [value])
                acknowledged.append(value)
    except psycopg.OperationalError:
        pass


def expect_restored(tmp_path: Path, server: Cluster, acknowledged: list[int]) -> None:
    """Restore a backup with all WAL, the unfinished segment too, and look for every row."""
    target = server.pgdata.parent / "restored"
    program.succeed(tmp_path, "restore", "-B", tmp_path / "repo", "-D", target)
    wal = server.pgdata.parent / "wal"
    wal.mkdir()
    archive = cluster_of(tmp_path).archive
    for file in archive.files():
        name = file.name.text.removesuffix(".partial")
        (wal / name).write_bytes(b"".join(archive.chunks(file.name.text)))
    server.account.give(wal)
    for name in ("recovery.signal", "standby.signal"):
        (target / name).unlink(missing_ok=True)
    (target / "recovery.signal").touch()
    settings = {"restore_command": f"cp {wal}/%f %p", "synchronous_standby_names": ""}
    with Cluster.open_existing(target, server.major, settings=settings) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        there = {row[0] for row in restored.sql("SELECT id FROM seen")}
    assert set(acknowledged) <= there
    shutil.rmtree(wal)
