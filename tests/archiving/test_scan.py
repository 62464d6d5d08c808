"""`wal verify` finds what does not chain, remembers what does, and reads only what is new."""

import random
import re
import tracemalloc
from pathlib import Path

import pytest

from pgbackup.archiving.scan import ScannedStretch, WalScan
from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.backup.wal import MIB, PAGE, WalWriter
from tests.cli.program import run, succeed

SYSTEM = 7711075377583810970


@pytest.fixture
def cluster() -> ClusterRepository:
    return bound(Repository.open(MemoryStorage(), create=True))


def bound(repository: Repository) -> ClusterRepository:
    cluster = repository.cluster(SYSTEM)
    cluster.bind(150000, MIB)
    return cluster


def wal(count: int, *, longest: int = 60_000, timeline: int = 1) -> list[tuple[Segment, bytes]]:
    """Segments full of records of all lengths, many of which go on in the next."""
    source = random.Random(count)
    writer = WalWriter(Segment(Timeline(timeline), 5, MIB), SYSTEM)
    while writer.position < (5 + count) * MIB:
        writer.add(source.randbytes(source.choice([0, 30, 9000, longest])))
    return list(writer.segments().items())[:count]


def put(
    cluster: ClusterRepository, *segments: tuple[Segment, bytes], level: int | None = 1
) -> None:
    for segment, data in segments:
        with cluster.archive.segment_writer(segment, level) as writer:
            writer.write(data)
            writer.commit()


def scan(cluster: ClusterRepository, *, every: bool = False) -> list[ScannedStretch]:
    return WalScan(cluster, every=every).run(bool)


def facts(scanned: list[ScannedStretch]) -> list[tuple[int, int, int, int]]:
    """First and last number, segments read, damages."""
    return [
        (s.stretch.first.number, s.stretch.last.number, s.checked, len(s.damages)) for s in scanned
    ]


@pytest.mark.parametrize("level", [None, 1], ids=["plain", "zstd"])
def test_only_what_is_new_is_read(cluster: ClusterRepository, level: int | None) -> None:
    segments = wal(6)
    put(cluster, *segments[:3], level=level)
    (first,) = scan(cluster)
    assert facts([first]) == [(5, 7, 3, 0)]
    assert first.through is not None
    assert 7 * MIB < first.through <= 8 * MIB
    assert facts(scan(cluster)) == [(5, 7, 0, 0)]
    put(cluster, *segments[3:], level=level)
    (after,) = scan(cluster)
    assert facts([after]) == [(5, 10, 4, 0)]  # the last one again, where a record may go on
    assert after.through is not None
    assert after.through > 10 * MIB
    assert facts(scan(cluster, every=True)) == [(5, 10, 6, 0)]


def test_a_record_longer_than_segments_is_whole_after_a_later_run(
    cluster: ClusterRepository,
) -> None:
    segments = wal(12, longest=3 * MIB)
    for each in segments:
        put(cluster, each)
        assert not any(s.damages for s in scan(cluster))
    (last,) = scan(cluster)
    (at_once,) = scan(cluster, every=True)
    assert last.through == at_once.through


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (3 * PAGE + 5000, "its checksum is wrong|there is no record|it follows|not zero"),
        (3 * PAGE + 8, "says that it is at"),
        (3 * PAGE, "has magic number"),
        (24, "it is of system"),
    ],
    ids=["record", "address", "magic", "system"],
)
def test_damage_is_told_with_its_place_and_told_again(
    cluster: ClusterRepository, at: int, reason: str
) -> None:
    segments = wal(4)
    segment, data = segments[2]
    damaged = bytearray(data)
    damaged[at] ^= 0x10
    put(cluster, *segments[:2], (segment, bytes(damaged)), segments[3])
    for read in (4, 3, 3):
        (found,) = scan(cluster)
        (damage,) = found.damages
        assert found.checked == read
        assert damage.segment == segment
        assert segment.start - 60_100 < damage.lsn <= segment.start + at
        assert re.search(reason, damage.reason)
        assert found.through is not None
        assert found.through <= segment.start


