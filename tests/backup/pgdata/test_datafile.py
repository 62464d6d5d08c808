"""A file while it is read: pages that are being written, and errors."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.datafile import DataFile, Reading
from pgbackup.backup.pgdata.directread import DirectReads
from pgbackup.backup.pgdata.outstanding import Outstanding
from pgbackup.errors import PgbackupError
from pgbackup.pg.exclude import RelationFile
from pgbackup.pg.lsn import Lsn

START = Lsn(0x5000028)


class Reads(DirectReads):
    """Reads, and then lets something happen."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__(1)
        self._then = then

    def read(self, fd: int, offset: int, memory: memoryview) -> int:
        count = super().read(fd, offset, memory)
        self._then()
        return count


def page(lsn: int) -> bytes:
    """A page whose checksum is wrong."""
    return struct.pack("<IIHHHH", 0, lsn, 1, 0, 24, 8192).ljust(8192, b"x")


def read(path: Path, then: Callable[[], object]) -> tuple[DataFile, bytes, Outstanding]:
    outstanding = Outstanding()
    direct = Reads(then)
    reading = Reading("CRC32C", START, 131072, outstanding, direct)
    size = path.stat().st_size
    file = DataFile(bytes(path), size, RelationFile(16384, "main", 0), reading)
    memory = memoryview(bytearray(size))
    try:
        file.read(0, memory)
    finally:
        file.close()
        direct.close()
    return file, bytes(memory), outstanding


def test_a_page_that_was_being_written_is_taken_as_it_is_when_read_again(tmp_path: Path) -> None:
    path = tmp_path / "16384"
    path.write_bytes(page(0x1000) * 2 + bytes(8192) + page(0x1000))
    whole = page(START) * 2 + bytes(8192) + page(0x1000)
    file, content, _ = read(path, lambda: path.write_bytes(whole))
    assert content == whole
    assert [bad.block for bad in file.bad] == [3]
    assert file.bad_count == 1


def test_nothing_is_judged_behind_the_new_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "16384"
    path.write_bytes(page(0x1000) * 3)
    file, _, _ = read(path, lambda: path.write_bytes(page(0x1000)))
    assert [bad.block for bad in file.bad] == [0]


def test_half_a_page_at_the_end_is_told_unless_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "16384"
    whole = bytes(2 * 8192)
    path.write_bytes(whole[:12288])
    file, _, _ = read(path, lambda: None)
    assert file.odd_block == (1, 4096)
    file, content, _ = read(path, lambda: path.write_bytes(whole))
    assert file.odd_block is None
    assert content == whole[:12288]


def test_an_error_names_the_file_and_lets_nobody_wait(tmp_path: Path) -> None:
    path = tmp_path / "16384"
    path.write_bytes(bytes(8192))
    outstanding = Outstanding()

    class Broken(DirectReads):
        def read(self, fd: int, offset: int, memory: memoryview) -> int:
            raise OSError(5, "Input/output error")

    direct = Broken(1)
    file = DataFile(bytes(path), 8192, None, Reading("SHA256", None, 1, outstanding, direct))
    later = file.later(0, 8192)
    with pytest.raises(PgbackupError, match=r'could not read file ".*/16384": input/output error'):
        later(memoryview(bytearray(8192)))
    with pytest.raises(PgbackupError):
        outstanding.wait_for_all()
    file.close()
    direct.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "16384").symlink_to(tmp_path / "secret")
    reading = Reading("NONE", None, 1, Outstanding())
    with pytest.raises(OSError, match="symbolic links"):
        DataFile(bytes(tmp_path / "16384"), 1, None, reading)
