"""The directory of received WAL: nothing lost, nothing overwritten, nothing promised too early."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pgbackup.errors import (
    Conflict,
    CorruptData,
    ProtocolViolation,
    StorageError,
    WalGap,
    WrongSystem,
)
from pgbackup.pg.history import HistoryEntry, TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication.partialfile import agrees
from pgbackup.replication.waldir import WalDirectory
from pgbackup.storage.durable import FileSystem, PathName
from tests.backup.wal import MIB, sample_wal
from tests.replication.killed import ONE, SYSTEM, directory
from tests.replication.powercut import PowerCutFileSystem
from tests.strace import killed_at

WAL = sample_wal(SYSTEM)[0]
FIRST, SECOND = sorted(WAL, key=lambda segment: segment.number)
START = WalPosition(FIRST.timeline, FIRST.start)
BYTES = WAL[FIRST] + WAL[SECOND]


class FailingFileSystem(FileSystem):
    """Fails the n-th call of one kind, once; every sync that failed must be the file's last.

    nth 0: none fails.
    """

    def __init__(self, fail: str, nth: int = 1, error: int = errno.EIO) -> None:
        self.counts: dict[str, int] = {}
        self.failed: list[int] = []
        self.fail, self.nth, self.error = fail, nth, error

    def note(self, call: str, fd: int = -1) -> None:
        self.counts[call] = self.counts.get(call, 0) + 1
        if call == self.fail and self.counts[call] == self.nth:
            self.failed.append(fd)
            raise OSError(self.error, os.strerror(self.error))

    def pwrite(self, fd: int, view: memoryview, offset: int) -> int:
        self.note("pwrite", fd)
        return super().pwrite(fd, view, offset)

    def fsync(self, fd: int) -> None:
        assert fd not in self.failed
        self.note("fsync_directory" if Path(f"/proc/self/fd/{fd}").is_dir() else "fsync", fd)
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        assert fd not in self.failed
        self.note("fdatasync", fd)
        super().fdatasync(fd)

    def link(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        self.note("link")
        super().link(existing, new, dir_fd=dir_fd)

    def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
        self.note("unlink")
        super().unlink(path, dir_fd=dir_fd)


def feed(wal: WalDirectory, data: bytes, seed: int = 1) -> None:
    """Write bytes in pieces of odd lengths, with a flush now and then."""
    source, left = random.Random(seed), memoryview(data)
    while left:
        length = source.choice([1, 39, 8192, 100_001, 131_072])
        wal.write(wal.write_lsn, left[:length])
        left = left[length:]
        if source.random() < 0.3:
            wal.flush()
        assert wal.flush_lsn <= wal.write_lsn


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def partial(segment: Segment) -> str:
    return f"{segment.name}.partial"


def test_a_segment_is_partial_until_its_last_byte(tmp_path: Path) -> None:
    finished: list[Segment] = []
    with WalDirectory(tmp_path / "wal", SYSTEM, MIB, finished=finished.append) as wal:
        wal.begin(START)
        feed(wal, BYTES[: MIB - 1])
        assert names(tmp_path / "wal") == [partial(FIRST)]
        assert (tmp_path / "wal" / partial(FIRST)).stat().st_size == MIB
        assert finished == []
        feed(wal, BYTES[MIB - 1 : MIB])
        assert names(tmp_path / "wal") == [FIRST.name]
        assert finished == [FIRST]
        assert wal.flush_lsn == wal.write_lsn == SECOND.start
        feed(wal, BYTES[MIB : MIB + 5])
    assert (tmp_path / "wal" / FIRST.name).read_bytes() == WAL[FIRST]
    assert (tmp_path / "wal" / partial(SECOND)).read_bytes() == BYTES[MIB : MIB + 5] + bytes(
        MIB - 5
    )


def test_one_write_may_span_segments(tmp_path: Path) -> None:
    with directory(tmp_path) as wal:
        wal.begin(START)
        wal.write(START.lsn, memoryview(BYTES))
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {
        FIRST.name: WAL[FIRST],
        SECOND.name: WAL[SECOND],
    }


def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with directory(tmp_path / "wal") as wal:
            wal.begin(START)
            feed(wal, BYTES[: MIB + 1])
    finally:
        os.umask(before)
    assert (tmp_path / "wal").stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "wal").iterdir()} == {0o600}


def test_only_a_flush_moves_the_flush_position(tmp_path: Path) -> None:
    filesystem = FailingFileSystem("", 0)
    with directory(tmp_path, filesystem) as wal:
        wal.begin(START)
        wal.write(START.lsn, memoryview(BYTES)[:1000])
        assert (wal.flush_lsn, wal.write_lsn) == (START.lsn, START.lsn + 1000)
        assert "fdatasync" not in filesystem.counts
        wal.flush()
        assert wal.flush_lsn == wal.write_lsn
        assert filesystem.counts["fdatasync"] == 1
        wal.flush()
        assert filesystem.counts["fdatasync"] == 1, "there was nothing to flush"


def test_a_gap_and_an_overlap_are_refused_with_both_positions(tmp_path: Path) -> None:
    with directory(tmp_path) as wal:
        wal.begin(START)
        wal.write(START.lsn, memoryview(BYTES)[:100])
        with pytest.raises(WalGap, match=r"from 0/200065: 0/200064 is due"):
            wal.write(START.lsn + 101, memoryview(BYTES)[101:200])
        with pytest.raises(ProtocolViolation, match=r"from 0/200063: it is there up to 0/200064"):
            wal.write(START.lsn + 99, memoryview(BYTES)[99:200])
        feed(wal, BYTES[100:])
    assert (tmp_path / FIRST.name).read_bytes() == WAL[FIRST]


def test_wal_of_another_system_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with WalDirectory(tmp_path, SYSTEM + 1, MIB) as wal:
        wal.begin(START)
        with pytest.raises(WrongSystem, match=str(SYSTEM)):
            wal.write(START.lsn, memoryview(BYTES)[:100])
    assert names(tmp_path) == []


def test_wal_of_another_place_is_refused(tmp_path: Path) -> None:
    with directory(tmp_path) as wal:
        wal.begin(START)
        with pytest.raises(CorruptData, match="begins at 0/300000, not 0/200000"):
            wal.write(START.lsn, memoryview(WAL[SECOND]))
    assert names(tmp_path) == []


# -- going on --------------------------------------------------------------------------------------


def lay_out(path: Path, *files: str) -> None:
    """Make files by name; those ending in ! have a size that no segment has."""
    for name in files:
        (path / name.rstrip("!")).touch()
        os.truncate(path / name.rstrip("!"), 5 if name.endswith(("!", ".zst")) else MIB)


def history(timeline: int, *switches: tuple[int, int]) -> TimelineHistory:
    entries = tuple(HistoryEntry(Timeline(each), Lsn(lsn)) for each, lsn in switches)
    return TimelineHistory(Timeline(timeline), entries)


def name(timeline: int, number: int) -> str:
    return Segment(Timeline(timeline), number, MIB).name


TWO = history(2, (1, 8 * MIB + 77))


@pytest.mark.parametrize(
    ("files", "server", "expected"),
    [
        pytest.param([], ONE, None, id="nothing"),
        pytest.param(["00000002.history", "garbage", ".x.tmp"], ONE, None, id="no-segment"),
        pytest.param([name(1, 5), name(1, 6)], ONE, (1, 7), id="behind-the-last"),
        pytest.param([name(1, 5), name(1, 6) + ".zst"], ONE, (1, 7), id="behind-a-compressed-one"),
        pytest.param([name(1, 5), name(1, 6) + "!"], ONE, (1, 6), id="wrong-size-does-not-count"),
        pytest.param([name(1, 5), name(1, 6) + ".partial"], ONE, (1, 6), id="partial"),
        pytest.param([name(1, 6) + ".partial!"], ONE, (1, 6), id="partial-of-any-size"),
        pytest.param(
            [name(1, 6), name(1, 6) + ".partial"], ONE, (1, 7), id="full-one-beats-its-partial"
        ),
        pytest.param(
            [name(1, 6) + ".partial", name(1, 20), name(1, 21)],
            ONE,
            (1, 6),
            id="partial-beats-what-a-backup-stored-far-ahead",
        ),
        pytest.param([name(1, 8) + ".partial", name(2, 8) + ".partial"], TWO, (2, 8), id="switch"),
        pytest.param([name(1, 8) + ".partial", name(2, 8)], TWO, (2, 9), id="after-the-switch"),
        pytest.param([name(1, 8) + ".partial"], TWO, (1, 8), id="before-the-switch"),
        pytest.param(
            [name(1, 8) + ".partial", name(2, 12)], TWO, (1, 8), id="switch-was-not-received"
        ),
        pytest.param([name(1, 7)], TWO, (1, 8), id="switch-in-the-next-segment"),
        pytest.param([name(1, 8)], TWO, (2, 8), id="old-timeline-ran-to-the-end-of-its-segment"),
        pytest.param([name(1, 8), name(1, 9)], TWO, (2, 8), id="old-timeline-ran-past-the-switch"),
        pytest.param([name(1, 9), name(2, 8)], TWO, (2, 9), id="timeline-before-number"),
        pytest.param(
            [name(1, 9), name(3, 4), name(3, 4) + ".partial"], ONE, (1, 10), id="foreign-timeline"
        ),
        pytest.param([name(1, 7)], history(2, (1, 8 * MIB)), (2, 8), id="switch-on-the-boundary"),
        pytest.param(
            [name(1, 8) + ".partial", name(3, 8) + ".partial"],
            history(3, (1, 8 * MIB + 77), (2, 8 * MIB + 77)),
            (3, 8),
            id="a-timeline-without-wal-between",
        ),
        pytest.param([name(0xA, 0xFFF), name(0xA, 0x1000)], history(10), (10, 0x1001), id="carry"),
    ],
)
def test_where_to_go_on_is_told_by_names_and_sizes(
    tmp_path: Path, files: list[str], server: TimelineHistory, expected: tuple[int, int] | None
) -> None:
    lay_out(tmp_path, *files)
    position = None
    if expected is not None:
        position = WalPosition(Timeline(expected[0]), Lsn(expected[1] * MIB))
    with directory(tmp_path) as wal:
        assert wal.resume_position(server) == position


def test_an_interrupted_segment_is_received_again_over_itself(tmp_path: Path) -> None:
    for length in (1, 40, 8192, 100_000, MIB - 1):
        with directory(tmp_path) as wal:
            assert wal.resume_position(ONE) in (None, START)
            wal.begin(START)
            assert wal.flush_lsn == wal.write_lsn == START.lsn
            feed(wal, BYTES[:length], seed=length)
            content = (tmp_path / partial(FIRST)).read_bytes()
            assert content[:length] == BYTES[:length]
            assert names(tmp_path) == [partial(FIRST)]
    with directory(tmp_path) as wal:
        wal.begin(START)
        feed(wal, BYTES[:MIB])
    assert (tmp_path / FIRST.name).read_bytes() == WAL[FIRST]


def test_acknowledged_wal_is_not_overwritten_with_other(tmp_path: Path) -> None:
    other = bytearray(BYTES[:MIB])
    other[50_000] ^= 1
    with directory(tmp_path) as wal:
        wal.begin(START)
        feed(wal, BYTES[:100_000])
        wal.flush()
        wal.begin(START)
        with pytest.raises(Conflict, match=r"other WAL from 0/20[0-9A-F]{4} on") as caught:
            feed(wal, bytes(other))
        assert "pg_waldump" in str(caught.value.hint)
    assert (tmp_path / partial(FIRST)).read_bytes()[:100_000] == BYTES[:100_000]


def test_an_existing_segment_is_compared_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / FIRST.name).write_bytes(WAL[FIRST])
    before = (tmp_path / FIRST.name).stat()
    with directory(tmp_path) as wal:
        wal.begin(START)
        feed(wal, BYTES[:MIB])
        assert wal.flush_lsn == SECOND.start
    after = (tmp_path / FIRST.name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(tmp_path) == [FIRST.name]


@pytest.mark.parametrize("knows", [True, False], ids=["archive-tells", "found-by-the-link"])
def test_other_content_under_a_segments_name_stays(tmp_path: Path, knows: bool) -> None:
    other = WAL[FIRST][:-1] + b"\x01"
    (tmp_path / FIRST.name).write_bytes(other)
    found = (lambda name: iter([other])) if knows else (lambda name: None)
    with WalDirectory(tmp_path, SYSTEM, MIB, archived=found) as wal:
        wal.begin(START)
        with pytest.raises(Conflict, match="in the archive with other content"):
            feed(wal, BYTES[:MIB])
        assert wal.flush_lsn < SECOND.start
    assert (tmp_path / FIRST.name).read_bytes() == other
    assert (tmp_path / partial(FIRST)).read_bytes() == WAL[FIRST]


def test_a_partial_that_a_full_segment_contains_goes(tmp_path: Path) -> None:
    (tmp_path / FIRST.name).write_bytes(WAL[FIRST])
    (tmp_path / partial(FIRST)).write_bytes(WAL[FIRST][:70_000] + bytes(MIB - 70_000))
    with directory(tmp_path) as wal:
        wal.begin(WalPosition(SECOND.timeline, SECOND.start))
        assert names(tmp_path) == [FIRST.name]


def test_a_partial_that_differs_from_the_full_segment_stays(tmp_path: Path) -> None:
    (tmp_path / FIRST.name).write_bytes(WAL[FIRST])
    (tmp_path / partial(FIRST)).write_bytes(b"\xee" * MIB)
    with directory(tmp_path) as wal:
        wal.begin(WalPosition(SECOND.timeline, SECOND.start))
        assert names(tmp_path) == [FIRST.name, partial(FIRST)]


@pytest.mark.parametrize("size", [0, 1, MIB - 1])
def test_a_short_partial_is_filled_up(tmp_path: Path, size: int) -> None:
    (tmp_path / partial(FIRST)).write_bytes(BYTES[:size])
    with directory(tmp_path) as wal:
        wal.begin(START)
        wal.write(START.lsn, memoryview(BYTES)[:10])
    expected = max(size, 10)
    assert (tmp_path / partial(FIRST)).read_bytes() == BYTES[:expected] + bytes(MIB - expected)


def test_a_partial_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / partial(FIRST)).write_bytes(bytes(MIB + 1))
    with directory(tmp_path) as wal:
        wal.begin(START)
        with pytest.raises(CorruptData, match=rf"has {MIB + 1} bytes, a segment has {MIB}"):
            wal.prepare()
    assert (tmp_path / partial(FIRST)).stat().st_size == MIB + 1


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / partial(FIRST)).symlink_to(tmp_path / "elsewhere")
    with directory(tmp_path / "wal") as wal:
        wal.begin(START)
        with pytest.raises(StorageError, match="symbolic link"):
            wal.prepare()
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_a_new_timeline_begins_with_the_start_of_its_segment(tmp_path: Path) -> None:
    heir = sample_wal(SYSTEM, timeline=2, number=3)[0]
    with directory(tmp_path) as wal:
        wal.begin(START)
        feed(wal, BYTES[: MIB + 500])
        wal.flush()
        wal.begin(WalPosition(Timeline(2), Lsn(SECOND.start + 500)))
        assert wal.write_lsn == SECOND.start
        feed(wal, next(data for segment, data in heir.items() if segment.number == 3))
    new = Segment(Timeline(2), 3, MIB)
    assert names(tmp_path) == [FIRST.name, partial(SECOND), new.name]
    assert (tmp_path / partial(SECOND)).read_bytes() == BYTES[MIB : MIB + 500] + bytes(MIB - 500)


@pytest.mark.parametrize(
    ("old", "new", "offset", "expected"),
    [
        (b"", b"", 0, True),
        (b"abc", b"abc", 7, True),
        (bytes(600), b"x" * 600, 0, True),
        (b"x" * 300 + bytes(300), b"x" * 600, 0, True),
        (bytes(512) + b"x" * 88, b"x" * 600, 0, True),
        (bytes(100) + b"x" * 412, b"x" * 512, 0, False),
        (bytes(100) + b"x" * 412, b"x" * 512, 412, True),
        (b"y", b"x", 0, False),
        (b"x\0\0y", b"xxxx", 0, False),
    ],
)
def test_a_sector_is_old_or_new(old: bytes, new: bytes, offset: int, expected: bool) -> None:
    assert agrees(old, memoryview(new), offset) is expected


# -- faults ----------------------------------------------------------------------------------------


def calls(tmp_path: Path, kind: str) -> int:
    """How many calls of a kind a whole run makes."""
    filesystem = FailingFileSystem(kind, 0)
    (tmp_path / "counted").mkdir()
    with directory(tmp_path / "counted", filesystem) as wal:
        wal.begin(START)
        feed(wal, BYTES)
    shutil.rmtree(tmp_path / "counted")
    return filesystem.counts[kind]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("fsync", errno.EIO),
        ("fdatasync", errno.EIO),
        ("fsync_directory", errno.EIO),
        ("pwrite", errno.ENOSPC),
        ("pwrite", errno.EIO),
        ("link", errno.EIO),
        ("unlink", errno.EROFS),
    ],
)
def test_after_any_failure_nothing_unsafe_is_promised_and_the_next_try_succeeds(
    tmp_path: Path, kind: str, error: int
) -> None:
    for nth in range(1, calls(tmp_path, kind) + 1):
        path = tmp_path / f"{kind}{nth}"
        path.mkdir()
        filesystem = FailingFileSystem(kind, nth, error)
        with directory(path, filesystem) as wal:
            with pytest.raises(StorageError):
                receive(wal, START)
            check_promise(path, wal.flush_lsn)
            assert not any(is_open_on_file(fd, path) for fd in filesystem.failed)
            filesystem.failed.clear()
            receive(wal, wal.resume_position(ONE) or START)
            assert wal.flush_lsn == SECOND.end
        assert (path / FIRST.name).read_bytes() == WAL[FIRST]
        assert (path / SECOND.name).read_bytes() == WAL[SECOND]
        assert not any(each.endswith(".partial") for each in names(path))


def receive(wal: WalDirectory, position: WalPosition) -> None:
    """All that is left from a position on."""
    wal.begin(position)
    feed(wal, BYTES[position.lsn - START.lsn :])


def is_open_on_file(fd: int, path: Path) -> bool:
    """Whether a descriptor is still that of a file of the directory."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    except FileNotFoundError:
        return False
    return target.startswith(f"{path}/")