def test_a_segment_of_another_history_does_not_chain(cluster: ClusterRepository) -> None:
    ours, theirs = wal(3), wal(4)
    put(cluster, *ours[:2])
    assert facts(scan(cluster)) == [(5, 6, 2, 0)]
    put(cluster, theirs[2])
    assert facts(scan(cluster)) == [(5, 7, 2, 1)]


def test_what_fills_a_hole_is_read_and_what_is_behind_it_again(cluster: ClusterRepository) -> None:
    segments = wal(5)
    put(cluster, *segments[:2], *segments[3:])
    assert facts(scan(cluster)) == [(5, 6, 2, 0), (8, 9, 2, 0)]
    put(cluster, segments[2])
    assert facts(scan(cluster)) == [(5, 9, 4, 0)]


def test_what_was_removed_and_comes_again_is_read_again(cluster: ClusterRepository) -> None:
    segments = wal(5)
    put(cluster, *segments)
    scan(cluster)
    cluster.archive.delete(segments[0][0].name)
    cluster.archive.delete(segments[3][0].name)
    assert facts(scan(cluster)) == [(6, 7, 0, 0), (9, 9, 0, 0)]
    put(cluster, segments[3])
    assert facts(scan(cluster)) == [(6, 9, 3, 0)]


def test_a_truncated_object_is_damage(tmp_path: Path) -> None:
    cluster = bound(Repository.open(LocalStorage(tmp_path / "repo"), create=True))
    segments = wal(2)
    put(cluster, segments[0])
    put(cluster, segments[1], level=None)
    for path in (tmp_path / "repo").glob("*/wal/*"):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-4096])
    found = scan(cluster)
    assert facts(found) == [(5, 6, 2, 2)]
    assert all(damage.segment.name in damage.reason for damage in found[0].damages)


def test_a_memory_that_makes_no_sense_is_no_memory(cluster: ClusterRepository) -> None:
    put(cluster, *wal(2))
    scan(cluster)
    for content in (b"", b"[]", b'{"format": 2, "stretches": []}', b'{"format": 1}'):
        name = layout.wal_verified_object(SYSTEM)
        cluster.storage.delete(name)
        cluster.storage.create(name, content)
        assert facts(scan(cluster)) == [(5, 6, 2, 0)]


def test_what_was_read_before_an_interruption_is_remembered(cluster: ClusterRepository) -> None:
    put(cluster, *wal(4))
    seen: list[int] = []

    def interrupt(length: int) -> None:
        seen.append(length)
        if sum(seen) > 2 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WalScan(cluster, every=False).run(interrupt)
    assert facts(scan(cluster)) == [(5, 8, 3, 0)]


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    cluster = bound(Repository.open(LocalStorage(tmp_path / "repo"), create=True))
    put(cluster, *wal(12))
    tracemalloc.start()
    try:
        scan(cluster)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_the_command_says_what_is_wrong_with_its_own_exit_status(tmp_path: Path) -> None:
    cluster = bound(Repository.open(LocalStorage(tmp_path / "pgbackup-repo"), create=True))
    segments = wal(3)
    put(cluster, *segments[:2])
    answer = succeed(tmp_path, "wal", "verify")
    assert answer.out == b""
    assert "timeline 1 from 0/500000: ok; verified through 0/6" in answer.err
    damaged = bytearray(segments[2][1])
    damaged[100 * PAGE + 6000] ^= 1
    put(cluster, (segments[2][0], bytes(damaged)))
    answer = run(tmp_path, "wal", "verify")
    assert answer.status == 7
    assert b"segment 000000010000000000000007 is damaged behind 0/7" in answer.out
    answer = run(tmp_path, "wal", "verify", "--json", "--all")
    assert answer.status == 7
    (damage,) = answer.document["damages"]
    assert damage["segment"] == "000000010000000000000007"
    assert damage["lsn"].startswith("0/7")
    (stretch,) = answer.document["stretches"]
    assert (stretch["segments_read"], stretch["is_good"]) == (3, False)
