"""What tests of the receiver share: running it, loading its server, comparing the two."""

import signal
from pathlib import Path

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication.published import read_positions
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from tests.cli import program
from tests.cli.program import Running
from tests.cluster import Cluster
from tests.waiting import wait_for

MIB = 1 << 20

KEEP = {"wal_keep_size": "4GB"}
"""A setting by which a server keeps all of its WAL, to be compared with."""


def receive_once(tmp_path: Path, server: Cluster, *arguments: object) -> program.Answer:
    words = ("-B", tmp_path / "repo", "-d", server.conninfo(), *arguments)
    return program.run(tmp_path, "receive-wal", *words)


def cluster_of(tmp_path: Path) -> ClusterRepository:
    return Repository.open(LocalStorage(tmp_path / "repo")).only_cluster()


def wait_until_attached(server: Cluster, count: int = 1) -> None:
    server.poll_until(
        "SELECT count(*)::int FROM pg_stat_replication WHERE state = 'streaming'"
        " AND application_name LIKE 'pgb%'",
        count,
    )


def wait_until_received(tmp_path: Path, server: Cluster) -> Lsn:
    """Wait until the receiver has all that the server has now; its end makes that durable."""
    server.sql("SELECT pg_logical_emit_message(true, 'test', 'a commit flushes what is before it')")
    now = Lsn.parse(server.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])

    def is_there() -> bool:
        found = [
            read_positions(path) for path in (tmp_path / "repo").glob("*/.receive-wal.positions")
        ]
        return any(each is not None and each.written >= now for each in found)

    wait_for(is_there)
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
        with (server.pgdata / "pg_wal" / segment.name).open("rb") as own:
            for chunk in archive.chunks(segment.name, size):
                assert own.read(len(chunk)) == chunk, segment.name
            assert not own.read(1), segment.name
    last = Segment.containing(Timeline(timeline), received, size)
    assert found[-1].end == last.start
    length = received - last.start
    if length:
        (partial,) = (tmp_path / "repo").glob(f"*/wal/{last.name}.partial")
        assert partial.stat().st_size == size
        with (
            partial.open("rb") as received_part,
            open(server.pgdata / "pg_wal" / last.name, "rb") as own,
        ):
            while chunk := received_part.read(min(length, MIB)):
                assert own.read(len(chunk)) == chunk
                length -= len(chunk)


def is_streaming(server: Cluster, name: str) -> bool:
    return bool(server.sql(f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{name}'"))


def running_errors(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in tmp_path.glob("*.err"))
