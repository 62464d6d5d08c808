"""Segments that were fetched before the server asked for them: how they are kept and delivered.

A call that finds its segment here is over before most of what wal-get is made of would be loaded.
It delivers only what is proven: the checksum in a file's name covers the cluster whose data
directory we run in, the repository, the segment's name and the content, which was proven to be
that of the archive when it was put here. That something was not there is never remembered.

Spool: fetched/<segment>.<CRC-32>
"""

# ruff: noqa: PLC0415, PTH100, PTH116, PTH208 - every import costs the server time

import os
import zlib

from pgbackup.archiving.spooldir import is_safe, make_safe, try_to_remove
from pgbackup.storage.durable import FileSystem

TYPE_CHECKING = False  # that of typing, which is slow to load
if TYPE_CHECKING:
    from collections.abc import Iterator

AHEAD = 8  # segments
FOLDER = "fetched"
_LOCK = "fetched.lock"
_LIFETIME = 60  # seconds
_SEGMENT = 24  # digits
_CHUNK = 1 << 18  # bytes
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def take(spool: str, name: str, target: str, repo: str) -> bool:
    """Deliver a segment from the spool; False if it is not there, proven.

    name, target: as %f and %p.
    repo:         as the user named it.
    """
    folder = f"{spool}/{FOLDER}"
    found = [entry for entry in entries(spool) if entry.partition(".")[0] == name]
    whose = origin(repo) if found and is_safe(spool) else None
    if whose is None:
        return False
    for entry in found:
        path = f"{folder}/{entry}"
        if _checksum_of(path, name, whose) == entry.partition(".")[2]:
            return _deliver(path, target)
        try_to_remove(path)
    return False


def fetch_ahead(spool: str, name: str, repo: str) -> None:
    """Have the segments after one fetched by a process of its own: if few are there, and if none
    is at it.

    Whatever goes wrong is nobody's concern.
    """
    last = name[:8] + f"{int(name[8:], 16) + AHEAD:016X}" if len(name) == _SEGMENT else ""
    there = sum(name < entry[:_SEGMENT] <= last for entry in entries(spool))
    if not last or there > AHEAD // 2 or not make_safe(spool):
        return
    import fcntl

    try:
        lock = os.open(f"{spool}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fork() == 0:
                _run(os.path.abspath(spool), name, repo)
        finally:
            os.close(lock)
    except OSError:
        pass


def entries(spool: str) -> list[str]:
    """The names of the files that were fetched, sorted."""
    try:
        return sorted(os.listdir(f"{spool}/{FOLDER}"))
    except OSError:
        return []


def origin(repo: str) -> bytes | None:
    """What tells the current directory's cluster and a repository from all others.

    None if one of the two is not there.
    """
    try:
        fd = os.open("global/pg_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            system = os.pread(fd, 8, 0)
        finally:
            os.close(fd)
        if "://" in repo:
            return system + os.fsencode(repo)
        found = os.stat(f"{repo}/pgbackup.json")
    except OSError:
        return None
    return system + f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}".encode()


def begin_checksum(name: str, whose: bytes) -> int:
    """The checksum of all but the content.

    name:  of the segment.
    whose: its origin.
    """
    return zlib.crc32(name.encode(), zlib.crc32(whose))


def _checksum_of(path: str, name: str, whose: bytes) -> str | None:
    """The checksum that a file's name must have; None if the file cannot be read."""
    value = begin_checksum(name, whose)
    try:
        for chunk in _content(path):
            value = zlib.crc32(chunk, value)
    except OSError:
        return None
    return f"{value:08x}"


def _content(path: str) -> "Iterator[memoryview]":
    """Yield the content, each piece in the place of the one before. Raises: OSError."""
    buffer = memoryview(bytearray(_CHUNK))
    fd = os.open(path, _FLAGS)
    try:
        while count := os.readv(fd, [buffer]):
            yield buffer[:count]
    finally:
        os.close(fd)


def _deliver(path: str, target: str) -> bool:
    """Move a file to its target, or copy it to another file system."""
    filesystem = FileSystem()
    try:
        filesystem.rename(path, target)
    except OSError:
        from pgbackup.archiving.get import put_in_place
        from pgbackup.errors import PgbackupError

        try:
            put_in_place(target, _content(path))
        except PgbackupError:
            return False
        try_to_remove(path)
    return True


def _run(spool: str, name: str, repo: str) -> None:
    """Life of the background process; it does not return. It has the lock while it lives."""
    try:
        _detach()
        from pgbackup.archiving.prefetch import Prefetch

        prefetch = Prefetch(spool, repo)
        os.chdir("/")
        prefetch.fetch(name)
    finally:
        os._exit(0)


def _detach() -> None:
    """Let go of the server: its session, its log, and of life after a while."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    import signal

    signal.alarm(_LIFETIME)
