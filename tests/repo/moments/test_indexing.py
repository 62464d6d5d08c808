"""Notes of segments are made once, survive what happens to them, and can be made again."""

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.inventory import read_timelines
from pgbackup.repo.moments.indexing import Indexed, bring_up_to_date
from pgbackup.repo.moments.indexpieces import Piece, joined, put_piece, read_pieces
from pgbackup.repo.moments.walindex import SegmentNotes, TimelineIndex
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.backup.wal import MIB, WalWriter
from tests.repo.moments.test_recordsearch import COMMIT, RM_XACT, main_data
from tests.repo.samples import SYSTEM

RESTORE_POINT = 0x70


@pytest.fixture
def cluster() -> ClusterRepository:
    return bound(Repository.open(MemoryStorage(), create=True))


def bound(repository: Repository) -> ClusterRepository:
    cluster = repository.cluster(SYSTEM)
    cluster.bind(150000, MIB)
    return cluster


def wal(first: int, count: int, timeline: int = 1) -> list[tuple[Segment, bytes]]:
    """Segments with ten commits each, at times that are their positions, and a restore point."""
    writer = WalWriter(Segment(Timeline(timeline), first, MIB), SYSTEM)
    for number in range(first, first + count):
        point = struct.pack("<q", number) + f"point {number}".encode().ljust(64, b"\0")
        writer.add(main_data(point), RESTORE_POINT)
        for _ in range(10):
            data = main_data(struct.pack("<q", int(writer.position)))
            writer.add(data, COMMIT, RM_XACT)
        writer.switch()
    return list(writer.segments().items())


def put(cluster: ClusterRepository, *segments: tuple[Segment, bytes]) -> None:
    for segment, data in segments:
        with cluster.archive.segment_writer(segment, 1) as writer:
            writer.write(data)
            writer.commit()


def bring(cluster: ClusterRepository) -> tuple[Indexed, int]:
    """Bring up to date; the result and how many segments were read."""
    read: list[int] = []
    indexed = bring_up_to_date(cluster, read_timelines(cluster), MIB, advance=read.append)
    return indexed, len(read)


def objects(cluster: ClusterRepository) -> list[str]:
    folder = layout.wal_index_folder(SYSTEM)
    return [each.name for each in cluster.storage.list(folder)]


def test_only_what_is_new_is_read(cluster: ClusterRepository) -> None:
    segments = wal(5, 12)
    for end in (3, 4, 9, 12):
        put(cluster, *segments[:end] if end == 3 else segments[end - 1 : end])
        bring(cluster)
    put(cluster, *segments)
    indexed, read = bring(cluster)
    assert read == 12 - 6
    assert len(indexed.index) == 12
    assert bring(cluster)[1] == 0
    for segment, _ in segments:
        notes = indexed.index.notes(segment)
        assert notes is not None
        assert (notes.commits, notes.first_time > segment.start) == (10, True)
    timeline = indexed.index.timeline(Timeline(1))
    assert timeline is not None
    assert [event.name for event in timeline.events] == [f"point {n}" for n in range(5, 17)]


def test_there_are_never_many_objects(cluster: ClusterRepository) -> None:
    for each in wal(5, 40):
        put(cluster, each)
        bring(cluster)
    assert len(objects(cluster)) <= 7
    indexed, read = bring(cluster)
    assert (len(indexed.index), read) == (40, 0)


def test_expired_segments_disappear(cluster: ClusterRepository) -> None:
    segments = wal(5, 8)
    put(cluster, *segments)
    bring(cluster)
    for segment, _ in segments[:3]:
        cluster.archive.delete(segment.name)
    indexed, _ = bring(cluster)
    assert len(indexed.index) == 5
    assert sum(len(p.numbers) for p in read_pieces(cluster, MIB)) == 8
    for segment, _ in segments[3:6]:
        cluster.archive.delete(segment.name)
    bring(cluster)
    assert [list(p.numbers) for p in read_pieces(cluster, MIB)] == [[11, 12]]
    for segment, _ in segments[6:]:
        cluster.archive.delete(segment.name)
    bring(cluster)
    assert objects(cluster) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_object_is_made_again(tmp_path: Path, damage: str) -> None:
    cluster = bound(Repository.open(LocalStorage(tmp_path / "repo"), create=True))
    put(cluster, *wal(5, 4))
    bring(cluster)
    (name,) = objects(cluster)
    path = tmp_path / "repo" / name
    data = bytearray(path.read_bytes())
    path.chmod(0o600)
    data[100] ^= 1
    content = {"cut": data[:-9], "flip": data, "empty": b"", "other": b"x" * 1000}[damage]
    path.write_bytes(content)
    indexed, read = bring(cluster)
    assert (len(indexed.index), read) == (4, 4)
    assert objects(cluster) == [name]
    assert bring(cluster)[1] == 0