def check_promise(path: Path, flushed: Lsn) -> None:
    """Everything before the flush position is in the files."""
    for segment, data in WAL.items():
        wanted = min(max(0, flushed - segment.start), MIB)
        if wanted:
            file = path / segment.name
            file = file if file.exists() else path / partial(segment)
            assert file.read_bytes()[:wanted] == data[:wanted]


def expect_promise(filesystem: PowerCutFileSystem, wal: WalDirectory, tmp_path: Path) -> None:
    left = filesystem.left(tmp_path / "left")
    check_promise(left, wal.flush_lsn)
    with directory(left) as again:
        receive(again, again.resume_position(ONE) or START)
    assert [(left / segment.name).read_bytes() for segment in WAL] == list(WAL.values())


def test_what_was_promised_survives_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    filesystem = PowerCutFileSystem(path)
    with directory(path, filesystem) as wal:
        wal.begin(START)
        for at in range(0, len(BYTES), 300_000):
            wal.write(wal.write_lsn, memoryview(BYTES)[at : at + 300_000])
            expect_promise(filesystem, wal, tmp_path)
            wal.flush()
            expect_promise(filesystem, wal, tmp_path)
        assert wal.flush_lsn == SECOND.end


def test_what_another_run_left_is_promised_when_it_survives_a_power_cut(tmp_path: Path) -> None:
    """One that was killed before it had made durable what it wrote, and the names of it."""
    path = tmp_path / "wal"
    path.mkdir()
    (path / FIRST.name).write_bytes(WAL[FIRST])
    (path / partial(SECOND)).write_bytes(WAL[SECOND][:5000].ljust(MIB, b"\0"))
    filesystem = PowerCutFileSystem(path)
    filesystem.contents[(path / FIRST.name).stat().st_ino] = WAL[FIRST]
    with directory(path, filesystem) as wal:
        wal.begin(wal.resume_position(ONE) or START)
        expect_promise(filesystem, wal, tmp_path)
        wal.write(wal.write_lsn, memoryview(WAL[SECOND])[:4000])
        wal.flush()
        assert wal.flush_lsn == SECOND.start + 4000
        expect_promise(filesystem, wal, tmp_path)


