"""A WAL file name is bound to one content for ever."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pgbackup.errors import Conflict, CorruptData, NotFound, PgbackupError, StorageError, UsageError
from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.record import WalRange
from pgbackup.repo.storedwal import StoredWal
from pgbackup.storage.api import Storage
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.repo.samples import MIB, SYSTEM

SEGMENT = Segment(Timeline(10), 33, MIB)
NAME = SEGMENT.name
CONTENT = os.urandom(4096) + bytes(MIB - 8192) + os.urandom(4096)
OTHER = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
LEVELS = [pytest.param(None, id="plain"), pytest.param(1, id="zstd")]


@pytest.fixture
def archive(storage: Storage) -> WalArchive:
    return WalArchive(storage, SYSTEM)


def push(archive: WalArchive, content: bytes, level: int | None, step: int = 100_000) -> None:
    with archive.segment_writer(SEGMENT, level) as writer:
        for start in range(0, len(content), step):
            writer.write(memoryview(content)[start : start + step])
        writer.commit()


def read(archive: WalArchive, size: int | None = MIB) -> bytes:
    return b"".join(archive.chunks(NAME, size))


def stored(archive: WalArchive) -> list[str]:
    return [found.name.removeprefix(f"{SYSTEM}/") for found in archive.storage.list()]


@pytest.mark.parametrize("level", LEVELS)
def test_a_segment_is_archived_and_read(archive: WalArchive, level: int | None) -> None:
    assert archive.find(NAME) is None
    push(archive, CONTENT, level)
    assert read(archive) == CONTENT
    assert archive.find(NAME) == layout.segment_object(SYSTEM, NAME, level is not None)
    assert stored(archive) == [f"wal/{NAME}{'' if level is None else '.zst'}"]


def test_a_compressed_segment_is_an_ordinary_zstd_file(tmp_path: Path) -> None:
    push(WalArchive(LocalStorage(tmp_path), SYSTEM), CONTENT, 3)
    tool = shutil.which("zstd")
    assert tool, 'the zstd tool is missing: "apt install zstd"'
    path = tmp_path / str(SYSTEM) / "wal" / f"{NAME}.zst"
    done = subprocess.run([tool, "-dc", path], capture_output=True, check=True)
    assert done.stdout == CONTENT


@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
@pytest.mark.parametrize("step", [MIB, 4096, 300_001])
def test_the_same_content_again_is_success(
    archive: WalArchive, first: int | None, second: int | None, step: int
) -> None:
    push(archive, CONTENT, first)
    before = stored(archive)
    push(archive, CONTENT, second, step)
    assert stored(archive) == before
    assert list(archive.conflicts()) == []


@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
@pytest.mark.parametrize("position", [0, 100_000, 524_288, MIB - 1])
def test_other_content_is_a_conflict_and_kept_aside(
    archive: WalArchive, first: int | None, second: int | None, position: int
) -> None:
    other = bytearray(CONTENT)
    other[position] ^= 1
    push(archive, CONTENT, first)
    with pytest.raises(Conflict, match=f'"{NAME}": it is in the archive with other content'):
        push(archive, bytes(other), second)
    assert read(archive) == CONTENT
    assert list(archive.conflicts()) == [NAME]
    assert archive.storage.read(layout.conflict_object(SYSTEM, NAME)) == other


def test_one_newcomer_is_kept_however_often_it_comes(archive: WalArchive) -> None:
    push(archive, CONTENT, None)
    for content in [OTHER, OTHER, bytes(MIB)]:
        with pytest.raises(Conflict):
            push(archive, content, None)
    assert archive.storage.read(layout.conflict_object(SYSTEM, NAME)) == OTHER
    assert stored(archive) == [f"conflict/{NAME}", f"wal/{NAME}"]


@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
def test_a_slower_writer_of_the_same_content_succeeds(
    archive: WalArchive, first: int | None, second: int | None
) -> None:
    with archive.segment_writer(SEGMENT, second) as slow:
        slow.write(CONTENT)
        push(archive, CONTENT, first)
        slow.commit()
    assert read(archive) == CONTENT


@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
def test_a_slower_writer_of_other_content_gets_a_conflict(
    archive: WalArchive, first: int | None, second: int | None
) -> None:
    with archive.segment_writer(SEGMENT, second) as slow:
        slow.write(OTHER)
        push(archive, CONTENT, first)
        with pytest.raises(Conflict):
            slow.commit()
    assert read(archive) == CONTENT
    assert stored(archive) == [f"wal/{NAME}{'' if first is None else '.zst'}"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_segment_in_memory_is_archived_at_once(archive: WalArchive, level: int | None) -> None:
    with archive.whole_writer(SEGMENT, memoryview(CONTENT), level) as writer:
        assert archive.find(NAME) is None
        writer.commit()
    assert read(archive) == CONTENT
    with archive.whole_writer(SEGMENT, memoryview(CONTENT), level) as again:
        again.commit()
    with (
        archive.whole_writer(SEGMENT, memoryview(OTHER), level) as other,
        pytest.raises(Conflict),
    ):
        other.commit()
    assert read(archive) == CONTENT


@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
def test_a_segment_in_memory_is_compared_with_what_was_stored_meanwhile(
    archive: WalArchive, first: int | None, second: int | None
) -> None:
    with archive.whole_writer(SEGMENT, memoryview(CONTENT), second) as slow:
        push(archive, CONTENT, first)
        slow.commit()
    archive.delete(NAME)
    with archive.whole_writer(SEGMENT, memoryview(OTHER), second) as slow:
        push(archive, CONTENT, first)
        with pytest.raises(Conflict):
            slow.commit()
    assert read(archive) == CONTENT
    assert stored(archive) == [f"wal/{NAME}{'' if first is None else '.zst'}"]


class Impatient(MemoryStorage):
    """Somebody else stores the other form at the very moment of a commit."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content: bytes | None = content

    def exists(self, name: str) -> bool:
        found = super().exists(name)
        if self._content is not None and name.endswith(NAME) and super().exists(name + ".zst"):
            self.create(name, self._content)
            self._content = None
            return True
        return found


