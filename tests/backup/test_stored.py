"""What is read from a stored backup is whole, or an error."""

import resource
from collections.abc import Sequence
from dataclasses import replace

import pytest
import zstandard

from pgbackup.backup.stored import FrameReader, StoredBackup
from pgbackup.backup.stretches import cut, walk
from pgbackup.errors import CorruptData
from pgbackup.pg.tar import TarHeader
from pgbackup.repo import layout
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.seekable import Frame, encode_seek_table
from tests.backup.sample import LABEL, SYSTEM, Sample, rewrite, sample

BASE = layout.backup_folder(SYSTEM, LABEL) + "base.tar.zst"


def stored(made: Sample, storage: MemoryStorage | None = None) -> StoredBackup:
    cluster = made.put(storage or MemoryStorage())
    return StoredBackup(cluster.storage, cluster.catalog.get(LABEL))


class Collector:
    """A MemberHandler that keeps everything."""

    def __init__(self) -> None:
        self.members: dict[str, bytes] = {}
        self._name = ""

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self._name = header.name
        self.members[header.name] = b""

    def member_contents(self, data: memoryview) -> None:
        self.members[self._name] += data

    def end_member(self) -> None:
        pass


def read_all(backup: StoredBackup, jobs: int = 1) -> dict[str, bytes]:
    collector = Collector()
    for stretch in cut([(each, backup.index(each)) for each in backup.archives], jobs):
        for _ in walk(stretch, collector, FrameReader(stretch.archive)):
            pass
    return collector.members


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
def test_members_come_out_as_they_went_in(compressed: bool) -> None:
    made = sample()
    made.compressed = compressed
    expected = {member.name: member.content for member in made.archives[None]}
    assert read_all(stored(made)) == expected


def test_stretches_begin_at_members_and_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgbackup.backup.stretches.MIN_SIZE", 3000)
    made = sample(tablespace="/srv/space")
    backup = stored(made)
    archives = [(each, backup.index(each)) for each in backup.archives]
    stretches = cut(archives, 100)
    assert [each.size for each in stretches] == sorted(
        (each.size for each in stretches), reverse=True
    )
    for archive, entries in archives:
        own = sorted(
            (each for each in stretches if each.archive is archive), key=lambda each: each.start
        )
        assert [entry for each in own for entry in each.entries] == entries
        assert [each.end for each in own] == [each.start for each in own[1:]] + [
            archive.record.size
        ]
    assert len(stretches) > 4
    assert len(read_all(backup, 100)) == sum(len(members) for members in made.archives.values())


def test_a_flipped_bit_never_gives_other_content() -> None:
    storage = MemoryStorage()
    backup = stored(sample(), storage)
    expected = read_all(backup)
    data = storage.read(BASE)
    found = 0
    for position in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        rewrite(storage, BASE, bytes(damaged))
        try:
            # A frame's header has a bit without meaning; only verify, which compares the object's
            # own checksum, can find that it was flipped.
            assert read_all(StoredBackup(storage, backup.record)) == expected
        except CorruptData:
            found += 1
    assert found >= len(range(0, len(data), 5)) - len(backup.archives[0].frames)


@pytest.mark.parametrize("is_record_edited", [False, True], ids=["", "record-edited"])
def test_truncation_at_every_frame_and_inside_the_last_is_found(is_record_edited: bool) -> None:
    storage = MemoryStorage()
    backup = stored(sample(), storage)
    data = storage.read(BASE)
    frames = backup.archives[0].frames
    ends = [frame.stored_offset for frame in frames]
    for end in [*ends, ends[-1] + 5, len(data) - 1, len(data) - 9]:
        rewrite(storage, BASE, data[:end])
        record = backup.record
        if is_record_edited:
            changed = (replace(record.archives[0], stored_size=end),)
            record = replace(record, archives=changed)
        with pytest.raises(CorruptData):
            read_all(StoredBackup(storage, record))


def swap_frames(data: bytes, frames: Sequence[Frame]) -> bytes:
    """The archive with two frames of equal plain size in each other's place, table included."""
    pieces = [data[each.stored_offset :][: each.stored_size] for each in frames]
    order = [1, 0, *range(2, len(frames))]
    table = [(frames[n].stored_size, frames[n].size, frames[n].checksum) for n in order]
    return b"".join(pieces[n] for n in order) + encode_seek_table(table)


def test_frames_in_another_order_are_found() -> None:
    storage = MemoryStorage()
    backup = stored(sample(), storage)
    rewrite(storage, BASE, swap_frames(storage.read(BASE), backup.archives[0].frames))
    with pytest.raises(CorruptData):
        read_all(StoredBackup(storage, backup.record))


def test_a_frame_that_claims_to_be_huge_is_not_decoded() -> None:
    storage = MemoryStorage()
    backup = stored(sample(), storage)
    bomb = zstandard.ZstdCompressor(1, write_checksum=True).compress(bytes(500 << 20))
    plain = backup.archives[0].record.size
    table = encode_seek_table([(len(bomb), plain, int.from_bytes(bomb[-4:], "little"))])
    rewrite(storage, BASE, bomb + table)
    archive = replace(backup.record.archives[0], stored_size=len(bomb + table))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptData, match="not the frame of the seek table"):
        read_all(StoredBackup(storage, replace(backup.record, archives=(archive,))))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_archive_without_end_marker_is_refused() -> None:
    made = sample()
    made.end_marker = b""
    with pytest.raises(CorruptData, match="no end marker"):
        read_all(stored(made))


@pytest.mark.parametrize("change", ["cut", "flip", "longer"])
def test_another_object_is_compared_with_the_record(change: str) -> None:
    storage = MemoryStorage()
    backup = stored(sample(), storage)
    data = storage.read(backup.folder + layout.MANIFEST)
    changed = {"cut": data[:-1], "flip": b"[" + data[1:], "longer": data + b"\n"}[change]
    rewrite(storage, backup.folder + layout.MANIFEST, changed)
    with pytest.raises(CorruptData, match="backup_manifest"):
        backup.manifest()
