"""Objects as files below a directory.

The only place of the project where "visible only when complete and durable" is done for objects:
a hidden temporary file next to the final name is written, checked for length, synced and closed,
gets its final name by link, which fails if that is taken, and the directory is synced.

The root is made by the first write and never removed.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby

from pgbackup.errors import UsageError
from pgbackup.storage.api import (
    Features,
    Lock,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    PendingObject,
    Storage,
)
from pgbackup.storage.durable import FileSystem, PathName, storage_errors
from pgbackup.storage.leftovers import is_hidden, is_leftover, pending_name, remove_leftover
from pgbackup.storage.localobject import LocalReader, LocalWriter
from pgbackup.storage.names import check_name, check_prefix, is_component
from pgbackup.storage.tree import FolderTree
from pgbackup.storage.wording import not_found

# Non-blocking, or a FIFO planted in place of an object would hold the reader for ever.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalStorage(Storage):
    """A directory. Its layout is the names: object "a/b/c" is the file a/b/c."""

    def __init__(self, path: PathName, *, filesystem: FileSystem | None = None) -> None:
        """Touch nothing yet.

        filesystem: another one for tests.
        """
        if not os.fspath(path):
            raise UsageError('could not open storage "": the path is empty')
        self.url = os.path.abspath(path)  # noqa: PTH100 - as in durable
        self.features = Features(create_is_atomic=True, lock=True, local_path=self.url)
        self._filesystem = filesystem or FileSystem()
        self._tree = FolderTree(self.url, self._filesystem)

    def writer(self, name: str, *, is_bulk: bool = False) -> ObjectWriter:
        parts = check_name(name)
        located = self.locate(name)
        with storage_errors("write object", located):
            return LocalWriter(self._tree, self._filesystem, parts, located, is_bulk=is_bulk)

    def reader(self, name: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        located = self.locate(name)
        with storage_errors("read object", located):
            fd = self._open(name)
            try:
                return LocalReader(fd, located, offset, length)
            except BaseException:
                os.close(fd)
                raise

    def stat(self, name: str) -> ObjectStat:
        *folders, final = check_name(name)
        with storage_errors("read object", self.locate(name)), suppress(FileNotFoundError):
            with self._tree.folder(folders) as folder:
                found = os.stat(final, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                return ObjectStat(name, found.st_size, found.st_mtime)
        raise not_found(self.locate(name))

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        parts = check_prefix(prefix)
        with storage_errors("list folder", self.locate(prefix)):
            for folder, names in self._tree.walk(parts, is_component):
                try:
                    found = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield ObjectStat("/".join(names), found.st_size, found.st_mtime)

    def folders(self, prefix: str = "") -> Sequence[str]:
        with storage_errors("list folder", self.locate(prefix)):
            return self._tree.folders(check_prefix(prefix))

    def delete(self, *names: str) -> None:
        parts = [check_name(name) for name in names]
        # A sync per folder and call: one per file would take hours for a year's WAL.
        for folders, inside in groupby(parts, key=lambda each: each[:-1]):
            self._delete(folders, [each[-1] for each in inside])

    def _delete(self, folders: Sequence[str], finals: Sequence[str]) -> None:
        name = "/".join([*folders, finals[0]])
        with storage_errors("delete object", self.locate(name)), suppress(FileNotFoundError):
            with self._tree.folder(folders) as folder:
                for final in finals:
                    with suppress(FileNotFoundError):
                        self._filesystem.unlink(final, dir_fd=folder)
                self._filesystem.fsync_directory(folder)
            self._tree.prune(folders)

    def sync(self, name: str) -> None:
        *folders, _ = check_name(name)
        with storage_errors("write object", self.locate(name)):
            fd = self._open(name)
            try:
                self._filesystem.fsync(fd)
            finally:
                os.close(fd)
            for depth in range(len(folders), -1, -1):
                with self._tree.folder(folders[:depth]) as folder:
                    self._filesystem.fsync_directory(folder)

    def lock(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        from pgbackup.storage.locallock import LocalLock  # noqa: PLC0415 - wal-push needs none

        parts = check_name(name)
        located = self.locate(name)
        with storage_errors("lock", located):
            return LocalLock(self._tree, self._filesystem, parts, located, owner)

    def lock_shared(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        from pgbackup.storage.locallock import LocalSharedLock  # noqa: PLC0415 - as in lock

        parts = check_name(name)
        located = self.locate(name)
        with storage_errors("lock", located):
            return LocalSharedLock(self._tree, self._filesystem, parts, located, owner)

    def holder(self, name: str) -> Mapping[str, str] | None:
        from pgbackup.storage.locallock import read_holder  # noqa: PLC0415 - wal-push needs none

        with storage_errors("lock", self.locate(name)):
            return read_holder(self._tree, check_name(name))

    def pending(self, prefix: str = "") -> Sequence[PendingObject]:
        found = []
        with storage_errors("list folder", self.locate(prefix)):
            for folder, names in self._tree.walk(check_prefix(prefix), is_hidden):
                final = pending_name(names[-1])
                if final is None:
                    continue
                with suppress(FileNotFoundError):
                    size = os.stat(names[-1], dir_fd=folder, follow_symlinks=False).st_size
                    is_abandoned = is_leftover(names[-1], folder)
                    found.append(PendingObject("/".join((*names[:-1], final)), size, is_abandoned))
        return found

    def reap(self, prefix: str = "") -> Sequence[str]:
        removed = []
        with storage_errors("clean folder", self.locate(prefix)):
            for folder, names in self._tree.walk(check_prefix(prefix), is_hidden):
                with suppress(FileNotFoundError):
                    if remove_leftover(self._filesystem, names[-1], folder):
                        removed.append(names)
            for names in removed:
                self._tree.prune(names[:-1])
        return ["/".join(names) for names in removed]

    def close(self) -> None:
        pass

    def _open(self, name: str) -> int:
        """Open an object for reading.

        Raises: NotFound, OSError.
        """
        *folders, final = check_name(name)
        with suppress(FileNotFoundError), self._tree.folder(folders) as folder:
            fd = os.open(final, _READ_FLAGS, dir_fd=folder)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        raise not_found(self.locate(name))
