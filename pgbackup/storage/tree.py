"""The folders of a storage on a file system: opened, made, walked and tidied away.

Each is reached from the root by one openat per component that does not follow symbolic links, so
that neither a name nor a link planted in the repository leads out of it. A folder exists while
something is in it; whoever opens one to write makes it again if it was just tidied away.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pgbackup.storage.durable import DIRECTORY_FLAGS, FileSystem
from pgbackup.storage.names import is_component

DIRECTORY_MODE = 0o700

# The root of an ext4 file system has this; only the superuser can look into it.
_LOST_AND_FOUND = "lost+found"

_ATTEMPTS = 100  # to make a folder that others keep removing at the same moment


class FolderTree:
    """The folders below one root. Every method raises OSError."""

    def __init__(self, root: str, filesystem: FileSystem) -> None:
        self._root = root
        self._filesystem = filesystem

    @contextmanager
    def folder(self, parts: Sequence[str]) -> Iterator[int]:
        """Open an existing folder for the length of a block."""
        fd = self._open(parts)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, parts: Sequence[str], opener: Callable[[int], int]) -> tuple[int, int]:
        """Open a file for writing in a folder, which is made durably if there is none.

        opener: is given the descriptor of the folder; returns that of the file.

        Returns both; the caller closes them.
        """
        for attempt in range(_ATTEMPTS):
            try:
                folder = self._open(parts, make=True)
                try:
                    return folder, opener(folder)
                except BaseException:
                    os.close(folder)
                    raise
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def prune(self, parts: Sequence[str]) -> None:
        """Remove a folder and those above it, as far as they are empty; never the root."""
        for depth in range(len(parts), 0, -1):
            try:
                with self.folder(parts[: depth - 1]) as parent:
                    self._filesystem.remove_directory(parts[depth - 1], dir_fd=parent)
            except OSError:
                return

    def walk(
        self, parts: Sequence[str], select: Callable[[str], bool]
    ) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield every file of selected name below a folder: its directory's descriptor, its parts.

        Sorted by the parts joined with slashes. What goes away meanwhile is passed over; whatever
        else cannot be read raises, a symbolic link to a directory too: a listing is complete.
        """
        try:
            fd = self._open(parts)
        except FileNotFoundError:
            return
        try:
            for key in self._entries(fd, top=not parts):
                if key[-1] == "/":
                    yield from self.walk((*parts, key[:-1]), select)
                elif select(key):
                    yield fd, (*parts, key)
        finally:
            os.close(fd)

    def folders(self, parts: Sequence[str]) -> list[str]:
        """Return the names of the folders directly in a folder, sorted; none if it is missing."""
        try:
            with self.folder(parts) as fd:
                entries = self._entries(fd, top=not parts)
        except FileNotFoundError:
            return []
        return sorted(entry[:-1] for entry in entries if entry.endswith("/"))

    def _entries(self, fd: int, *, top: bool) -> list[str]:
        """Names in a directory in the order of whole names; folders end with a slash."""
        with os.scandir(fd) as entries:
            return sorted(
                f"{entry.name}/" if entry.is_dir() and is_component(entry.name) else entry.name
                for entry in entries
                if not (top and entry.name == _LOST_AND_FOUND)
            )

    def _open(self, parts: Sequence[str], *, make: bool = False) -> int:
        if make:
            self._filesystem.make_directories(self._root, DIRECTORY_MODE)
        fd = os.open(self._root, DIRECTORY_FLAGS)
        for part in parts:
            try:
                inner = self._open_inner(part, fd, make)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _open_inner(self, part: str, parent: int, make: bool) -> int:
        flags = DIRECTORY_FLAGS | os.O_NOFOLLOW
        try:
            return os.open(part, flags, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        self._filesystem.make_directory(part, DIRECTORY_MODE, dir_fd=parent)
        return os.open(part, flags, dir_fd=parent)
