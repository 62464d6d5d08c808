"""One segment while it is being received: the file NAME.partial.

It has the size of a whole segment from the moment its name is visible, the rest being zeros: its
size says nothing of how much came, and a write later on never needs new space. It begins with its
first byte again after every interruption, over what is there, which must agree. It gets its full
name only when every byte is there and durable; what has that name already is never overwritten.

After any error the file is given up: its descriptor is closed, and no fsync is tried again on it.
"""

import os
import stat
from collections.abc import Iterator

from pgbackup.errors import Conflict, CorruptData
from pgbackup.pg.lsn import Segment
from pgbackup.storage.durable import FileSystem, storage_errors
from pgbackup.storage.leftovers import temporary_name

FILE_MODE = 0o600
PARTIAL_SUFFIX = ".partial"

SECTOR = 512
"""Bytes that a power cut leaves either old or new."""

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ZEROS = bytes(1 << 20)


class PartialFile:
    """A segment's file, open for writing from its start.

    Always: flushed <= position <= segment.size, in bytes.
    """

    def __init__(self, filesystem: FileSystem, folder: int, located: str, segment: Segment) -> None:
        """Open the file that is there, or make it.

        folder:  descriptor of the directory.
        located: the directory's name for messages.

        Raises: StorageError, CorruptData for a file that cannot be one of these.
        """
        self.segment = segment
        self.name = segment.name + PARTIAL_SUFFIX
        self.position = 0
        self.flushed = 0
        self._filesystem = filesystem
        self._folder = folder
        self._located = f"{located}/{self.name}"
        with storage_errors("open WAL file", self._located):
            self._fd, self._is_reused = self._open()

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises: StorageError, Conflict with what came before an interruption."""
        try:
            with storage_errors("write WAL file", self._located):
                if self._is_reused:
                    self._expect_agreement(data)
                self._filesystem.pwrite_all(self._fd, data, self.position)
        except BaseException:
            self.close()
            raise
        self.position += len(data)

    def flush(self) -> None:
        """Make durable what was written. Raises: StorageError."""
        if self.flushed == self.position:
            return
        try:
            with storage_errors("flush WAL file", self._located):
                self._filesystem.fdatasync(self._fd)
        except BaseException:
            self.close()
            raise
        self.flushed = self.position

    def finish(self, archived: Iterator[bytes] | None) -> None:
        """Give the complete file its full name, durably.

        archived: the content that has the name already, in whatever form, or None.

        Raises: StorageError; Conflict if the name has other content, then the file stays.
        """
        assert self.position == self.segment.size
        try:
            with storage_errors("finish WAL file", self._located):
                self._filesystem.fsync(self._fd)
                if archived is None:
                    self._link()
                else:
                    self._expect_same(archived)
                self._filesystem.unlink(self.name, dir_fd=self._folder)
                self._filesystem.fsync_directory(self._folder)
                fd, self._fd = self._fd, -1
                self._filesystem.close(fd)
        finally:
            self.close()
        self.flushed = self.position

    def close(self) -> None:
        """Let go of the file as it is. No effect the second time."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> tuple[int, bool]:
        try:
            fd = os.open(self.name, _FLAGS, dir_fd=self._folder)
        except FileNotFoundError:
            return self._make(), False
        try:
            self._settle_size(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd, True

    def _make(self) -> int:
        """Make the file under a temporary name, so that it never has another size."""
        temporary = temporary_name(self.name)
        fd = os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, FILE_MODE, dir_fd=self._folder)
        try:
            os.fchmod(fd, FILE_MODE)
            self._fill(fd, 0)
            self._filesystem.fsync(fd)
            self._filesystem.link(temporary, self.name, dir_fd=self._folder)
        except BaseException:
            os.close(fd)
            raise
        finally:
            self._filesystem.unlink(temporary, dir_fd=self._folder)
        try:
            self._filesystem.fsync_directory(self._folder)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _settle_size(self, fd: int) -> None:
        """Fill up a file that another program left short, and be sure of what is there."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > self.segment.size:
            raise CorruptData(
                f'could not use WAL file "{self._located}": it has {found.st_size} bytes,'
                f" a segment has {self.segment.size}",
                hint="Move it out of the way if it was put there by hand.",
            )
        if found.st_size < self.segment.size:
            self._fill(fd, found.st_size)
        self._filesystem.fsync(fd)
        self._filesystem.fsync_directory(self._folder)

    def _fill(self, fd: int, start: int) -> None:
        for at in range(start, self.segment.size, len(_ZEROS)):
            length = min(len(_ZEROS), self.segment.size - at)
            self._filesystem.pwrite_all(fd, memoryview(_ZEROS)[:length], at)

    def _expect_agreement(self, data: memoryview) -> None:
        """Refuse WAL that contradicts what was acknowledged."""
        old = os.pread(self._fd, len(data), self.position)
        if not agrees(old, data, self.position):
            raise Conflict(
                f'could not go on with WAL file "{self._located}": the server sends other WAL'
                f" from {self.segment.start + self.position} on than it sent before",
                hint="Compare the file with the server's own by pg_waldump; if the server was"
                " restored or replaced, receive into another repository with -B.",
            )

    def _link(self) -> None:
        name = self.segment.name
        try:
            self._filesystem.link(self.name, name, dir_fd=self._folder)
        except FileExistsError:
            self._expect_same(self._plain_content(name))

    def _plain_content(self, name: str) -> Iterator[bytes]:
        with open(os.open(name, _FLAGS & ~os.O_RDWR, dir_fd=self._folder), "rb") as file:
            while chunk := file.read(len(_ZEROS)):
                yield chunk
            self._filesystem.fsync(file.fileno())

    def _expect_same(self, archived: Iterator[bytes]) -> None:
        at = 0
        is_same = True
        for chunk in archived:
            is_same = is_same and chunk == os.pread(self._fd, len(chunk), at)
            at += len(chunk)
        if not is_same or at != self.segment.size:
            raise Conflict(
                f'could not finish WAL file "{self._located}": "{self.segment}" is in the archive'
                " with other content",
                detail="Neither of the two was changed.",
                hint="Find out whether two servers archive into this repository, and compare the"
                " two files with pg_waldump.",
            )


def agrees(old: bytes, new: bytes | memoryview, offset: int) -> bool:
    """Tell whether `old` can be what an interrupted write of `new` left.

    Each sector then holds the beginning of the new one, and zeros behind it.

    offset: bytes from the start of a sector-aligned file.
    """
    if old == new:
        return True
    at = 0
    while at < len(old):
        end = at + SECTOR - (offset + at) % SECTOR
        left = old[at:end].rstrip(b"\0")
        if new[at : at + len(left)] != left:
            return False
        at = end
    return True
