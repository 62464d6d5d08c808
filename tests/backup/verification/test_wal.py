"""WAL of segments of any size is checked in little memory."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbackup.backup.stored import StoredBackup
from pgbackup.backup.verification.wal import WalCheck
from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.backup.sample import LABEL, SYSTEM, Sample, rewrite, sample
from tests.backup.wal import MIB, WalWriter


def large(size: int, used: int) -> Sample:
    """A backup whose WAL is one segment. used: bytes of it in front of the switch."""
    source = random.Random(size)
    writer = WalWriter(Segment(Timeline(1), 2, size), SYSTEM)
    starts = [writer.add(b""), writer.add(source.randbytes(3 * MIB))]
    while writer.position < 2 * size + used:
        writer.add(source.randbytes(50_000) + bytes(50_000))
    made = sample()
    made.start, made.stop = starts[0], writer.switch()
    made.segments = writer.segments()
    assert len(made.segments) == 1
    made.changes["wal_segment_size"] = size
    return made


def check(cluster: ClusterRepository, advance: Callable[[int], object] = bool) -> list[str]:
    backup = StoredBackup(cluster.storage, cluster.catalog.get(LABEL))
    return list(WalCheck(backup, cluster.archive, advance).problems())


def peak(cluster: ClusterRepository) -> int:
    """Bytes that Python's own memory grows by during a check that finds nothing."""
    check(cluster)
    tracemalloc.start()
    try:
        assert check(cluster) == []
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def keep_as_tail(made: Sample) -> None:
    ((segment, data),) = made.segments.items()
    made.segments = {}
    made.tail = (f"{segment.name}.partial", data[: made.stop - segment.start])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "zstd", "zstd-nearly-empty", "tail"])
def test_memory_does_not_grow_with_the_segment(form: str, tmp_path: Path) -> None:
    peaks = []
    for size in (8 * MIB, 64 * MIB):
        made = large(size, used=4 * MIB if form == "zstd-nearly-empty" else size - MIB)
        made.level = None if form == "plain" else 1
        if form == "tail":
            keep_as_tail(made)
        peaks.append(peak(made.put(LocalStorage(tmp_path / f"repo{size}"))))
    assert peaks[1] < peaks[0] + MIB
    assert peaks[1] < 8 * MIB


def test_progress_comes_while_a_segment_is_read_and_adds_up_to_it() -> None:
    for tail in (False, True):
        made = large(16 * MIB, used=10 * MIB)
        if tail:
            keep_as_tail(made)
        seen: list[int] = []
        assert check(made.put(MemoryStorage()), seen.append) == []
        assert sum(seen) == 16 * MIB
        assert len(seen) > 10


@pytest.mark.parametrize("at", [0, 3, 2 * MIB + 5, 5 * MIB, 9 * MIB, 12 * MIB, 16 * MIB - 1])
def test_damage_is_found_wherever_it_is_in_a_large_segment(at: int) -> None:
    made = large(16 * MIB, used=10 * MIB)
    made.level = None
    cluster = made.put(MemoryStorage())
    ((segment, data),) = made.segments.items()
    changed = bytearray(data)
    changed[at] ^= 4
    rewrite(cluster.storage, layout.wal_object(SYSTEM, segment.name, compressed=False), changed)
    (problem,) = check(cluster)
    assert "WAL segment" in problem


def test_a_damaged_object_is_told_of_and_not_what_its_content_looks_like() -> None:
    made = large(16 * MIB, used=10 * MIB)
    cluster = made.put(MemoryStorage())
    (segment,) = made.segments
    name = layout.wal_object(SYSTEM, segment.name, compressed=True)
    stored = bytearray(cluster.storage.read(name))
    stored[4 * MIB] ^= 4
    rewrite(cluster.storage, name, stored)
    assert check(cluster) == [
        f'could not read object "memory:/{name}": a frame cannot be decompressed'
    ]


def test_a_tail_that_ends_elsewhere_than_the_backup_is_found() -> None:
    made = large(8 * MIB, used=5 * MIB)
    keep_as_tail(made)
    assert made.tail is not None
    made.tail = (made.tail[0], made.tail[1][:-8])
    (problem,) = check(made.put(MemoryStorage()))
    assert f"the backup at {made.stop}" in problem
