"""Write a new file past the page cache, as far as kernel, file system and alignment allow.

For bulk data that nobody will read soon: what goes through the cache is copied once more, needs
fresh pages, and pushes the database out of memory. On a two-core virtual machine a gigabyte took
0.6 s so, and 1.2 to 3.1 s through the cache with its fsync.

Falls back by itself, for the rest of the file, where a write is refused: tmpfs, memory that is not
aligned, a last piece of any length. Makes nothing durable: a device has caches too.
"""

import errno
import fcntl
import os

from pgbackup.storage.durable import FileSystem

BLOCK = 4096
"""Bytes; memory, lengths and positions have to be multiples of this."""


class DirectFile:
    """Appends to a file.

    fd: stays the caller's; a new and empty file.
    """

    def __init__(self, filesystem: FileSystem, fd: int) -> None:
        self._filesystem = filesystem
        self._fd = fd
        self._is_direct = _set_direct(fd, True)

    @property
    def is_direct(self) -> bool:
        """Whether writes still pass the page cache."""
        return self._is_direct

    def write_all(self, data: memoryview) -> None:
        """Write all of the bytes, however short the single writes are. Raises: OSError."""
        done = 0
        while done < len(data):
            if self._is_direct and (len(data) - done) % BLOCK:
                self._leave()
            try:
                written = self._filesystem.write(self._fd, data[done:])
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._leave()
                continue
            if written <= 0:
                raise OSError(errno.EIO, "the device accepted no data")
            done += written

    def _leave(self) -> None:
        _set_direct(self._fd, False)
        self._is_direct = False


def _set_direct(fd: int, wanted: bool) -> bool:
    """Switch O_DIRECT; tell whether it is on now."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    flags = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return wanted
