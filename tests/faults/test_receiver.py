"""The receiver or its server dies, or the disk is full: what was acknowledged is in the archive."""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn
from tests.archiving.acknowledged import (
    Commits,
    back_up,
    expect_archived,
    expect_clean,
    expect_restored,
)
from tests.archiving.receiver.receiving import (
    KEEP,
    MIB,
    cluster_of,
    end,
    expect_no_hole_and_no_wrong_byte,
    is_streaming,
    load,
    receive_once,
    running_errors,
    segments_of,
    wait_until_attached,
    wait_until_received,
)
from tests.cli.program import Running
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.fix_receiver import Receive
from tests.waiting import wait_for

KILLS = int(os.environ.get("PGBACKUP_TEST_KILLS", "6"))
"""How often the receiver is killed under load; 100 before a release."""

ROUNDS = int(os.environ.get("PGBACKUP_TEST_ROUNDS", "2"))
"""How often server and receiver are killed together; 20 before a release."""

ONE_MAJOR = pytest.mark.parametrize("major", [17])


def test_restarts_of_the_server_are_followed(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    back_up(tmp_path, server)
    running = receive(server, "-S", "own", "-C")
    with Commits(server) as commits:
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
    expect_archived(tmp_path, server, commits.numbers)


@ONE_MAJOR
def test_killed_under_load_the_receiver_goes_on_without_a_hole(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={**KEEP, "max_wal_size": "1GB"})
    back_up(tmp_path, server)
    source = random.Random(3)
    with Commits(server) as commits:
        for number in range(KILLS):
            running = receive(server, "-S", "own", "-C", "--if-not-exists")
            wait_for(lambda name=f"pgb{number}": is_streaming(server, name))
            time.sleep(source.random() / 2)  # the moment of the kill is the test's input
            running.process.kill()
            running.process.wait()
            expect_clean(tmp_path)
    running = receive(server, "-S", "own")
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)
    expect_archived(tmp_path, server, commits.numbers)


@ONE_MAJOR
def test_killed_far_behind_the_receiver_goes_on_without_a_hole(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings={**KEEP, "max_wal_size": "1GB"})
    assert receive_once(tmp_path, server, "--once").status == 0
    behind = max(150, 3 * KILLS)
    load(server, behind)
    source = random.Random(4)
    for _ in range(KILLS):
        running = receive(server)
        wanted = min(len(segments_of(tmp_path)) + source.randrange(1, behind // KILLS), behind)
        wait_for(lambda wanted=wanted: len(segments_of(tmp_path)) >= wanted)
        running.process.kill()
        running.process.wait()
        expect_clean(tmp_path)
    running = receive(server)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)


def begin_synchronous(
    server: Cluster, receive: Receive, *words: object, first: bool = True
) -> Running:
    """Start a receiver on which every commit waits."""
    if first:
        server.configure({"synchronous_standby_names": "*"})
        server.reload()
        server.poll_until("SELECT current_setting('synchronous_standby_names')", "*")
    running = receive(server, "--synchronous", "-S", "own", "-C", "--if-not-exists", *words)
    wait_until_attached(server)
    return running


@pytest.mark.parametrize("major", [14, 18])
def test_no_commit_that_a_client_saw_is_lost_with_server_and_receiver(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    back_up(tmp_path, server)
    chance = random.Random(major)
    seen: list[int] = []
    was_partial_needed = False
    for number in range(ROUNDS):
        running = begin_synchronous(server, receive, first=number == 0)
        with Commits(server, first=1_000_000 * number) as commits:
            wanted = chance.randrange(20, 600)
            wait_for(lambda commits=commits, wanted=wanted: len(commits.numbers) >= wanted)
            ends = [running.process.kill, server.kill9]
            chance.shuffle(ends)
            for end_of_one in ends:
                end_of_one()
        running.process.wait()
        seen += commits.numbers
        expect_clean(tmp_path)
        log = expect_restored(tmp_path, server, seen)
        unfinished = [path.name[:24] for path in (tmp_path / "repo").glob("*/wal/*.partial")]
        was_partial_needed |= any(f'restored log file "{name}"' in log for name in unfinished)
        server.start()
    assert was_partial_needed


@ONE_MAJOR
def test_a_full_disk_is_waited_out_and_nothing_is_promised_meanwhile(
    cluster_factory: ClusterFactory, major: int, receive: Receive, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP)
    repo = tmp_path / "repo"
    repo.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", repo], check=True)
    try:
        back_up(tmp_path, server)
        running = begin_synchronous(server, receive, "-Z", "none")
        with Commits(server) as commits:
            wait_for(lambda: len(commits.numbers) > 100)
            load(server, 20)
            wait_for(lambda: "no space left" in running_errors(tmp_path))
            expect_restored(tmp_path, server, list(commits.numbers))
            (flushed,) = server.sql("SELECT restart_lsn::text FROM pg_replication_slots")[0]
            expect_promise_kept(tmp_path, server, Lsn.parse(flushed))
            subprocess.run(["mount", "-o", "remount,size=200m", repo], check=True)
            stopped_at = len(commits.numbers)
            wait_for(lambda: len(commits.numbers) > stopped_at + 100)
        received = wait_until_received(tmp_path, server)
        end(running)
        expect_no_hole_and_no_wrong_byte(tmp_path, server, received)
        expect_archived(tmp_path, server, commits.numbers)
    finally:
        subprocess.run(["umount", "-l", repo], check=True)


def expect_promise_kept(tmp_path: Path, server: Cluster, flushed: Lsn) -> None:
    """Everything from the first segment to the flush position is in the archive."""
    archive = cluster_of(tmp_path).archive
    there = {file.name.text for file in archive.files()}
    segment = min(segments_of(tmp_path), key=lambda each: each.number)
    while segment.start < flushed:
        length = min(flushed - segment.start, MIB)
        own = (server.pgdata / "pg_wal" / segment.name).read_bytes()
        name = segment.name if segment.name in there else f"{segment.name}.partial"
        assert b"".join(archive.chunks(name))[:length] == own[:length]
        segment = segment.next()
