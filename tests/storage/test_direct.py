"""Writing past the page cache, and leaving that way wherever it does not go on."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.storage.direct import BLOCK, DirectFile
from pgbackup.storage.durable import FileSystem
from pgbackup.stream.buffers import BufferPool

MEBIBYTE = 1 << 20


def aligned(size: int) -> memoryview:
    page = BufferPool(1, size).acquire().view
    page[:] = os.urandom(size)
    return page


def written(path: Path, pieces: list[memoryview], filesystem: FileSystem) -> DirectFile:
    fd = filesystem.open_new(path)
    try:
        file = DirectFile(filesystem, fd)
        for piece in pieces:
            file.write_all(piece)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"".join(pieces)
    return file


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file on a file system that may know O_DIRECT, and one on tmpfs."""
    path = tmp_path / "file"
    if request.param == "memory":
        path = Path("/dev/shm") / f"pgbackup-direct-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("last", [BLOCK, 1, BLOCK - 1, BLOCK + 1], ids=str)
def test_pieces_and_a_last_one_of_any_length_arrive(place: Path, last: int) -> None:
    pieces = [aligned(MEBIBYTE), aligned(3 * BLOCK), aligned(last)]
    file = written(place, pieces, FileSystem())
    assert not (last % BLOCK and file.is_direct)


def test_memory_that_is_not_aligned_arrives(place: Path) -> None:
    written(
        place, [aligned(MEBIBYTE), aligned(2 * BLOCK)[1 : BLOCK + 1], aligned(BLOCK)], FileSystem()
    )


@pytest.mark.parametrize("short", [7, BLOCK], ids=str)
def test_short_writes_are_completed(place: Path, short: int) -> None:
    class Short(FileSystem):
        def write(self, fd: int, view: memoryview) -> int:
            return super().write(fd, view[:short])

    written(place, [aligned(4 * BLOCK)], Short())


def test_a_file_system_that_refuses_at_the_first_write_gets_buffered_writes(place: Path) -> None:
    class Refusing(FileSystem):
        refused = 0

        def write(self, fd: int, view: memoryview) -> int:
            if not self.refused:
                self.refused += 1
                raise OSError(errno.EINVAL, "no direct writes here")
            return super().write(fd, view)

    filesystem = Refusing()
    fd = filesystem.open_new(place)
    try:
        file = DirectFile(filesystem, fd)
        if not file.is_direct:
            with pytest.raises(OSError, match="no direct writes"):
                file.write_all(aligned(BLOCK))
            return
        file.write_all(aligned(BLOCK))
        assert not file.is_direct
    finally:
        os.close(fd)
    assert place.stat().st_size == BLOCK


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_other_errors_are_raised(tmp_path: Path, number: int) -> None:
    class Failing(FileSystem):
        def write(self, fd: int, view: memoryview) -> int:
            raise OSError(number, "failed")

    filesystem = Failing()
    fd = filesystem.open_new(tmp_path / "file")
    try:
        with pytest.raises(OSError, match="failed"):
            DirectFile(filesystem, fd).write_all(aligned(BLOCK))
    finally:
        os.close(fd)
