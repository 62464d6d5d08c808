"""Our own BASE_BACKUP: members, contents and manifest, also of files that change or go."""

import os
import random
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crc32c import crc32c

from pgbackup.backup.pgdata.basebackup import DirectoryBackup, ReadOptions
from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.receive import BackupOutcome
from pgbackup.errors import ConnectionFailed
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.pg.manifest import Manifest
from pgbackup.pg.tar import TarHeader
from pgbackup.stream.compress import Compress, ZstdSettings
from pgbackup.stream.sink import Sink
from pgbackup.stream.untar import TarWalker
from tests.backup.pgdata.pgdata import make_pgdata
from tests.pg.test_control import changed
from tests.stream.checked_sink import CheckedSink
from tests.stream.test_compress import decompress

START = WalPosition(Timeline(1), Lsn(0x5000028))
STOP = WalPosition(Timeline(1), Lsn(0x5000100))
LABEL = b"START WAL LOCATION: 0/5000028\n"
FRAME_SIZE = 256 * 1024


class Session:
    """Begins and ends at known positions; the test may do something before the end."""

    def __init__(self, label: bytes | None = LABEL) -> None:
        self.start = START
        self.label = label
        self.calls: list[str] = []

    def begin(self) -> None:
        self.calls.append("begin")

    def check(self) -> None:
        self.calls.append("check")

    def end(self) -> WalPosition:
        self.calls.append("end")
        return STOP


class Members:
    """A tar archive taken apart."""

    def __init__(self, archive: bytes) -> None:
        self.headers: list[TarHeader] = []
        self.contents: dict[str, bytes] = {}
        walker = TarWalker(self)
        walker.feed(memoryview(archive))
        walker.finish(is_whole=True)

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self.headers.append(header)
        self.contents[header.name] = b""

    def member_contents(self, data: memoryview) -> None:
        self.contents[self.headers[-1].name] += bytes(data)

    def end_member(self) -> None:
        pass


class Taken:
    """A backup of a data directory, through threads."""

    def __init__(
        self,
        pgdata: Path,
        options: ReadOptions | None = None,
        session: Session | None = None,
        wrap: Callable[[Sink], Sink] = lambda sink: sink,
    ) -> None:
        self.end = CheckedSink([100_000])
        sink: Sink = Compress(self.end, ZstdSettings(1, 2), frame_size=FRAME_SIZE)
        sink = wrap(sink)
        backup = DirectoryBackup(
            DataDirectory.open(str(pgdata)), session or Session(), options or ReadOptions()
        )
        try:
            self.outcome: BackupOutcome = backup.run(sink)
        finally:
            sink.cleanup()
            backup.close()
        assert self.end.is_complete
        assert self.end.manifest is not None
        self.archives = {
            name.removesuffix(".zst"): Members(decompress(stored))
            for name, stored in self.end.archives.items()
        }
        self.base = self.archives["base.tar"]
        self.manifest = Manifest.parse(self.end.manifest)


FILES = {
    "base/1/16384": b"",
    "base/1/16385": random.Random(1).randbytes(8192 * 3),
    "base/1/16386": random.Random(2).randbytes(1_500_000),
    "base/1/odd": random.Random(3).randbytes(999_999),
    "global/1260": random.Random(4).randbytes(8192),
    "postgresql.conf": b"# nothing\n",
    "large": random.Random(5).randbytes(70_001),
}


@pytest.fixture
def pgdata(tmp_path: Path) -> Path:
    return make_pgdata(tmp_path / "data", 15, FILES)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _no_file_stays_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


@pytest.mark.parametrize("algorithm", ["NONE", "CRC32C", "SHA224", "SHA512"])
@pytest.mark.parametrize("direct_io", [False, True], ids=["cached", "direct"])
def test_members_and_manifest_are_right(pgdata: Path, algorithm: str, direct_io: bool) -> None:
    options = ReadOptions(checksums=algorithm, verify_checksums=False, direct_io=direct_io)
    taken = Taken(pgdata, options)
    for name, content in FILES.items():
        assert taken.base.contents[name] == content
        assert taken.manifest.files[name].size == len(content)
        assert taken.manifest.files[name].algorithm == algorithm
    if algorithm == "CRC32C":
        for name, content in taken.base.contents.items():
            if name in taken.manifest.files:
                expected = crc32c(content).to_bytes(4, "little")
                assert taken.manifest.files[name].checksum == expected
    assert set(taken.manifest.files) == {
        header.name for header in taken.base.headers if header.type == "0"
    }
    assert taken.outcome.warnings == ()
    assert not taken.outcome.is_damaged
    (wal,) = taken.manifest.wal_ranges
    assert (wal.start, wal.end) == (START.lsn, STOP.lsn)


