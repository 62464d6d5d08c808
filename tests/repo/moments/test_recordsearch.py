"""Commits and the like are found in WAL as a walk from record to record finds them."""

import random
import struct
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, WrongSystem
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.pg.walrecord import EventKind, TransactionEnd, from_datetime, to_datetime
from pgbackup.repo.moments import recordsearch
from pgbackup.repo.moments.recordsearch import find_records
from pgbackup.repo.moments.segmentrecords import SegmentRecords
from pgbackup.repo.moments.walindex import SegmentNotes
from tests.backup.wal import MIB, PAGE, WalWriter
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.repo.samples import SYSTEM

COMMIT, ABORT = 0x00, 0x20
RM_XACT = 1


def main_data(data: bytes) -> bytes:
    """Main data with its header. Source: xlogrecord.h (PostgreSQL 18)"""
    if len(data) < 256:
        return struct.pack("<BB", 255, len(data)) + data
    return struct.pack("<BI", 254, len(data)) + data


def search(segments: Mapping[Segment, bytes], segment: Segment, **options: int) -> SegmentRecords:
    def following() -> Iterator[Iterable[bytes]]:
        for number in range(segment.number + 1, max(each.number for each in segments) + 1):
            yield pieces(segments[Segment(segment.timeline, number, segment.size)], **options)

    return find_records(segment, SYSTEM, pieces(segments[segment], **options), following)


def pieces(data: bytes, size: int = MIB) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def ends(segments: Mapping[Segment, bytes]) -> list[TransactionEnd]:
    return [end for segment in segments for end in search(segments, segment).ends()]


def sample(seed: int) -> tuple[dict[Segment, bytes], list[TransactionEnd], list[Lsn]]:
    """WAL with records of all lengths; its ends of transactions, and where each record begins."""
    source = random.Random(seed)
    writer = WalWriter(Segment(Timeline(3), 0x4FFE, MIB), SYSTEM)
    expected, starts = [], []
    while writer.position < 0x5003 * MIB:
        kind = source.random()
        if kind < 0.4:
            info = source.choice([COMMIT, ABORT]) | source.choice([0, 0x80, 1])
            time = source.randrange(-(1 << 40), 1 << 50)
            rest = bytes(source.choice([0, 4, 100, 300, 9000, 40_000]))
            start = writer.add(main_data(struct.pack("<q", time) + rest), info, RM_XACT)
            expected.append(TransactionEnd(start, time, 7, info & 0x70 == COMMIT))
        else:
            length = source.choice([0, 1, 30, 500, 9000, 60_000, 1_500_000 if kind > 0.999 else 7])
            start = writer.add(source.randbytes(length), manager=10)
        starts.append(start)
    writer.switch()
    return writer.segments(), expected, starts


@pytest.mark.parametrize("seed", range(6))
def test_what_was_written_is_found(seed: int) -> None:
    segments, expected, starts = sample(seed)
    assert ends(segments) == expected
    for segment in list(segments)[:-1]:
        last = search(segments, segment).last_record
        begun = [start for start in starts if segment.start <= start < segment.end]
        assert last == (begun[-2] if begun[1:] else None) or last == begun[-1]


@pytest.mark.parametrize("seed", range(3))
def test_a_segment_of_several_pieces_gives_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments, expected, _ = sample(seed)
    whole = [search(segments, each).last_record for each in segments]
    monkeypatch.setattr(recordsearch, "PIECE_SIZE", 4 * PAGE)
    assert ends(segments) == expected
    assert [search(segments, each).last_record for each in segments] == whole


@pytest.mark.parametrize("length", range(PAGE - 40 - 24 - 40, PAGE - 40 - 24 + 8))
def test_a_commit_whose_header_is_on_two_pages_is_found(length: int) -> None:
    writer = WalWriter(Segment(Timeline(1), 5, MIB), SYSTEM)
    writer.add(bytes(length), manager=10)
    start = writer.add(main_data(struct.pack("<q", 77)), COMMIT, RM_XACT)
    writer.switch()
    assert ends(writer.segments()) == [TransactionEnd(start, 77, 7, True)]


