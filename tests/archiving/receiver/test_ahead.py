"""Whole segments that go from memory into the archive: in order, or not at all."""

import errno
from pathlib import Path

import pytest

from pgbackup.archiving.receiver.ahead import SegmentsAhead
from pgbackup.archiving.receiver.received import ReceivedWal
from pgbackup.errors import StorageError, WrongSystem
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.repository import ClusterRepository
from pgbackup.storage.local import LocalStorage
from tests.backup.wal import MIB, WalWriter
from tests.storage.test_durable import RecordingFileSystem

SYSTEM = 7412345678901234567
FIRST = Segment(Timeline(1), 2, MIB)


def sample(count: int, system: int = SYSTEM) -> dict[Segment, bytes]:
    writer = WalWriter(FIRST, system)
    while writer.position < FIRST.start + count * MIB - 70_000:
        writer.add(writer.position.to_bytes(8, "big") * 5000)
    writer.switch()
    return writer.segments()


WAL = sample(5)
BYTES = b"".join(WAL.values())


def store(ahead: SegmentsAhead) -> None:
    for segment, data in WAL.items():
        buffer = ahead.acquire()
        buffer.view[:] = data
        ahead.add(segment, buffer)


def test_segments_are_stored_in_order(tmp_path: Path) -> None:
    archive = WalArchive(LocalStorage(tmp_path), SYSTEM)
    with SegmentsAhead(archive, 1, MIB) as ahead:
        store(ahead)
        assert ahead.take_stored(wait=True) == list(WAL)
        assert ahead.take_stored(wait=True) == []
    for segment, data in WAL.items():
        assert b"".join(archive.chunks(segment.name, MIB)) == data


@pytest.mark.parametrize("level", [None, 1], ids=["plain", "zstd"])
def test_segments_far_behind_are_never_partial(tmp_path: Path, level: int | None) -> None:
    with received(tmp_path, level=level) as wal:
        wal.begin(WalPosition(FIRST.timeline, FIRST.start))
        wal.follow(lambda: Lsn(FIRST.start + 5 * MIB))
        feed(wal, BYTES[:MIB])
        for number in range(1, 5):
            feed(wal, BYTES[number * MIB : (number + 1) * MIB])
            assert not [each for each in names(tmp_path) if each.endswith(".partial")]
        wal.flush()
        assert wal.flush_lsn == FIRST.start + 5 * MIB
        wal.finish()
    suffix = "" if level is None else ".zst"
    assert names(tmp_path) == [f"{each.name}{suffix}" for each in WAL]


def test_after_a_failure_nothing_behind_it_is_stored(tmp_path: Path) -> None:
    filesystem = RecordingFileSystem("link", 3, errno.ENOSPC)
    archive = WalArchive(LocalStorage(tmp_path, filesystem=filesystem), SYSTEM)
    with SegmentsAhead(archive, 1, MIB) as ahead:
        store(ahead)
        assert ahead.take_stored(wait=True) == list(WAL)[:2]
        with pytest.raises(StorageError, match="no space left"):
            ahead.take_stored(wait=True)
        assert [each.name.text for each in archive.segments()] == [
            each.name for each in list(WAL)[:2]
        ]
        ahead.forget()
        store(ahead)
        assert ahead.take_stored(wait=True) == list(WAL)


def received(path: Path, *, level: int | None = 1) -> ReceivedWal:
    cluster = ClusterRepository(LocalStorage(path), SYSTEM)
    return ReceivedWal(cluster, str(path), MIB, level, print)


def feed(wal: ReceivedWal, data: bytes, step: int = 131_072) -> None:
    left = memoryview(data)
    while left:
        wal.write(wal.write_lsn, left[:step])
        assert wal.flush_lsn <= wal.write_lsn
        left = left[step:]


def names(path: Path) -> list[str]:
    return sorted(each.name for each in (path / str(SYSTEM) / "wal").iterdir())


@pytest.mark.parametrize("step", [131_072, 3 * MIB + 17, 8191])
def test_far_behind_only_the_first_and_the_last_segment_are_raw_files(
    tmp_path: Path, step: int
) -> None:
    finished: list[Segment] = []
    with received(tmp_path) as wal:
        wal.directory._finished = finished.append
        wal.begin(WalPosition(FIRST.timeline, FIRST.start))
        wal.follow(lambda: Lsn(FIRST.start + 4 * MIB + 5))
        feed(wal, BYTES[: 4 * MIB + 1000], step)
        wal.flush()
        assert wal.flush_lsn == wal.write_lsn == FIRST.start + 4 * MIB + 1000
        assert finished == [FIRST]
    last = list(WAL)[4]
    assert names(tmp_path) == [
        FIRST.name,
        *(f"{each.name}.zst" for each in list(WAL)[1:4]),
        f"{last.name}.partial",
    ]
    archive = WalArchive(LocalStorage(tmp_path), SYSTEM)
    assert (
        b"".join(b"".join(archive.chunks(each.name)) for each in list(WAL)[:4]) == BYTES[: 4 * MIB]
    )


def test_a_flush_takes_the_segment_in_memory_to_the_disk(tmp_path: Path) -> None:
    with received(tmp_path) as wal:
        wal.begin(WalPosition(FIRST.timeline, FIRST.start))
        wal.follow(lambda: Lsn(FIRST.start + 5 * MIB))
        feed(wal, BYTES[: MIB + 70_000])
        assert not [each for each in names(tmp_path) if each.endswith(".partial")]
        assert wal.flush_lsn == FIRST.end
        wal.flush()
        assert wal.flush_lsn == wal.write_lsn == FIRST.end + 70_000
        (partial,) = (tmp_path / str(SYSTEM) / "wal").glob("*.partial")
        assert partial.read_bytes() == BYTES[MIB : MIB + 70_000] + bytes(MIB - 70_000)
        feed(wal, BYTES[MIB + 70_000 :])
        wal.flush()
        wal.finish()
    assert names(tmp_path) == [f"{each.name}.zst" for each in WAL]


def test_what_was_in_memory_is_received_again_after_a_cut(tmp_path: Path) -> None:
    with received(tmp_path) as wal:
        wal.begin(WalPosition(FIRST.timeline, FIRST.start))
        wal.follow(lambda: Lsn(FIRST.start + 5 * MIB))
        feed(wal, BYTES[: 2 * MIB + 70_000])
        wal.release()
        wal.begin(WalPosition(FIRST.timeline, Lsn(FIRST.start + 2 * MIB)))
        feed(wal, BYTES[2 * MIB :])
        wal.flush()
        assert wal.flush_lsn == FIRST.start + 5 * MIB
    archive = WalArchive(LocalStorage(tmp_path), SYSTEM)
    assert b"".join(b"".join(archive.chunks(each.name)) for each in WAL) == BYTES


def test_wal_of_another_system_is_not_stored_from_memory_either(tmp_path: Path) -> None:
    foreign = b"".join(sample(3, SYSTEM + 1).values())
    with received(tmp_path) as wal:
        wal.begin(WalPosition(FIRST.timeline, FIRST.start))
        wal.follow(lambda: Lsn(FIRST.start + 5 * MIB))
        feed(wal, BYTES[:MIB])
        with pytest.raises(WrongSystem):
            feed(wal, foreign[MIB : 2 * MIB])
        wal.release()
    assert len(names(tmp_path)) == 1