def test_the_label_comes_first_and_pg_control_last(pgdata: Path) -> None:
    (pgdata / "global/pg_control").chmod(0o640)
    os.utime(pgdata / "global/pg_control", (0, 1_700_000_000))
    taken = Taken(pgdata)
    assert taken.base.headers[0].name == "backup_label"
    assert taken.base.contents["backup_label"] == LABEL
    assert taken.base.headers[-1].name == "global/pg_control"
    assert taken.base.contents["global/pg_control"] == (pgdata / "global/pg_control").read_bytes()
    assert taken.base.headers[-1].mode == 0o640
    assert taken.base.headers[-1].mtime == 1_700_000_000


def test_pg_control_is_that_of_before_the_end(tmp_path: Path) -> None:
    """A standby's tells up to where WAL is needed: after the end, that can be too far."""
    pgdata = make_pgdata(tmp_path / "data", 15)
    path = pgdata / "global" / "pg_control"
    before = path.read_bytes()

    class Going(Session):
        def end(self) -> WalPosition:
            path.write_bytes(changed(15, 32, bytes(8)).ljust(8192, b"\0"))
            return super().end()

    assert Taken(pgdata, session=Going()).base.contents["global/pg_control"] == before
    assert path.read_bytes() != before


def test_a_copy_that_nobody_writes_needs_no_label(pgdata: Path) -> None:
    taken = Taken(pgdata, session=Session(label=None))
    assert "backup_label" not in taken.base.contents


def test_a_session_that_is_of_no_use_any_more_ends_the_backup_early(pgdata: Path) -> None:
    class Lost(Session):
        def check(self) -> None:
            super().check()
            if self.calls.count("check") == 3:
                raise ConnectionFailed("the connection to the server was lost")

    session = Lost()
    with pytest.raises(ConnectionFailed):
        Taken(pgdata, ReadOptions(check_interval=0), session)
    assert session.calls == ["begin", "check", "check", "check"]
    session = Session()
    Taken(pgdata, session=session)
    assert session.calls == ["begin", "end"]


def test_the_backup_ends_when_all_files_have_been_read(pgdata: Path) -> None:
    session = Session()

    class Watch(Sink):
        def archive_later(self, length: int, fill: Callable[[memoryview], None]) -> None:
            def noted(memory: memoryview) -> None:
                fill(memory)
                session.calls.append("read")

            self.successor.archive_later(length, noted)

    Taken(pgdata, session=session, wrap=Watch)
    assert session.calls[0] == "begin"
    assert session.calls[-1] == "end"
    assert session.calls.count("read") > 5


def test_tablespaces_come_before_the_data_directory(pgdata: Path, tmp_path: Path) -> None:
    place = tmp_path / "space"
    (place / "PG_15_202209061/5").mkdir(parents=True)
    (place / "PG_15_202209061/5/16400").write_bytes(b"x" * 8192)
    (pgdata / "pg_tblspc/16399").symlink_to(place)
    taken = Taken(pgdata, ReadOptions(verify_checksums=False, estimate=True))
    assert list(taken.archives) == ["16399.tar", "base.tar"]
    assert "PG_15_202209061/5/16400" in taken.archives["16399.tar"].contents
    assert taken.manifest.files["pg_tblspc/16399/PG_15_202209061/5/16400"].size == 8192
    link = next(h for h in taken.base.headers if h.name == "pg_tblspc/16399")
    assert (link.type, link.linkname) == ("2", str(place))
    sizes = [each.size or 0 for each in taken.outcome.tablespaces]
    assert sizes[0] == 512 + 512 + 512 + 8192
    assert sizes[1] > sum(map(len, FILES.values()))


@pytest.fixture
def one_large(tmp_path: Path) -> Path:
    """A data directory with one file that is large enough to be deferred."""
    return make_pgdata(tmp_path / "one", 15, {"base/1/16386": FILES["base/1/16386"]})


class Change(Sink):
    """Does something to the data directory before the first deferred piece is read."""

    def __init__(self, successor: Sink, action: Callable[[], object]) -> None:
        super().__init__(successor)
        self._action = action

    def archive_later(self, length: int, fill: Callable[[memoryview], None]) -> None:
        self._action()
        self.successor.archive_later(length, fill)


@pytest.mark.parametrize("length", [0, 8192, 100_000, 1_499_999])
def test_what_a_file_loses_is_filled_with_zeros(one_large: Path, length: int) -> None:
    path = one_large / "base/1/16386"
    taken = Taken(
        one_large,
        ReadOptions(verify_checksums=False),
        wrap=lambda sink: Change(sink, lambda: os.truncate(path, length)),
    )
    content = taken.base.contents["base/1/16386"]
    original = FILES["base/1/16386"]
    assert len(content) == len(original)
    assert content == original[:length] + bytes(len(original) - length)
    checksum = taken.manifest.files["base/1/16386"].checksum
    assert checksum == crc32c(content).to_bytes(4, "little")