def test_a_segment_that_somebody_else_is_storing_is_durable_before_ours_goes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "wal"
    filesystem = PowerCutFileSystem(path)
    with WalDirectory(path, SYSTEM, MIB, filesystem=filesystem) as wal:
        wal.begin(START)
        feed(wal, WAL[FIRST][:-1])
        (path / FIRST.name).write_bytes(WAL[FIRST])
        feed(wal, WAL[FIRST][-1:])
        check_promise(filesystem.left(tmp_path / "left"), wal.flush_lsn)
        assert wal.flush_lsn == SECOND.start


@pytest.mark.parametrize("size", [0, MIB // 2, MIB + 1])
def test_a_segment_of_another_size_under_its_name_does_not_take_the_place_of_ours(
    tmp_path: Path, size: int
) -> None:
    stored = (WAL[FIRST] + b"!")[:size]
    with WalDirectory(tmp_path, SYSTEM, MIB, archived=lambda name: iter([stored])) as wal:
        wal.begin(START)
        with pytest.raises(Conflict):
            feed(wal, WAL[FIRST])
    assert (tmp_path / partial(FIRST)).read_bytes() == WAL[FIRST]


class DribblingFileSystem(FileSystem):
    """Writes a third of what it is given."""

    def pwrite(self, fd: int, view: memoryview, offset: int) -> int:
        return super().pwrite(fd, view[: len(view) // 3 + 1], offset)


def test_short_writes_are_continued(tmp_path: Path) -> None:
    with directory(tmp_path, DribblingFileSystem()) as wal:
        wal.begin(START)
        feed(wal, BYTES)
    assert (tmp_path / SECOND.name).read_bytes() == WAL[SECOND]


STEP = int(os.environ.get("PGBACKUP_KILL_STEP", "3"))
"""Every how many-th call is one to be killed at."""


def receive_outside(directory: Path, before: Sequence[str] = ()) -> bool:
    """Receive in a process of its own; whether it came to its end, and was not killed."""
    places = (directory / "wal", directory / "promise", directory / "sent")
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.replication.killed", *places, str(int(START.lsn))],
        check=False,
        capture_output=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "at_least"),
    [("pwrite64", 20), ("fdatasync", 15), ("fsync", 5), ("linkat", 4), ("unlinkat", 4)],
)
def test_killed_at_any_call_what_was_promised_is_there(
    tmp_path: Path, call: str, at_least: int
) -> None:
    nth = 1
    path, promise = tmp_path / "wal", tmp_path / "promise"
    (tmp_path / "sent").write_bytes(BYTES)
    while True:
        shutil.rmtree(path, ignore_errors=True)
        promise.write_text(str(int(START.lsn)))
        if receive_outside(tmp_path, killed_at(call, nth)):
            break
        nth += STEP
        if path.exists():
            check_promise(path, Lsn(int(promise.read_text())))
        assert receive_outside(tmp_path), "the next run goes on"
        assert (path / FIRST.name).read_bytes() == WAL[FIRST]
        assert (path / SECOND.name).read_bytes() == WAL[SECOND]
        assert [each for each in names(path) if each.endswith(".partial")] == []
    assert nth > at_least