@pytest.mark.parametrize("back", range(8, 64, 8))
def test_a_commit_that_begins_in_one_segment_and_ends_in_the_next_belongs_to_the_first(
    back: int,
) -> None:
    writer = WalWriter(Segment(Timeline(1), 5, MIB), SYSTEM)
    before = writer.position
    while 6 * MIB - back - writer.position > 2 * PAGE:
        before = writer.add(bytes(4000), manager=10)
    while (left := 6 * MIB - back - writer.position) > 0:
        before = writer.add(bytes(max(left - 24 - 24 * (left > PAGE), 0)), manager=10)
    start = writer.add(main_data(struct.pack("<q", 77) + bytes(100_000)), COMMIT, RM_XACT)
    assert start == 6 * MIB - back
    writer.switch()
    segments = writer.segments()
    first, second = segments
    found = search(segments, first)
    assert list(found.ends()) == [TransactionEnd(start, 77, 7, True)]
    assert (found.is_complete, found.last_record) == (True, before)
    assert list(search(segments, second).ends()) == []
    alone = search({first: segments[first]}, first)
    assert (list(alone.ends()), alone.is_complete, alone.last_record) == ([], False, before)


def test_a_commit_that_was_never_completed_is_none() -> None:
    """The server crashed, and came back to begin the next segment with something else."""
    writer = WalWriter(Segment(Timeline(1), 5, MIB), SYSTEM)
    before = writer.add(bytes(MIB - 40 - 4000 - 24 * 128), manager=10)
    writer.add(main_data(struct.pack("<q", 77) + bytes(5000)), COMMIT, RM_XACT)
    writer.give_up()
    assert writer.position == 6 * MIB
    writer.previous = before
    writer.add(b"in its place")
    writer.switch()
    segments = writer.segments()
    found = search(segments, next(iter(segments)))
    assert (list(found.ends()), found.is_complete, found.last_record) == ([], True, before)


def test_a_damaged_commit_is_not_found() -> None:
    segments, expected, _ = sample(1)
    segment = next(iter(segments))
    for end in expected[:20]:
        damaged = bytearray(segments[segment])
        at = end.lsn - segment.start + (30 if (end.lsn + 30) % PAGE > 64 else -1)
        if at + 1 == end.lsn - segment.start or at >= MIB:
            continue
        damaged[at] ^= 1
        found = search(segments | {segment: bytes(damaged)}, segment)
        assert end not in list(found.ends())


def test_notes_tell_the_ends_of_a_segment() -> None:
    segments, expected, _ = sample(2)
    segment = next(
        each for each in segments if any(each.start <= e.lsn < each.end for e in expected)
    )
    inside = [end for end in expected if segment.start <= end.lsn < segment.end]
    commits = [end for end in inside if end.is_commit]
    notes = search(segments, segment).notes()
    assert (notes.commits, notes.ends) == (len(commits), len(inside))
    assert notes.low_time == min(end.time for end in inside)
    assert notes.high_time == max(end.time for end in inside)
    assert (notes.first_time, segment.start + notes.first_offset) == commits[0][1::-1]
    assert (notes.last_time, segment.start + notes.last_offset) == commits[-1][1::-1]


def test_a_segment_of_another_system_is_refused() -> None:
    segments, _, _ = sample(0)
    segment, data = next(iter(segments.items()))
    with pytest.raises(WrongSystem):
        find_records(segment, SYSTEM + 1, [data], lambda: iter([]))
    with pytest.raises(CorruptData):
        find_records(segment.next(), SYSTEM, [data], lambda: iter([]))


def walked(segments: Mapping[Segment, bytes]) -> list[tuple[int, int, int, int]]:
    """Start, length, resource manager and info of each record, from one to the next."""
    found = []
    stream, positions = b"", []
    for segment, data in segments.items():
        for at in range(0, len(data), PAGE):
            head = 24 if at else 40
            positions.append((len(stream), segment.start + at + head))
            stream += data[at + head : at + PAGE]
    *_, remaining = struct.unpack_from("<HHIQI", next(iter(segments.values())))
    at, page = (remaining + 7) // 8 * 8, 0
    while at + 24 <= len(stream):
        while page + 1 < len(positions) and positions[page + 1][0] <= at:
            page += 1
        length, _, _, info, manager = struct.unpack_from("<IIQBB", stream, at)
        if length == 0:
            break
        found.append((positions[page][1] + at - positions[page][0], length, manager, info))
        at += (length + 7) // 8 * 8
        if (manager, info & 0xF0) == (0, 0x40):
            while page < len(positions) and (
                positions[page][1] % MIB != 40 or positions[page][0] < at
            ):
                page += 1
            if page == len(positions):
                break
            at = positions[page][0]
    return found


