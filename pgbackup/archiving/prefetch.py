"""Segments that the server will want next, fetched by a process of their own while it replays.

The foreground never waits for it, never learns of its failures, and takes from the spool only what
is proven: the right size, the checksum in its name, and the header of the wanted segment of the
wanted cluster. Only what was found is kept; that something was not there is never remembered.

Spool: <system identifier>-<repository id>/<segment>.<CRC-32 of the content>
"""

# ruff: noqa: PTH100, PTH106, PTH108, PTH119, PTH208 - pathlib is slow to load

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress

from pgbackup.archiving.get import WalSource, put_in_place, segment_content, try_to_remove
from pgbackup.archiving.spooldir import make_safe
from pgbackup.errors import CorruptData, PgbackupError
from pgbackup.pg.lsn import Segment
from pgbackup.pg.walfile import check_segment_header
from pgbackup.storage.durable import FileSystem

AHEAD = 8  # segments
AHEAD_BYTES = 256 << 20
LIFETIME = 60  # seconds
_ROOM = 16  # segments that the file system must still have room for
_LOCK = "prefetch.lock"
_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Prefetch:
    """The spool of one server, for one repository."""

    def __init__(self, spool: str, source: WalSource) -> None:
        """Touch nothing yet.

        spool: directory; made if there is none, not used if it is not ours alone.
        """
        key = f"{source.cluster.system}-{source.repository.repository_id}"
        self._spool = os.path.abspath(spool)
        self._folder = f"{self._spool}/{key}"
        self._source = source
        self._count = min(AHEAD, AHEAD_BYTES // source.segment_size)

    def take(self, segment: Segment, target: str) -> bool:
        """Deliver a segment from the spool; False if it is not there, proven."""
        for entry in self._entries():
            if entry.startswith(segment.name) and make_safe(self._spool):
                path = f"{self._folder}/{entry}"
                with suppress(PgbackupError, OSError):
                    self._deliver(path, segment, target)
                    return True
                try_to_remove(path)
        return False

    def go_on(self, segment: Segment) -> None:
        """Have the segments after one fetched, unless that is done or under way."""
        there = {entry[:24] for entry in self._entries()}
        following = [each.name for each in self._following(segment)]
        if sum(name in there for name in following) > self._count // 2 or not following:
            return
        with suppress(OSError):
            if make_safe(self._spool) and self._has_room() and os.fork() == 0:
                self._run(segment)

    def _following(self, segment: Segment) -> Iterator[Segment]:
        for _ in range(self._count):
            try:
                segment = segment.next()
            except CorruptData:  # the end of the address space
                return
            yield segment

    def _entries(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except OSError:
            return []

    def _has_room(self) -> bool:
        room = os.statvfs(self._spool)
        needed = (self._count + _ROOM) * self._source.segment_size
        return room.f_bavail * room.f_frsize > needed

    def _deliver(self, path: str, segment: Segment, target: str) -> None:
        """Move a file to its target after a look at all of it."""
        _check(path, segment, self._source.cluster.system)
        filesystem = FileSystem()
        try:
            filesystem.rename(path, target)
        except OSError:  # another file system, most likely
            put_in_place(target, _content(path))
            try_to_remove(path)

    def _run(self, segment: Segment) -> None:
        """Life of the background process; it does not return."""
        try:
            _detach()
            self.fetch(segment)
        finally:
            os._exit(0)

    def fetch(self, segment: Segment) -> None:
        """Fetch the segments after one, as far as they are there, unless somebody else does.

        Raises: PgbackupError, OSError; the spool is in order whatever happens.
        """
        from pgbackup.storage.leftovers import try_flock  # noqa: PLC0415 - only here

        lock = os.open(f"{self._spool}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if try_flock(lock):
                self._fetch_following(segment)
        finally:
            os.close(lock)

    def _fetch_following(self, segment: Segment) -> None:
        following = list(self._following(segment))
        self._tidy({each.name for each in following})
        if not make_safe(self._folder):
            return
        there = {entry[:24] for entry in self._entries()}
        for each in following:
            if each.name not in there and not self._fetch_one(each):
                return

    def _fetch_one(self, segment: Segment) -> bool:
        content = segment_content(self._source, segment)
        if content is None:
            return False
        checksum = 0
        temporary = f"{self._folder}/fetching"
        try_to_remove(temporary)
        filesystem = FileSystem()
        fd = filesystem.open_new(temporary)
        try:
            for chunk in content:
                checksum = zlib.crc32(chunk, checksum)
                filesystem.write_all(fd, chunk)
        finally:
            filesystem.close(fd)
        filesystem.rename(temporary, f"{self._folder}/{segment.name}.{checksum:08x}")
        return True

    def _tidy(self, wanted: set[str]) -> None:
        """Remove what nobody will ask for: other places of the WAL, other repositories."""
        for entry in self._entries():
            if entry[:24] not in wanted:
                try_to_remove(f"{self._folder}/{entry}")
        own = os.path.basename(self._folder)
        for folder in os.listdir(self._spool):
            if folder != own and "-" in folder:
                remove_folder(f"{self._spool}/{folder}")


def remove_folder(folder: str) -> None:
    """Remove a folder of the spool with the files in it. Raises: OSError."""
    for entry in os.listdir(folder):
        os.unlink(f"{folder}/{entry}")
    os.rmdir(folder)


def _check(path: str, segment: Segment, system: int) -> None:
    """Check a file of the spool against its name. Raises: CorruptData, WrongSystem, OSError."""
    checksum, size, head = 0, 0, b""
    for chunk in _content(path):
        checksum = zlib.crc32(chunk, checksum)
        size += len(chunk)
        head = head or chunk
    if size != segment.size or path.rpartition(".")[2] != f"{checksum:08x}":
        raise CorruptData(f'could not use "{path}": it is not what was put there')
    check_segment_header(head, segment, system)


def _content(path: str) -> Iterator[bytes]:
    fd = os.open(path, _FLAGS)
    try:
        while chunk := os.read(fd, _CHUNK):
            yield chunk
    finally:
        os.close(fd)


def _detach() -> None:
    """Let go of the server: its session, its log, its directory, and of life after a while."""
    import signal  # noqa: PLC0415 - only here

    signal.alarm(LIFETIME)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.chdir("/")