@pytest.mark.parametrize("content", [CONTENT, OTHER], ids=["same", "other"])
def test_two_forms_stored_at_the_same_moment_are_compared(content: bytes) -> None:
    archive = WalArchive(Impatient(content), SYSTEM)
    if content == CONTENT:
        push(archive, CONTENT, 1)
        assert len(archive.files()) == 2
    else:
        with pytest.raises(Conflict):
            push(archive, CONTENT, 1)
        assert [each.is_compressed for each in archive.files()] == [False]
    assert read(archive) == content


class Compressing(MemoryStorage):
    """A receiver beside us compresses the plain segment right after a given look at it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def exists(self, name: str) -> bool:
        found = super().exists(name)
        if found and name.endswith(NAME):
            self.looks -= 1
            if self.looks == 0:
                WalArchive(self, SYSTEM).compress(NAME, MIB, 1)
        return found


@pytest.mark.parametrize("content", [CONTENT, OTHER], ids=["same", "other"])
@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("second", LEVELS)
def test_a_segment_that_is_compressed_while_it_is_compared_is_found(
    second: int | None, looks: int, content: bytes
) -> None:
    storage = Compressing(looks)
    archive = WalArchive(storage, SYSTEM)
    with archive.segment_writer(SEGMENT, second) as slow:
        slow.write(content)
        with archive.segment_writer(SEGMENT, None) as quick:
            quick.write(CONTENT)
            quick.commit()
        if content == CONTENT:
            slow.commit()
        else:
            with pytest.raises(Conflict):
                slow.commit()
    assert read(archive) == CONTENT


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_segment_that_is_compressed_while_it_is_pushed_again_is_found(looks: int) -> None:
    storage = Compressing(0)
    archive = WalArchive(storage, SYSTEM)
    push(archive, CONTENT, None)
    storage.looks = looks
    push(archive, CONTENT, 1)
    assert storage.looks <= 0
    assert read(archive) == CONTENT


@pytest.mark.parametrize("contents", [(CONTENT, OTHER), (CONTENT, CONTENT)], ids=["other", "same"])
def test_of_two_writers_at_once_one_wins_and_the_other_knows(
    storage: Storage, contents: tuple[bytes, bytes]
) -> None:
    barrier = Barrier(2)

    def race(content: bytes, number: int) -> PgbackupError | None:
        try:
            with WalArchive(storage, number).segment_writer(SEGMENT, None) as writer:
                writer.write(content)
                barrier.wait()
                writer.commit()
        except Conflict as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        for number in range(1, 31):
            errors = list(pool.map(race, contents, [number] * 2))
            kept = b"".join(WalArchive(storage, number).chunks(NAME, MIB))
            if contents[0] == contents[1]:
                assert errors == [None, None]
            else:
                assert [error is None for error in errors] == [each == kept for each in contents]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "again"])
@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB + 1])
def test_a_segment_of_wrong_size_is_refused(
    archive: WalArchive, level: int | None, is_there: bool, size: int
) -> None:
    if is_there:
        push(archive, CONTENT, level)
    before = stored(archive)
    with pytest.raises(CorruptData, match=f"it has {size} bytes and not {MIB}"):
        push(archive, (CONTENT + b"x")[:size], level, step=2 * MIB)
    assert stored(archive) == before


def test_an_abandoned_segment_leaves_nothing(archive: WalArchive) -> None:
    with archive.segment_writer(SEGMENT, 1) as writer:
        writer.write(CONTENT[:1000])
    assert stored(archive) == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_truncated_object_is_never_read_as_a_segment(
    archive: WalArchive, level: int | None
) -> None:
    push(archive, CONTENT, level)
    name = layout.segment_object(SYSTEM, NAME, level is not None)
    whole = archive.storage.read(name)
    cuts = {*range(0, len(whole), 4096), *range(len(whole) - 9, len(whole))}
    for end in sorted(cuts):
        with archive.storage.writer(name) as writer:
            writer.write(whole[:end])
            writer.commit(replace=True)
        with pytest.raises(CorruptData):
            read(archive)
        if level is not None:
            with pytest.raises(CorruptData):
                read(archive, None)


def test_a_segment_longer_than_expected_is_damage(archive: WalArchive) -> None:
    for form in [CONTENT + b"x", CONTENT * 2]:
        name = layout.segment_object(SYSTEM, NAME, False)
        archive.storage.create(name, form)
        with pytest.raises(CorruptData, match=f"it is not of {MIB} bytes"):
            read(archive)
        archive.storage.delete(name)


@pytest.mark.parametrize("level", LEVELS)
def test_a_damaged_archived_segment_is_no_success(archive: WalArchive, level: int | None) -> None:
    push(archive, CONTENT, level)
    name = layout.segment_object(SYSTEM, NAME, level is not None)
    with archive.storage.writer(name) as writer:
        writer.write(archive.storage.read(name)[:-1])
        writer.commit(replace=True)
    with pytest.raises((CorruptData, Conflict)):
        push(archive, CONTENT, level)


def test_what_is_not_there_is_not_found(archive: WalArchive) -> None:
    missing = f'could not find WAL file "{NAME}"'
    with pytest.raises(NotFound, match=missing):
        archive.read(NAME)
    with pytest.raises(NotFound, match=missing):
        archive.sync(NAME)
    with pytest.raises(NotFound, match=missing):
        read(archive)


@pytest.mark.parametrize(
    "name", ["", "RECOVERYXLOG", "../pgbackup.json", "0" * 24, NAME.lower(), NAME + ".zst", "."]
)
def test_names_that_postgresql_would_not_give_are_refused(archive: WalArchive, name: str) -> None:
    for call in [archive.find, archive.read, archive.delete]:
        with pytest.raises(UsageError, match="PostgreSQL names no file like this"):
            call(name)
    with pytest.raises(UsageError):
        archive.put_file(name, b"x")
    assert stored(archive) == []


def test_a_history_file_follows_the_same_rules(archive: WalArchive) -> None:
    archive.put_history(Timeline(10), b"1\t0/2000000\tno recovery target specified\n")
    archive.put_history(Timeline(10), b"1\t0/2000000\tno recovery target specified\n")
    assert archive.read("0000000A.history").startswith(b"1\t0/2000000")
    for other in [b"1\t0/2000001\tno\n", b"1\t0/20", b"", archive.read("0000000A.history") + b"\n"]:
        with pytest.raises(Conflict):
            archive.put_history(Timeline(10), other)
    assert archive.storage.read(layout.conflict_object(SYSTEM, "0000000A.history")) == (
        b"1\t0/2000001\tno\n"
    )


def test_partial_and_full_segments_do_not_meet(archive: WalArchive) -> None:
    with archive.file_writer(NAME + ".partial", MIB, 1) as writer:
        writer.write(OTHER)
        writer.commit()
    assert archive.find(NAME) is None
    push(archive, CONTENT, 1)
    assert read(archive) == CONTENT
    assert archive.read(NAME + ".partial") == OTHER
    assert [each.name.text for each in archive.segments()] == [NAME]


def test_the_listing_tells_forms_and_sizes_and_passes_over_strangers(
    archive: WalArchive,
) -> None:
    push(archive, CONTENT, None)
    archive.storage.create(layout.segment_object(SYSTEM, NAME, True), b"twice")
    archive.storage.create(layout.wal_folder(SYSTEM) + "README", b"")
    later = SEGMENT.next().name
    archive.storage.create(layout.segment_object(SYSTEM, later, True), b"12345")
    archive.put_history(Timeline(10), b"x")
    assert [(each.name.text, each.is_compressed, each.stored_size) for each in archive.files()] == [
        ("0000000A.history", False, 1),
        (NAME, False, MIB),
        (NAME, True, 5),
        (later, True, 5),
    ]
    assert [(each.name.text, each.is_compressed) for each in archive.segments()] == [
        (NAME, False),
        (later, True),
    ]


def test_missing_segments_are_named(archive: WalArchive) -> None:
    push(archive, CONTENT, 1)
    around = WalRange(10, Segment(Timeline(10), 31, MIB).name, Segment(Timeline(10), 34, MIB).name)
    assert archive.missing([around], MIB) == [
        Segment(Timeline(10), number, MIB).name for number in (31, 32, 34)
    ]
    assert archive.missing([WalRange(10, NAME, NAME)], MIB) == []
    assert archive.missing([], MIB) == []


def test_a_deleted_segment_is_gone_in_both_forms(archive: WalArchive) -> None:
    push(archive, CONTENT, None)
    archive.storage.create(layout.segment_object(SYSTEM, NAME, True), b"twice")
    archive.delete(NAME)
    assert stored(archive) == []
    archive.delete(NAME)


class SyncFailing(FileSystem):
    """Counts syncs, and fails all of them from a point in time on."""

    def __init__(self) -> None:
        self.syncs = 0
        self.synced: list[str] = []
        self.is_failing = False

    def fsync(self, fd: int) -> None:
        self.syncs += 1
        self.synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        if self.is_failing:
            raise OSError(5, "Input/output error")
        super().fsync(fd)


def test_the_same_content_again_is_made_durable_again(tmp_path: Path) -> None:
    filesystem = SyncFailing()
    archive = WalArchive(LocalStorage(tmp_path, filesystem=filesystem), SYSTEM)
    push(archive, CONTENT, None)
    before = filesystem.syncs
    push(archive, CONTENT, None)
    assert filesystem.syncs > before
    filesystem.is_failing = True
    with pytest.raises(StorageError):
        push(archive, CONTENT, None)


@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
def test_what_a_faster_writer_stored_is_made_durable_before_the_slower_succeeds(
    tmp_path: Path, first: int | None, second: int | None
) -> None:
    filesystem = SyncFailing()
    archive = WalArchive(LocalStorage(tmp_path), SYSTEM)
    slower = WalArchive(LocalStorage(tmp_path, filesystem=filesystem), SYSTEM)
    with slower.segment_writer(SEGMENT, second) as slow:
        slow.write(CONTENT)
        push(archive, CONTENT, first)
        filesystem.synced.clear()
        slow.commit()
    stored = slower.find(NAME)
    assert stored is not None
    assert filesystem.synced.count(str(tmp_path / stored)) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_no_descriptors_are_left(tmp_path: Path, level: int | None) -> None:
    archive = WalArchive(LocalStorage(tmp_path), SYSTEM)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for content in [CONTENT, CONTENT, OTHER, OTHER]:
        try:
            push(archive, content, level)
        except Conflict:
            read(archive)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_plain_segment_is_replaced_by_its_compressed_form(archive: WalArchive) -> None:
    push(archive, CONTENT, None)
    archive.compress(NAME, MIB, 1)
    assert stored(archive) == [f"wal/{NAME}.zst"]
    assert read(archive) == CONTENT


def test_a_compression_that_was_cut_off_is_completed(archive: WalArchive) -> None:
    push(archive, CONTENT, 3)
    archive.storage.create(layout.segment_object(SYSTEM, NAME, False), CONTENT)
    archive.compress(NAME, MIB, 1)
    assert stored(archive) == [f"wal/{NAME}.zst"]


def test_two_forms_that_differ_both_stay(archive: WalArchive) -> None:
    push(archive, CONTENT, 3)
    archive.storage.create(layout.segment_object(SYSTEM, NAME, False), bytes(MIB))
    with pytest.raises(Conflict):
        archive.compress(NAME, MIB, 1)
    assert stored(archive) == [f"wal/{NAME}", f"wal/{NAME}.zst"]


def test_a_file_of_another_size_is_not_compressed(archive: WalArchive) -> None:
    push(archive, CONTENT, None)
    with pytest.raises(CorruptData):
        archive.compress(NAME, MIB * 2, 1)
    assert stored(archive) == [f"wal/{NAME}"]


def test_a_reader_finds_the_form_that_took_the_place_of_the_one_it_saw(
    archive: WalArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(archive, CONTENT, None)
    find = StoredWal.find
    seen: list[str | None] = []

    def find_then_compress(file: StoredWal) -> str | None:
        seen.append(find(file))
        if len(seen) == 1:
            archive.compress(NAME, MIB, 1)
        return seen[-1]

    monkeypatch.setattr(StoredWal, "find", find_then_compress)
    assert read(archive) == CONTENT
    assert len(seen) == 2
