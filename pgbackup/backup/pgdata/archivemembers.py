"""Puts the members of our own base backup into its archives, and keeps account of them.

Files are opened here and read here or later; what is known of each, once it is read, goes into the
manifest and the warnings in the order of the archives.

Source: basebackup.c, sendFile and sendFileWithContent (PostgreSQL 18)
"""

import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pgbackup.backup.members import CONTROL_FILE, data_path
from pgbackup.backup.pagefailures import failure_sentences
from pgbackup.backup.pgdata.datadir import DataDirectory, source_error, source_errors
from pgbackup.backup.pgdata.datafile import DataFile, Reading
from pgbackup.backup.pgdata.entries import Entry
from pgbackup.backup.pgdata.filesum import new_sum
from pgbackup.pg.manifest import WalRange
from pgbackup.pg.manifest_builder import ManifestBuilder
from pgbackup.pg.page import PAGE_SIZE
from pgbackup.pg.tar import BLOCK_SIZE, FILE, TarHeader, padding
from pgbackup.stream.packer import Packer

SMALL_FILE: Final = 64 * 1024
"""Bytes up to which a file is read at once: to hand it to another thread would cost more."""

MAX_OPEN: Final = 256
"""Files that wait to be read; with more, files of up to MAX_READ_AT_ONCE bytes do not wait."""

MAX_READ_AT_ONCE: Final = 1 << 20


class _Sent(NamedTuple):
    """A file that may not have been read yet. path: in the data directory."""

    path: str
    mtime: int
    file: DataFile
    is_deferred: bool


class ArchiveMembers:
    """What the archives of one backup get.

    bad_count: damaged pages in files that have been read.
    """

    def __init__(
        self, data: DataDirectory, reading: Reading, *, force_encode: bool = False
    ) -> None:
        """force_encode: as of ManifestBuilder."""
        self._data = data
        self._reading = reading
        self._builder = ManifestBuilder(
            data.major, data.control.system_identifier, force_encode=force_encode
        )
        self._sent: deque[_Sent] = deque()
        self._waiting = 0
        self._warnings: list[str] = []
        self.bad_count = 0

    def send(self, packer: Packer, tablespace: int | None, entry: Entry) -> None:
        """Put one member that a walk has found. Raises: PgbackupError."""
        header = entry.header
        if header.type != FILE:
            packer.put(header.encode())
            return
        try:
            file = DataFile(entry.path, header.size, entry.pages, self._reading)
        except FileNotFoundError:
            return
        except OSError as error:
            raise source_error("open file", os.fsdecode(entry.path), error) from error
        size = header.size
        limit = SMALL_FILE if self._waiting < MAX_OPEN else MAX_READ_AT_ONCE
        path = data_path(tablespace, header.name)
        self._sent.append(_Sent(path, header.mtime, file, is_deferred=size > limit))
        packer.put(header.encode())
        if size > limit:
            self._waiting += 1
            packer.defer(size, PAGE_SIZE, file.later)
        else:
            for offset in range(0, size or 1, SMALL_FILE):
                file.read(offset, packer.room(min(SMALL_FILE, size - offset)))
        packer.put(bytes(padding(size)))
        self._settle()

    def put_content(self, packer: Packer, name: str, content: bytes) -> None:
        """Put a file that is not one of the data directory. Raises: PgbackupError."""
        self._put(packer, self.made_up(name, len(content)), content)

    def put_control(self, packer: Packer) -> None:
        """Put pg_control as it is now. Raises: PgbackupError."""
        content = self._data.read_control().content
        path = f"{self._data.path}/{CONTROL_FILE}"
        with source_errors("look at file", path):
            status = Path(path).lstat()
        mode = stat.S_IMODE(status.st_mode)
        mtime = int(status.st_mtime)
        header = TarHeader(CONTROL_FILE, len(content), mode, status.st_uid, status.st_gid, mtime)
        self._put(packer, header, content)

    def made_up(self, name: str, size: int) -> TarHeader:
        """The header of a file as the server would make it now. Raises: PgbackupError."""
        with source_errors("look at directory", self._data.path):
            status = Path(self._data.path).stat()
        mode = self._data.directory_mode & 0o640
        now = int(time.time())
        return TarHeader(name, size, mode, status.st_uid, status.st_gid, now)

    def warnings(self) -> Iterator[str]:
        """What the server would have warned about, once all is read."""
        yield from self._warnings
        if self.bad_count > 1:
            yield f"WARNING: {self.bad_count} total checksum verification failures"

    def manifest(self, ranges: Iterable[WalRange]) -> bytes:
        """The manifest, once all is read."""
        self._settle()
        return self._builder.finish(ranges)

    def close(self) -> None:
        """Close files that were not read; no thread may be reading."""
        for sent in self._sent:
            sent.file.close()

    def _settle(self) -> None:
        """Account for files that have been read, but for those behind one that has not."""
        while self._sent and self._sent[0].file.is_read:
            path, mtime, file, is_deferred = self._sent.popleft()
            self._waiting -= is_deferred
            self._add(path, file.size, mtime, file.checksum())
            if file.bad_count or file.odd_block:
                self._warnings += _file_warnings(path, file)
                self.bad_count += file.bad_count

    def _put(self, packer: Packer, header: TarHeader, content: bytes) -> None:
        packer.put(header.encode() + content + bytes(padding(len(content))))
        total = new_sum(self._reading.algorithm, self._reading.outstanding)
        total.add(0, memoryview(content))
        self._settle()
        self._add(header.name, len(content), header.mtime, total.digest())

    def _add(self, path: str, size: int, mtime: int, checksum: bytes) -> None:
        self._builder.add_file(path, size, mtime, self._reading.algorithm, checksum)


def member_size(header: TarHeader) -> int:
    """Bytes of an archive that a member takes."""
    return BLOCK_SIZE + header.size + padding(header.size)


def _file_warnings(path: str, file: DataFile) -> Iterator[str]:
    """In the server's words. Source: basebackup.c, sendFile (PostgreSQL 18)"""
    name = path if path.startswith("pg_tblspc/") else f"./{path}"
    if file.odd_block is not None:
        block, length = file.odd_block
        yield (
            f'WARNING: could not verify checksum in file "{name}", block {block}: read buffer size'
            f" {length} and page size {PAGE_SIZE} differ"
        )
    for sentence in failure_sentences(name, file.bad, file.bad_count):
        yield f"WARNING: {sentence}"
