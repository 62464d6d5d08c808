"""One object on a file system being written or read: from open to commit, or to close."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pgbackup.errors import StorageError
from pgbackup.storage.api import Bytes, ObjectReader, ObjectWriter
from pgbackup.storage.durable import FileSystem, storage_errors
from pgbackup.storage.leftovers import temporary_name, try_flock
from pgbackup.storage.tree import FolderTree
from pgbackup.storage.wording import name_taken, truncated

if TYPE_CHECKING:
    from pgbackup.storage.direct import DirectFile

FILE_MODE = 0o600

# Bytes between two hints to begin writing, so that the device works while the rest is compressed:
# with this step 16 MiB took 43 ms instead of 70. What was hinted at so early is still dirty, and
# stays in memory: an archived segment is often wanted again at once, by a standby.
WRITEBACK_STEP = 1 << 20


class LocalWriter(ObjectWriter):
    """Writes a hidden temporary file, then gives it its name.

    Always: the temporary file exists, and two descriptors are open, until commit or abort.
    """

    def __init__(
        self,
        tree: FolderTree,
        filesystem: FileSystem,
        parts: tuple[str, ...],
        located: str,
        *,
        is_bulk: bool = False,
    ) -> None:
        """Make the temporary file.

        located: the name for messages.
        is_bulk: pass the page cache where that is possible.

        Raises: OSError.
        """
        *self._folders, self._final = parts
        self._tree = tree
        self._filesystem = filesystem
        self._located = located
        self._temporary = temporary_name(self._final)
        self._position = 0
        self._written_back = 0
        self._folder, self._fd = tree.open_file(self._folders, self._open_temporary)
        self._is_open = True
        self._direct = _direct_file(filesystem, self._fd) if is_bulk else None

    def _open_temporary(self, folder: int) -> int:
        fd = self._filesystem.open_new(self._temporary, FILE_MODE, dir_fd=folder)
        with suppress(OSError):  # no flock on this file system: host and process must do
            try_flock(fd)
        return fd

    @property
    def position(self) -> int:
        return self._position

    def write(self, data: Bytes) -> None:
        self._check_open()
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        try:
            with storage_errors("write object", self._located):
                if self._direct is None:
                    self._filesystem.write_all(self._fd, data)
                else:
                    self._direct.write_all(memoryview(data).cast("B"))
                self._position += size
                if self._direct is not None and self._direct.is_direct:
                    self._written_back = self._position
                elif self._position - self._written_back >= WRITEBACK_STEP:
                    length = self._position - self._written_back
                    self._filesystem.start_writeback(self._fd, self._written_back, length)
                    self._written_back = self._position
        except StorageError:
            self.abort()
            raise

    def commit(self, *, replace: bool = False) -> None:
        self._check_open()
        try:
            with storage_errors("write object", self._located):
                self._finish_file()
                self._publish(replace)
                self._filesystem.fsync_directory(self._folder)
        finally:
            self.abort()

    def abort(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._fd >= 0:
            with suppress(OSError):
                self._filesystem.close(self._fd)
        if self._temporary:
            with suppress(OSError):  # reap finds it
                self._filesystem.unlink(self._temporary, dir_fd=self._folder)
            self._tree.prune(self._folders)
        os.close(self._folder)

    def _check_open(self) -> None:
        if not self._is_open:
            raise ValueError("the object writer was committed or aborted before")

    def _finish_file(self) -> None:
        size = os.fstat(self._fd).st_size
        if size != self._position:
            raise StorageError(
                f'could not write object "{self._located}": the file has another length than '
                "was written",
                detail=f"It has {size} bytes; {self._position} were written.",
            )
        self._filesystem.fsync(self._fd)
        fd, self._fd = self._fd, -1
        self._filesystem.close(fd)

    def _publish(self, replace: bool) -> None:
        """Give the file its name, and take away the temporary one."""
        try:
            if replace:
                self._filesystem.rename(self._temporary, self._final, dir_fd=self._folder)
                self._temporary = ""
                return
            self._filesystem.link(self._temporary, self._final, dir_fd=self._folder)
        except FileExistsError:
            if not self._is_ours():
                raise name_taken(self._located) from None
        except FileNotFoundError:
            raise StorageError(
                f'could not write object "{self._located}": its temporary file is gone',
                hint="Keep other programs from cleaning up inside the repository.",
            ) from None
        self._filesystem.unlink(self._temporary, dir_fd=self._folder)
        self._temporary = ""

    def _is_ours(self) -> bool:
        """Tell whether the name in the way is our own file.

        NFS repeats a link whose answer was lost, and then reports that the name exists.
        """
        with suppress(FileNotFoundError):
            return os.path.samestat(
                os.stat(self._temporary, dir_fd=self._folder, follow_symlinks=False),
                os.stat(self._final, dir_fd=self._folder, follow_symlinks=False),
            )
        return False


class LocalReader(ObjectReader):
    """Reads a range of an open file; owns the descriptor."""

    def __init__(self, fd: int, located: str, offset: int, length: int | None) -> None:
        """Take over an open file.

        Raises: CorruptData if the file ends before the range does.
        """
        self._fd = fd
        self._located = located
        self._size = os.fstat(fd).st_size
        self._offset = offset
        self._end = max(offset, self._size) if length is None else offset + length
        if self._end > self._size:
            raise truncated(located, self._size, self._end)

    @property
    def size(self) -> int:
        return self._size

    def readinto(self, view: bytearray | memoryview) -> int:
        with memoryview(view) as whole, whole.cast("B") as target:
            wanted = min(len(target), self._end - self._offset)
            done = 0
            while done < wanted:
                with target[done:wanted] as rest, storage_errors("read object", self._located):
                    count = os.preadv(self._fd, [rest], self._offset)
                if count == 0:
                    raise truncated(self._located, self._offset, self._end)
                self._offset += count
                done += count
            return wanted

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._offset
        data = bytearray(left if size < 0 else min(size, left))
        self.readinto(data)
        return bytes(data)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _direct_file(filesystem: FileSystem, fd: int) -> "DirectFile":
    from pgbackup.storage.direct import DirectFile  # noqa: PLC0415 - the WAL hooks have no bulk

    return DirectFile(filesystem, fd)
