"""Life of the background process of wal-get: it fetches the segments that come next.

What it puts into the spool was proven to be the archive's; fetched.py says how it is kept.
"""

import os
import zlib
from collections.abc import Iterator

from pgbackup.archiving import fetched
from pgbackup.archiving.get import open_source, segment_content
from pgbackup.archiving.spooldir import make_safe, try_to_remove
from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Segment, WalFileName
from pgbackup.storage.durable import FileSystem

_AHEAD_BYTES = 256 << 20
_ROOM = 16  # segments that the file system must still have room for


class Prefetch:
    """Fetches for the server of the current directory, from one repository."""

    def __init__(self, spool: str, repo: str) -> None:
        """Open the repository. What comes later does not depend on the current directory.

        spool: absolute, and safe.

        Raises: PgbackupError.
        """
        self._spool = spool
        self._folder = f"{spool}/{fetched.FOLDER}"
        self._source = open_source(repo)
        whose = fetched.origin(repo)
        if whose is None:
            raise NotFound("could not fetch ahead: the current directory is no server's")
        self._whose = whose
        self._count = min(fetched.AHEAD, _AHEAD_BYTES // self._source.segment_size)

    def fetch(self, name: str) -> None:
        """Fetch the segments after one, as far as they are there.

        Raises: PgbackupError, OSError; the spool is in order whatever happens.
        """
        segment = WalFileName.parse(name).segment(self._source.segment_size)
        following = list(self._following(segment))
        if not make_safe(self._folder):
            return
        self._tidy({each.name for each in following})
        there = {entry.partition(".")[0] for entry in fetched.entries(self._spool)}
        for each in following:
            if each.name not in there and not (self._has_room() and self._fetch_one(each)):
                return

    def _following(self, segment: Segment) -> Iterator[Segment]:
        for _ in range(self._count):
            try:
                segment = segment.next()
            except CorruptData:  # the end of the address space
                return
            yield segment

    def _has_room(self) -> bool:
        room = os.statvfs(self._spool)
        return room.f_bavail * room.f_frsize > _ROOM * self._source.segment_size

    def _fetch_one(self, segment: Segment) -> bool:
        content = segment_content(self._source, segment)
        if content is None:
            return False
        temporary = f"{self._folder}/fetching"
        try_to_remove(temporary)
        filesystem = FileSystem()
        fd = filesystem.open_new(temporary)
        checksum = fetched.begin_checksum(segment.name, self._whose)
        try:
            for chunk in content:
                checksum = zlib.crc32(chunk, checksum)
                filesystem.write_all(fd, chunk)
        finally:
            filesystem.close(fd)
        filesystem.rename(temporary, f"{self._folder}/{segment.name}.{checksum:08x}")
        return True

    def _tidy(self, wanted: set[str]) -> None:
        """Remove what nobody will ask for: other places of the WAL."""
        for entry in fetched.entries(self._spool):
            if entry.partition(".")[0] not in wanted:
                try_to_remove(f"{self._folder}/{entry}")
