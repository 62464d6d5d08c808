"""Directories below one root, opened without ever following a symbolic link.

A Tree belongs to one thread. It keeps the directories used last open, since the members of an
archive come directory by directory; each is reached from the root by one openat a component.
"""

import os
from collections import OrderedDict
from contextlib import suppress

from pgbackup.storage.durable import DIRECTORY_FLAGS

KEPT_OPEN = 16
"""Directories; a walk needs its depth, a file system of limits like 64 descriptors allows it."""

_FLAGS = DIRECTORY_FLAGS | os.O_NOFOLLOW


def raw_name(name: str) -> str:
    """What the system calls turn into the bytes that a name had in its archive."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


class Tree:
    """The directories below `root`, a descriptor that stays the caller's."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()

    def directory(self, path: str) -> int:
        """A descriptor of a directory, good until the next call; "" is the root.

        Raises: OSError.
        """
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        parent, _, name = path.rpartition("/")
        fd = os.open(raw_name(name), _FLAGS, dir_fd=self.directory(parent))
        self._open[path] = fd
        if len(self._open) > KEPT_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def make(self, path: str, mode: int) -> None:
        """Make a directory in one that exists. Raises: OSError."""
        parent, _, name = path.rpartition("/")
        os.mkdir(raw_name(name), mode, dir_fd=self.directory(parent))
        os.fchmod(self.directory(path), mode)

    def make_missing(self, path: str, mode: int) -> None:
        """Make a directory unless it is there. Raises: OSError."""
        with suppress(FileExistsError):
            self.make(path, mode)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link unless this very one is there. Raises: OSError."""
        parent, _, name = path.rpartition("/")
        folder = self.directory(parent)
        try:
            os.symlink(target, raw_name(name), dir_fd=folder)
        except FileExistsError:
            if os.readlink(raw_name(name), dir_fd=folder) != target:
                raise

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