def test_what_a_file_gains_is_left_out(one_large: Path) -> None:
    path = one_large / "base/1/16386"

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more" * 10_000)

    taken = Taken(
        one_large, ReadOptions(verify_checksums=False), wrap=lambda sink: Change(sink, grow)
    )
    assert taken.base.contents["base/1/16386"] == FILES["base/1/16386"]


def test_a_file_that_goes_once_it_is_open_is_read_to_its_end(one_large: Path) -> None:
    path = one_large / "base/1/16386"
    taken = Taken(
        one_large,
        ReadOptions(verify_checksums=False),
        wrap=lambda sink: Change(sink, lambda: path.unlink(missing_ok=True)),
    )
    assert len(taken.base.contents["base/1/16386"]) == 1_500_000


def damaged_relation(blocks: int, *bad: int, lsn: int = 0x1000) -> bytes:
    """Pages whose checksum cannot be right, and new ones."""
    page = bytearray(8192)
    struct.pack_into("<IIHHHH", page, 0, 0, lsn, 1, 0, 24, 8192)
    return b"".join(bytes(page) if block in bad else bytes(8192) for block in range(blocks))


def test_damaged_pages_are_told_in_the_words_of_the_server(tmp_path: Path) -> None:
    files = {
        "base/1/16385": damaged_relation(4, 2),
        "base/1/16386.1": damaged_relation(40, *range(7, 17)),
        "base/1/plain": damaged_relation(4, 2),
    }
    taken = Taken(make_pgdata(tmp_path / "data", 15, files))
    warnings = sorted(taken.outcome.warnings)
    assert taken.outcome.is_damaged
    assert len(warnings) == 1 + 5 + 1 + 1 + 1
    assert sum('"./base/1/16385", block 2: calculated ' in w for w in warnings) == 1
    assert sum('"./base/1/16386.1", block 131079: calculated ' in w for w in warnings) == 1
    assert warnings[0] == "WARNING: 11 total checksum verification failures"
    assert (
        'WARNING: file "./base/1/16386.1" has a total of 10 checksum verification failures'
        in warnings
    )
    assert taken.base.contents["base/1/16385"] == files["base/1/16385"]


def test_pages_newer_than_the_start_are_not_judged(tmp_path: Path) -> None:
    files = {"base/1/16385": damaged_relation(4, 2, lsn=int(START.lsn))}
    taken = Taken(make_pgdata(tmp_path / "data", 15, files))
    assert taken.outcome.warnings == ()


def test_pages_are_not_judged_if_nobody_wants_it(tmp_path: Path) -> None:
    files = {"base/1/16385": damaged_relation(4, 2)}
    taken = Taken(make_pgdata(tmp_path / "data", 15, files), ReadOptions(verify_checksums=False))
    assert not taken.outcome.is_damaged


def test_a_relation_that_ends_within_a_page_is_told(tmp_path: Path) -> None:
    files = {"base/1/16385": damaged_relation(3) + b"rest"}
    taken = Taken(make_pgdata(tmp_path / "data", 15, files))
    assert taken.outcome.warnings == (
        'WARNING: could not verify checksum in file "./base/1/16385", block 3: read buffer size 4'
        " and page size 8192 differ",
    )
    assert not taken.outcome.is_damaged


def test_more_files_than_may_be_open_are_read_at_once(tmp_path: Path) -> None:
    content = bytes(65 * 1024)
    files = {f"base/1/{16384 + number}": content for number in range(600)}
    most = 0

    class Count(Sink):
        def archive_later(self, length: int, fill: Callable[[memoryview], None]) -> None:
            nonlocal most
            most = max(most, open_files())
            self.successor.archive_later(length, fill)

    pgdata = make_pgdata(tmp_path / "data", 15, files)
    end = CheckedSink([1 << 20])
    sink: Sink = Count(Compress(end, ZstdSettings(1, 16), frame_size=4 << 20))
    backup = DirectoryBackup(DataDirectory.open(str(pgdata)), Session(), ReadOptions())
    try:
        backup.run(sink)
    finally:
        sink.cleanup()
        backup.close()
    assert 10 < most < 400
    assert len(Members(decompress(end.archives["base.tar.zst"])).contents) > 600


def test_modes_are_those_of_the_files(pgdata: Path) -> None:
    (pgdata / "postgresql.conf").chmod(0o640)
    pgdata.chmod(0o750)
    taken = Taken(pgdata)
    modes = {header.name: stat.S_IMODE(header.mode) for header in taken.base.headers}
    assert modes["postgresql.conf"] == 0o640
    assert modes["backup_label"] == 0o640
