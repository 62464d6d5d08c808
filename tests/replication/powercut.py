"""A file system that knows what would be left after a power cut: what was synced, and no more."""

import os
import shutil
from pathlib import Path

from pgbackup.storage.durable import FileSystem, PathName


class PowerCutFileSystem(FileSystem):
    """Watches one directory.

    Of a file that was never synced nothing is left but its name, and of a name that was never
    synced nothing at all. What was there before is as if it had never been synced.

    contents: of files as they were last synced, by inode.
    names:    of the directory as it was last synced, with their inodes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.contents: dict[int, bytes] = {}
        self.names: dict[str, int] = {}

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        if Path(f"/proc/self/fd/{fd}").is_dir():
            self.names = {each.name: each.stat().st_ino for each in self._directory.iterdir()}
        else:
            self._settle(fd)

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self._settle(fd)

    def link(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        """A name can also become durable by itself: what gets a full one has to be all there."""
        path = self._directory / os.fspath(existing)
        if "." not in os.fspath(new):
            assert self.contents.get(path.stat().st_ino) == path.read_bytes()
        super().link(existing, new, dir_fd=dir_fd)

    def left(self, into: Path) -> Path:
        """Make a directory of what is left."""
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        for name, inode in self.names.items():
            (into / name).write_bytes(self.contents.get(inode, b""))
        return into

    def _settle(self, fd: int) -> None:
        found = os.fstat(fd)
        self.contents[found.st_ino] = os.pread(fd, found.st_size, 0)
