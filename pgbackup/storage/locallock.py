"""Locks on a file system: the flock of a hidden file, which the kernel releases at any death.

The file says who holds the lock. It is removed at release; one that outlives its process is
without flock, hence no lock, and the next holder takes it over.
"""

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress

from pgbackup.storage.api import Lock
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.leftovers import lock_file_name, try_flock
from pgbackup.storage.tree import FolderTree
from pgbackup.storage.wording import held, lock_record

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_RECORD_LIMIT = 4096  # bytes
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalLock(Lock):
    """A lock that is held.

    Always, until release: the flock is ours, and the file has its name.
    """

    _operation = fcntl.LOCK_EX

    def __init__(
        self,
        tree: FolderTree,
        filesystem: FileSystem,
        parts: tuple[str, ...],
        located: str,
        owner: Mapping[str, str] | None,
    ) -> None:
        """Take the lock.

        Raises: Locked, OSError.
        """
        *self._folders, final = parts
        self._tree = tree
        self._filesystem = filesystem
        self._file_name = lock_file_name(final)
        while True:
            self._folder, self._fd = tree.open_file(self._folders, self._open_file)
            try:
                if not try_flock(self._fd, attempts=3, operation=self._operation):
                    raise held(located, _read_record(self._fd))
                if self._has_its_name():
                    _write_record(self._fd, lock_record(owner))
                    return
            except BaseException:
                self._close()
                raise
            self._close()  # the last holder removed the file while we waited: it is no lock now

    def release(self) -> None:
        if self._fd < 0:
            return
        if self._is_last():
            with suppress(OSError):
                self._filesystem.unlink(self._file_name, dir_fd=self._folder)
        self._close()
        self._tree.prune(self._folders)

    def _is_last(self) -> bool:
        """Tell whether nobody else holds it, so that the file can go."""
        return True

    def _open_file(self, folder: int) -> int:
        return os.open(self._file_name, _FLAGS | os.O_CREAT, 0o600, dir_fd=folder)

    def _has_its_name(self) -> bool:
        try:
            named = os.stat(self._file_name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def _close(self) -> None:
        os.close(self._fd)
        os.close(self._folder)
        self._fd = -1


class LocalSharedLock(LocalLock):
    """A lock that others may hold in the same way; the last to release it removes the file."""

    _operation = fcntl.LOCK_SH

    def _is_last(self) -> bool:
        return try_flock(self._fd)

    def _open_file(self, folder: int) -> int:
        """Open the file; it is the folder's owner's, whom root's death must not shut out."""
        fd = super()._open_file(folder)
        owner, mine = os.fstat(folder), os.fstat(fd)
        if mine.st_uid != owner.st_uid:
            with suppress(OSError):
                os.fchown(fd, owner.st_uid, owner.st_gid)
        return fd


def read_holder(tree: FolderTree, parts: tuple[str, ...]) -> dict[str, str] | None:
    """What the holder of a lock left; None if nobody alive holds it.

    Raises: OSError.
    """
    *folders, final = parts
    try:
        with tree.folder(folders) as folder:
            fd = os.open(lock_file_name(final), _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        return None if try_flock(fd) else _read_record(fd)
    finally:
        os.close(fd)


def _write_record(fd: int, record: Mapping[str, str]) -> None:
    """Tell who we are; on a full disk nobody is told, but what makes room is not kept from it."""
    os.ftruncate(fd, 0)
    try:
        os.pwrite(fd, json.dumps(record).encode(), 0)
    except OSError as error:
        if error.errno not in _FULL:
            raise


def _read_record(fd: int) -> dict[str, str]:
    """What the holder left; nothing if that cannot be made out, as while it is being written."""
    try:
        record = json.loads(os.pread(fd, _RECORD_LIMIT, 0))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {str(key): str(value) for key, value in record.items()}
