"""One file of a data directory while it is read into an archive, by any number of threads.

Opened by the thread that plans the archive, read piece by piece into the memory of the chain,
closed by whoever reads the last piece. A file may change while it is read: what it loses is filled
with zeros, what it gains is left out, and WAL makes it right again.

Source: basebackup.c, sendFile and verify_page_checksum (PostgreSQL 18)
"""

import os
import threading
from dataclasses import dataclass
from functools import partial

from pgbackup.backup.pagefailures import first_failures
from pgbackup.backup.pgdata.datadir import source_error
from pgbackup.backup.pgdata.directread import DirectReads
from pgbackup.backup.pgdata.filesum import new_sum
from pgbackup.backup.pgdata.outstanding import Outstanding
from pgbackup.pg.exclude import RelationFile
from pgbackup.pg.lsn import Lsn
from pgbackup.pg.page import PAGE_SIZE, BadPage, bad_pages, still_bad
from pgbackup.stream.sink import Fill


@dataclass(frozen=True, slots=True)
class Reading:
    """How all files of a backup are read.

    algorithm:      of their checksums in the manifest.
    start:          of the backup, if pages are verified; else None.
    segment_blocks: in all but the last file of a relation.
    direct:         reads past the page cache; or None.
    """

    algorithm: str
    start: Lsn | None
    segment_blocks: int
    outstanding: Outstanding
    direct: DirectReads | None = None


class DataFile:
    """An open file, and what was found while it was read.

    size:      bytes that the archive has of it.
    bad_count: damaged pages; `bad` has the first of them, in order once all is read.
    """

    def __init__(
        self, path: bytes, size: int, relation: RelationFile | None, reading: Reading
    ) -> None:
        """Open the file. Raises: FileNotFoundError, other OSError."""
        self.path = path
        self.size = size
        self.bad: list[BadPage] = []
        self.bad_count = 0
        self.odd_block: tuple[int, int] | None = None
        self._relation = None if reading.start is None else relation
        self._reading = reading
        self._sum = new_sum(reading.algorithm, reading.outstanding)
        self._left = size
        self._lock = threading.Lock()
        self._fd = self._open()

    @property
    def is_read(self) -> bool:
        """Whether all of it has been read."""
        return not self._left

    def checksum(self) -> bytes:
        """For the manifest, once all of it has been read."""
        return self._sum.digest()

    def read(self, offset: int, memory: memoryview) -> None:
        """Fill memory with what begins at `offset`, verified and summed up.

        Raises: PgbackupError.
        """
        try:
            length = self._read_whole(offset, memory)
            if self._relation is not None:
                self._verify(offset, memory[:length])
            self._sum.add(offset, memory)
        except BaseException as error:
            self._reading.outstanding.give_up()
            if isinstance(error, OSError):
                raise source_error("read file", os.fsdecode(self.path), error) from error
            raise
        with self._lock:
            self._left -= len(memory)
            if not self._left:
                self.close()

    def later(self, offset: int, length: int) -> Fill:
        """What will read a piece; `outstanding` counts it from now on."""
        self._reading.outstanding.begin()
        return partial(self._read_later, offset)

    def _read_later(self, offset: int, memory: memoryview) -> None:
        self.read(offset, memory)
        self._reading.outstanding.end()

    def close(self) -> None:
        """Close the file; twice is once."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        if self._reading.direct is not None:
            return self._reading.direct.open(self.path, flags)
        return os.open(self.path, flags)

    def _read_whole(self, offset: int, memory: memoryview) -> int:
        """Fill memory, with zeros behind the file's end; return how many bytes the file had."""
        done = 0
        while done < len(memory):
            count = self._read_some(offset + done, memory[done:])
            if not count:
                memory[done:] = bytes(len(memory) - done)
                break
            done += count
        return done

    def _read_some(self, offset: int, memory: memoryview) -> int:
        if self._reading.direct is not None:
            return self._reading.direct.read(self._fd, offset, memory)
        return os.preadv(self._fd, [memory], offset)

    def _verify(self, offset: int, memory: memoryview) -> None:
        assert self._relation is not None
        assert self._reading.start is not None
        first = self._relation.segment * self._reading.segment_blocks + offset // PAGE_SIZE
        pages, odd = divmod(len(memory), PAGE_SIZE)
        if odd and os.fstat(self._fd).st_size == self.size:  # else the server is at its end
            self.odd_block = first + pages, odd
        found = bad_pages(memory[: pages * PAGE_SIZE], first, self._reading.start)
        if found:
            again = partial(self._read_again, offset, first, memory)
            self._note(still_bad(found, again, self._reading.start))

    def _read_again(
        self, offset: int, first: int, memory: memoryview, block: int
    ) -> memoryview | None:
        start = (block - first) * PAGE_SIZE
        page = memory[start : start + PAGE_SIZE]
        return page if self._read_whole(offset + start, page) == PAGE_SIZE else None

    def _note(self, bad: list[BadPage]) -> None:
        with self._lock:
            self.bad_count += len(bad)
            self.bad = first_failures([*self.bad, *bad])