def real_wal(cluster: Cluster) -> tuple[int, dict[Segment, bytes]]:
    system = int(cluster.sql("SELECT system_identifier FROM pg_control_system()")[0][0])
    current = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    found = {}
    for path in sorted(Path(cluster.pgdata, "pg_wal").glob("0*")):
        if len(path.name) == 24 and path.name <= current:
            found[Segment.parse(path.name, MIB)] = path.read_bytes()
    return system, found


def test_all_of_a_real_server_is_found(cluster_factory: ClusterFactory, major: int) -> None:
    settings = {
        "wal_keep_size": "1GB",
        "track_commit_timestamp": True,
        "max_prepared_transactions": 5,
    }
    cluster = cluster_factory(major, settings=settings)
    cluster.sql("CREATE TABLE t (n int)")
    point = Lsn.parse(cluster.sql("SELECT pg_create_restore_point('before ü')")[0][0])
    for number in range(40):
        cluster.sql(f"INSERT INTO t SELECT {number} FROM generate_series(1, 3000)")
        cluster.sql("BEGIN; INSERT INTO t VALUES (-1); ROLLBACK")
    cluster.sql("BEGIN; CREATE TABLE u (); INSERT INTO t VALUES (99); PREPARE TRANSACTION 'p'")
    cluster.sql("CHECKPOINT")
    cluster.sql("COMMIT PREPARED 'p'")
    known = {
        int(xid): from_datetime(time.astimezone(UTC))
        for xid, time in cluster.sql(
            "SELECT xmin::text, pg_xact_commit_timestamp(xmin) FROM t GROUP BY xmin"
        )
    }
    system, segments = real_wal(cluster)

    def following(segment: Segment) -> Iterator[Iterable[bytes]]:
        return ([data] for each, data in segments.items() if each.number > segment.number)

    found = [
        find_records(each, system, [data], lambda each=each: following(each))  # type: ignore[misc]
        for each, data in segments.items()
    ]
    everything = walked(segments)
    expected = [
        start
        for start, _, manager, info in everything
        if manager == RM_XACT and info & 0x70 in (0x00, 0x20, 0x30, 0x40)
    ]
    assert [end.lsn for each in found for end in each.ends()] == expected
    times = {end.xid: end.time for each in found for end in each.ends() if end.is_commit}
    assert len(known) == 41
    assert {xid: times[xid] for xid in known} == known
    events = [event for each in found for event in each.events]
    assert [event.lsn for event in events] == [
        start
        for start, _, manager, info in everything
        if manager == 0 and info & 0xF0 in (0x00, 0x10, 0x70, 0x90)
    ]
    (made,) = [event for event in events if event.kind is EventKind.RESTORE_POINT]
    assert made.name == "before ü"
    assert made.lsn < point <= made.lsn + 200
    assert EventKind.CHECKPOINT_ONLINE in {event.kind for event in events}
    for event in events:
        assert abs((to_datetime(event.time) - datetime.now(UTC)).days) < 100
        assert event.kind is EventKind.RESTORE_POINT or event.timeline == event.previous == 1
    whole = [start for start, length, _, _ in everything if start % MIB + length < MIB - 200 * 24]
    for each, segment in zip(found, segments, strict=True):
        inside = [start for start in whole if segment.start <= start < segment.end]
        assert each.last_record is not None
        assert not inside or each.last_record >= inside[-1]


def test_notes_of_a_segment_without_transactions_tell_its_last_record() -> None:
    writer = WalWriter(Segment(Timeline(1), 5, MIB), SYSTEM)
    writer.add(b"", manager=10)
    last = writer.add(bytes(100), manager=10)
    segments = writer.segments()
    (segment,) = segments
    notes = search(segments, segment).notes()
    assert notes == SegmentNotes(5, last_record=last - segment.start)