def test_unknown_objects_stay(cluster: ClusterRepository) -> None:
    name = layout.wal_index_folder(SYSTEM) + "notes.txt"
    cluster.storage.create(name, b"mine")
    put(cluster, *wal(5, 2))
    bring(cluster)
    bring(cluster)
    assert name in objects(cluster)


def test_a_segment_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path) -> None:
    cluster = bound(Repository.open(LocalStorage(tmp_path / "repo"), create=True))
    segments = wal(5, 3)
    put(cluster, *segments)
    name = layout.segment_object(SYSTEM, segments[1][0].name, True)
    path = tmp_path / "repo" / name
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-5])
    for read in (3, 1):
        indexed, count = bring(cluster)
        assert count == read
        assert [each.segment.number for each in indexed.unread] == [6]
        assert indexed.index.notes(segments[1][0]) is None


def test_a_commit_that_goes_on_in_what_is_not_there_yet_is_noted_later(
    cluster: ClusterRepository,
) -> None:
    writer = WalWriter(Segment(Timeline(1), 5, MIB), SYSTEM)
    writer.add(main_data(struct.pack("<q", 77) + bytes(MIB)), COMMIT, RM_XACT)
    writer.switch()
    first, second = writer.segments().items()
    put(cluster, first)
    indexed, _ = bring(cluster)
    notes = indexed.index.notes(first[0])
    assert notes is not None
    assert notes.commits == 0
    put(cluster, second)
    indexed, read = bring(cluster)
    assert read == 2
    notes = indexed.index.notes(first[0])
    assert notes is not None
    assert notes.commits == 1


def test_what_was_read_before_an_interruption_is_stored(cluster: ClusterRepository) -> None:
    put(cluster, *wal(5, 9))
    left = [4]

    def interrupt(length: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(cluster, read_timelines(cluster), MIB, advance=interrupt)
    assert bring(cluster)[1] == 5


def test_several_at_once_agree(tmp_path: Path) -> None:
    cluster = bound(Repository.open(LocalStorage(tmp_path / "repo"), create=True))
    segments = wal(5, 12)

    def work() -> None:
        for _ in range(6):
            bring(cluster)

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(work) for _ in range(3)]
        for each in segments:
            put(cluster, each)
        for future in running:
            future.result()
    indexed, _ = bring(cluster)
    assert len(indexed.index) == 12
    assert bring(cluster)[1] == 0


def test_of_overlapping_pieces_each_segment_counts_once(cluster: ClusterRepository) -> None:
    def piece(*numbers: int) -> Piece:
        notes = [SegmentNotes(number, commits=number) for number in numbers]
        return Piece.of_notes(Timeline(2), notes, [])

    whole = joined(Timeline(2), [piece(5, 6, 9), piece(6, 7), piece(), piece(1)])
    index = TimelineIndex(Timeline(2), MIB, whole.rows)
    assert list(index.column("number")) == [1, 5, 6, 7, 9]
    assert list(index.column("commits")) == [1, 5, 6, 7, 9]
    stored = put_piece(cluster, whole, MIB)
    assert [p.rows for p in read_pieces(cluster, MIB)] == [stored.rows]


def test_what_was_read_need_not_be_kept(cluster: ClusterRepository) -> None:
    put(cluster, *wal(5, 3))
    timelines = read_timelines(cluster)
    indexed = bring_up_to_date(cluster, timelines, MIB, is_stored=False)
    assert len(indexed.index) == 3
    assert objects(cluster) == []
