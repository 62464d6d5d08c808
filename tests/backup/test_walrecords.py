"""Records are followed from segment to segment, whatever their length."""

import random

import pytest

from pgbackup.backup.walrecords import WalRecords
from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.pg.walfile import check_pages
from tests.backup.wal import MIB, PAGE, WalWriter, sample_wal
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.repo.samples import SYSTEM

FIRST = Segment(Timeline(3), 5, MIB)


def walk(segments: dict[Segment, bytes]) -> WalRecords:
    records = WalRecords()
    for segment, data in segments.items():
        records.add(data, segment)
    return records


@pytest.mark.parametrize("seed", range(5))
def test_a_walk_ends_behind_the_last_record(seed: int) -> None:
    segments, _, stop = sample_wal(SYSTEM, seed=seed)
    assert walk(segments).position == stop


def test_a_walk_may_begin_inside_a_record() -> None:
    writer = WalWriter(FIRST, SYSTEM)
    writer.add(bytes(2 * MIB))
    writer.add(b"x" * 100)
    stop = writer.switch()
    segments = dict(list(writer.segments().items())[1:])
    assert walk(segments).position == stop


@pytest.mark.parametrize("length", range(PAGE - 40 - 24 - 40, PAGE - 40 - 24 + 8))
def test_records_that_end_near_the_end_of_a_page_are_followed(length: int) -> None:
    writer = WalWriter(FIRST, SYSTEM)
    writer.add(bytes(length))
    writer.add(b"next")
    stop = writer.switch()
    assert walk(writer.segments()).position == stop


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, MIB // 2], ids=["page", "pages", "half"])
def test_a_walk_in_pieces_finds_the_same(size: int) -> None:
    writer = WalWriter(FIRST, SYSTEM)
    for length in (0, 100, PAGE, 5 * PAGE, MIB, 7, 2 * MIB, PAGE - 24):
        writer.add(random.Random(length).randbytes(length))
    stop = writer.switch()

    def walk_pieces(segments: dict[Segment, bytes]) -> WalRecords:
        records = WalRecords()
        for segment, data in segments.items():
            for at in range(0, len(data), size):
                records.add(data[at : at + size], segment, at)
        return records

    segments = writer.segments()
    assert walk_pieces(segments).position == stop
    second = list(segments)[1]
    for at in (16, 100, PAGE + 16, PAGE + 30, MIB - 1):
        changed = bytearray(segments[second])
        changed[at] ^= 8
        with pytest.raises(CorruptData):
            walk_pieces(segments | {second: bytes(changed)})


@pytest.mark.parametrize("length", [20_000, MIB + 50_000], ids=["inside", "from-the-one-before"])
def test_a_record_that_was_never_completed_is_passed_by(length: int) -> None:
    writer = WalWriter(FIRST, SYSTEM)
    before = writer.add(b"whole")
    writer.add(bytes(length))
    writer.give_up()
    writer.previous = before
    writer.add(b"in its place")
    stop = writer.switch()
    assert walk(writer.segments()).position == stop


def test_a_record_that_just_ends_early_is_damage() -> None:
    writer = WalWriter(FIRST, SYSTEM)
    before = writer.add(b"whole")
    writer.add(bytes(20_000))
    writer.give_up()
    writer._overwrites = False
    writer.previous = before
    writer.add(b"in its place")
    writer.switch()
    with pytest.raises(CorruptData, match="the record before does not go on here"):
        walk(writer.segments())


def test_a_record_that_names_another_one_before_it_is_noticed() -> None:
    """As WAL of another run of the server does, with checksums as right as any."""
    writer = WalWriter(FIRST, SYSTEM)
    writer.add(b"first")
    writer.add(b"second")
    writer.previous -= 8
    writer.add(b"third")
    writer.switch()
    with pytest.raises(CorruptData, match="it follows a record at"):
        walk(writer.segments())


def test_a_segment_left_out_is_noticed() -> None:
    writer = WalWriter(FIRST, SYSTEM)
    for _ in range(30):
        writer.add(b"r" * 100_000)
    writer.switch()
    first, _, third, *_ = writer.segments().items()
    with pytest.raises(CorruptData):
        walk(dict([first, third]))


def test_wal_that_ends_without_a_switch_is_refused() -> None:
    writer = WalWriter(FIRST, SYSTEM)
    writer.add(b"only")
    with pytest.raises(CorruptData, match="there is no record"):
        walk(writer.segments())


def test_what_follows_a_switch_is_refused() -> None:
    writer = WalWriter(FIRST, SYSTEM)
    writer.switch()
    ((segment, data),) = writer.segments().items()
    with pytest.raises(CorruptData, match="follows the end of WAL"):
        walk({segment: data[:-1] + b"\x01"})


def finished_segments(cluster: Cluster) -> dict[Segment, bytes]:
    """All segments but the current one, in order."""
    current = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    cluster.sql("SELECT pg_switch_wal()")
    found = {}
    for path in sorted((cluster.pgdata / "pg_wal").glob("0*")):
        if len(path.name) == 24 and path.name <= current:
            found[Segment.parse(path.name, MIB)] = path.read_bytes()
    return found


def test_the_wal_of_a_real_server_is_right(cluster_factory: ClusterFactory, major: int) -> None:
    cluster = cluster_factory(major, settings={"wal_keep_size": "1GB"})
    system = int(cluster.sql("SELECT system_identifier FROM pg_control_system()")[0][0])
    cluster.pgbench_init(1)
    cluster.pgbench(4, transactions=300).wait()
    cluster.sql("CREATE TABLE t AS SELECT repeat(md5(g::text), 30) FROM generate_series(1,20000) g")
    segments = finished_segments(cluster)
    assert len(segments) > 20
    for segment, data in segments.items():
        check_pages(data, segment, system)
    assert walk(segments).position is not None
