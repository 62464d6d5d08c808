"""What a delta restore keeps of directories that were taken over.

First everything that the backup does not have, or has as something else, is removed, and
directories get their modes. Then threads compare each file that is left with the manifest, by size
and checksum and never by time, and remove what differs. So what remains is right, and a restore
goes on as if the rest had never been there.

Follows no link, and writes into no file.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from crc32c import crc32c

from pgbackup.backup.crew import Crew, Task
from pgbackup.backup.members import ContentCheck, printable
from pgbackup.pg.manifest import NO_CHECKSUM, ManifestFile, crc32c_bytes
from pgbackup.pg.tar import padding
from pgbackup.restore.extract import Rules
from pgbackup.restore.ground import Ground
from pgbackup.restore.newfile import target_errors
from pgbackup.restore.tree import Tree, raw_name
from pgbackup.storage.durable import DIRECTORY_FLAGS

CHUNK = 1 << 20  # bytes

_BATCH_SIZE = 64 << 20
_BATCH_FILES = 500
"""What one thread compares at a time, at most; but a file is one thread's."""

ALIGNMENT = 8
"""Bytes; as many zeros, less one, can follow the checksum at the end of a file."""

_HEADER = 512  # bytes
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class Amount:
    """Files and their bytes."""

    files: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        """Count one more file."""
        self.files += 1
        self.size += size


@dataclass(frozen=True, slots=True)
class DeltaCounts:
    """What a delta restore did with the files that were there, and with those of the backup.

    removed:  what the backup does not have; not what is written anew.
    unlinked: paths of directories that were symbolic links before.
    """

    kept: Amount
    rewritten: Amount
    removed: Amount
    unlinked: tuple[str, ...] = ()


class Keeper:
    """Keeps what is right.

    manifest: the files of the backup, by path.

    kept:     the paths, of the manifest, that are there and right.
    removed:  what the backup does not have.
    unlinked: paths of directories that were symbolic links.
    """

    def __init__(self, rules: Rules, manifest: Mapping[str, ManifestFile], crew: Crew) -> None:
        self._rules = rules
        self._manifest = manifest
        self._crew = crew
        self.kept: set[str] = set()
        self.removed = Amount()
        self.unlinked: list[str] = []

    def keep(self, grounds: Sequence[Ground]) -> None:
        """Remove everything else. Raises: PgbackupError."""
        for ground in grounds:
            with target_errors("clear directory", ground.name):
                self._clear(ground, ground.root, "")
        self._crew.run(self._tasks(grounds))

    def _clear(self, ground: Ground, folder: int, prefix: str) -> None:
        """Remove what does not belong into one directory, and look into those that do."""
        for entry in _entries(folder):
            path = prefix + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if is_directory and path in ground.directories:
                with _inner(folder, entry.name) as inner:
                    os.fchmod(inner, self._rules.mode)
                    self._clear(ground, inner, path + "/")
            elif not _may_stay(ground, folder, entry, path):
                if path not in ground.files and path not in ground.own:
                    self._count(folder, entry)
                if path in ground.directories and entry.is_symlink():
                    self.unlinked.append(ground.prefix + path)
                _remove(folder, entry)

    def _count(self, folder: int, entry: "os.DirEntry[str]") -> None:
        if not entry.is_dir(follow_symlinks=False):
            self.removed.add(entry.stat(follow_symlinks=False).st_size)
            return
        with _inner(folder, entry.name) as inner:
            for each in _entries(inner):
                self._count(inner, each)

    def _tasks(self, grounds: Sequence[Ground]) -> Iterator[Task]:
        """The largest first, so that all threads end at about the same time."""
        batches: list[tuple[int, Ground, list[str]]] = []
        for ground in grounds:
            batch: list[str] = []
            size = 0
            for path in ground.files.values():
                if batch and (size >= _BATCH_SIZE or len(batch) >= _BATCH_FILES):
                    batches.append((size, ground, batch))
                    batch, size = [], 0
                batch.append(path)
                size += self._manifest[path].size
            batches.append((size, ground, batch))
        for _, ground, paths in sorted(batches, key=lambda each: each[0], reverse=True):
            yield partial(self._compare_all, ground, paths)

    def _compare_all(self, ground: Ground, paths: Sequence[str]) -> None:
        memory = memoryview(bytearray(CHUNK))
        with Tree(ground.root) as tree:
            for path in paths:
                file = self._manifest[path]
                inner = path.removeprefix(ground.prefix)
                with target_errors("compare file", f"{ground.name}/{printable(inner)}"):
                    is_kept = self._compare(tree, inner, file, memory)
                if is_kept:
                    self.kept.add(path)
                    self._crew.advance(_HEADER + file.size + padding(file.size))

    def _compare(self, tree: Tree, path: str, file: ManifestFile, memory: memoryview) -> bool:
        """Tell whether a file is right; remove it if not."""
        directory, _, last = path.rpartition("/")
        name = raw_name(last)
        try:
            folder = tree.directory(directory)
        except FileNotFoundError:
            return False
        try:
            fd = os.open(name, _FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return False
        except PermissionError:
            self._rules.filesystem.unlink(name, dir_fd=folder)
            return False
        try:
            if self._is_right(fd, file, memory):
                os.fchmod(fd, 0o600 | os.fstat(fd).st_mode & self._rules.file_mode)
                if self._rules.sync:
                    self._rules.filesystem.fsync(fd)
                return True
        finally:
            os.close(fd)
        self._rules.filesystem.unlink(name, dir_fd=folder)
        return False

    def _is_right(self, fd: int, file: ManifestFile, memory: memoryview) -> bool:
        found = os.fstat(fd)
        # The server would change a file with several names in all places that have one.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            return False
        if found.st_size != file.size or not tells_content(file):
            return False
        check = ContentCheck(file)
        while length := os.readv(fd, [memory]):
            check.update(memory[:length])
            self._crew.advance(0)
        return check.is_right()


def tells_content(file: ManifestFile) -> bool:
    """Tell whether the same checksum means the same content.

    Not if a file ends in its own CRC-32C: that of all of it is then always that of as many zeros,
    as for pg_filenode.map, for prepared transactions and for the origins of logical replication.

    Source: relmapper.c, write_relmap_file; twophase.c, EndPrepare; origin.c,
        CheckPointReplicationOrigin (PostgreSQL 18)
    """
    if file.algorithm != "CRC32C":
        return file.algorithm != NO_CHECKSUM
    ends = range(4, min(4 + ALIGNMENT, file.size))
    return all(file.checksum != crc32c_bytes(crc32c(bytes(length))) for length in ends)


def _may_stay(ground: Ground, folder: int, entry: "os.DirEntry[str]", path: str) -> bool:
    if path in ground.untouched:
        return True
    if ground.is_shared and "/" not in path:
        return path not in ground.directories
    if path in ground.links and entry.is_symlink():
        return os.readlink(entry.name, dir_fd=folder) == ground.links[path]
    return path in ground.files and entry.is_file(follow_symlinks=False)


def _remove(folder: int, entry: "os.DirEntry[str]") -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.name, dir_fd=folder)
        return
    with _inner(folder, entry.name) as inner:
        for each in _entries(inner):
            _remove(inner, each)
    os.rmdir(entry.name, dir_fd=folder)


def _entries(folder: int) -> "list[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return list(entries)


@contextmanager
def _inner(folder: int, name: str) -> Iterator[int]:
    fd = os.open(name, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)
