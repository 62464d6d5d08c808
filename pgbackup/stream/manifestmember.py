"""ManifestMember: a link that makes the manifest the last member of the only archive.

For a backup on standard output, where one stream must hold everything. The archive's end marker
is held back until the manifest has come.

Source: pg_basebackup.c, ReceiveBackupManifestInMemory and CreateBackupStreamer (PostgreSQL 18).
"""

import os
import time

from pgbackup.errors import CorruptData, Refused
from pgbackup.pg.lsn import WalPosition
from pgbackup.pg.tar import END_OF_ARCHIVE, TarHeader, padding
from pgbackup.stream.sink import BackupState, Fill, Sink, feed
from pgbackup.stream.untar import TarWalker

MANIFEST_NAME = "backup_manifest"
MANIFEST_MODE = 0o600


class ManifestMember(Sink):
    """Append the manifest, if there is one, to the archive that flows past.

    Always: the successor's archive stays open until end_backup.
    """

    def __init__(self, successor: Sink) -> None:
        super().__init__(successor)
        self._walker = TarWalker(self)
        self._manifest = bytearray()

    def begin_backup(self, state: BackupState) -> None:
        if len(state.tablespaces) > 1:
            raise Refused(
                f"could not write {len(state.tablespaces)} archives to standard output:"
                " the server has tablespaces",
                hint="Back up into a repository: pgbackup backup -B REPO",
            )
        self.successor.begin_backup(state)

    def archive_contents(self, length: int) -> None:
        start = self._walker.offset
        self._walker.feed(self.successor.buffer[:length])
        if self._walker.is_inside_header:
            raise ValueError("a source for ManifestMember hands over whole headers")
        end = self._walker.end_offset
        before_end = length if end is None else max(0, end - start)
        if before_end:
            self.successor.archive_contents(before_end)

    def archive_later(self, length: int, fill: Fill) -> None:
        self._walker.skip(length)
        self.successor.archive_later(length, fill)

    def end_archive(self) -> None:
        self._walker.finish(is_whole=True)

    def begin_manifest(self) -> None:
        pass

    def manifest_contents(self, length: int) -> None:
        self._manifest += self.successor.buffer[:length]

    def end_manifest(self) -> None:
        header = TarHeader(
            name=MANIFEST_NAME,
            size=len(self._manifest),
            mode=MANIFEST_MODE,
            uid=os.geteuid(),
            gid=os.getegid(),
            mtime=int(time.time()),
        )
        feed(self.successor, memoryview(header.encode()))
        feed(self.successor, memoryview(self._manifest))
        feed(self.successor, memoryview(bytes(padding(len(self._manifest)))))

    def end_backup(self, stop: WalPosition) -> None:
        feed(self.successor, memoryview(END_OF_ARCHIVE))
        self.successor.end_archive()
        self.successor.end_backup(stop)

    def begin_member(self, header: TarHeader, offset: int) -> None:
        if header.name == MANIFEST_NAME:
            raise CorruptData("the server sent a manifest inside its archive")

    def member_contents(self, data: memoryview) -> None:
        pass

    def end_member(self) -> None:
        pass
