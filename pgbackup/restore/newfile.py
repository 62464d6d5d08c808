"""A new file in a directory being restored: from its creation to its last byte on disk.

Writing is started early and pages that have been written are let go of, so that the sync at the end
is short and a restore does not fill the memory. Past the page cache it took half as long again: the
kernel keeps more writes under way than a few threads do; scripts/bench/restore.py.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pgbackup.errors import PgbackupError
from pgbackup.storage.durable import FileSystem

WRITEBACK_STEP = 16 << 20
"""Bytes between two hints to begin writing; 4 to 32 MiB made no difference. Without hints a restore
took two to four times as long on a virtual machine, where first use of memory is slow."""

_MIN_WRITEBACK = 1 << 20
"""Bytes; a hint costs more than it brings for a smaller file."""


@contextmanager
def target_errors(action: str, name: str) -> Iterator[None]:
    """Turn an OSError raised inside the block into an error for the user."""
    try:
        yield
    except OSError as error:
        raise target_error(action, name, error) from error


def target_error(action: str, name: str, error: OSError) -> PgbackupError:
    """Word an OSError on a directory that is restored into."""
    reason = error.strerror or str(error)
    return PgbackupError(f'could not {action} "{name}": {reason[:1].lower()}{reason[1:]}')


class NewFile:
    """Writes one file.

    fd:    taken over: close or abort ends it.
    name:  for messages.
    sync:  make it durable on close, rather than with the whole file system later.
    """

    def __init__(self, filesystem: FileSystem, fd: int, name: str, *, sync: bool) -> None:
        self._filesystem = filesystem
        self._fd = fd
        self._name = name
        self._sync = sync
        self._position = 0
        self._hinted = 0
        self._let_go = 0

    def write(self, data: memoryview | bytes) -> None:
        """Append. Raises: PgbackupError."""
        with target_errors("write file", self._name):
            self._filesystem.write_all(self._fd, data)
            self._position += len(data)
            if self._position - self._hinted >= WRITEBACK_STEP:
                self._hint()

    def extend(self, size: int) -> None:
        """Fill up with zeros to a size in bytes. Raises: PgbackupError."""
        with target_errors("write file", self._name):
            os.posix_fallocate(self._fd, 0, size)

    def close(self) -> None:
        """End the file. Raises: PgbackupError; then it is not to be relied on."""
        with target_errors("write file", self._name):
            if self._sync:
                self._filesystem.fsync(self._fd)
            elif self._position - self._let_go >= _MIN_WRITEBACK:
                self._hint()
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    def abort(self) -> None:
        """Close without promises. No effect after close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _hint(self) -> None:
        # The pages of this step are still dirty; those of the step before are on disk by now and
        # only the second hint lets go of them.
        self._filesystem.start_writeback(self._fd, self._let_go, self._position - self._let_go)
        self._let_go, self._hinted = self._hinted, self._position
