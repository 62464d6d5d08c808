"""Our own BASE_BACKUP: reads the data directory of a server on this host into a sink.

Archives have the members that the server would send, in its order and with its headers; then comes
a manifest. This thread walks the directories, writes headers and reads small files; large ones are
deferred, so that the chain's threads read, verify and compress them. Memory does not grow with the
data, only with the number of files, for the manifest.

Never writes to the data directory, and holds a file open only until it is read.

Source: basebackup.c, perform_base_backup (PostgreSQL 18)
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pgbackup.backup.members import BACKUP_LABEL, TABLESPACE_MAP
from pgbackup.backup.pgdata.archivemembers import ArchiveMembers, member_size
from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.datafile import Reading
from pgbackup.backup.pgdata.directread import DirectReads
from pgbackup.backup.pgdata.entries import Walk
from pgbackup.backup.pgdata.outstanding import Outstanding
from pgbackup.backup.pgdata.session import BackupSession
from pgbackup.backup.pgdata.walmembers import send_wal, wal_ranges
from pgbackup.backup.receive import BackupOutcome
from pgbackup.pg.label import encode_tablespace_map
from pgbackup.pg.lsn import WalPosition
from pgbackup.pg.page import PAGE_SIZE
from pgbackup.pg.tar import END_OF_ARCHIVE
from pgbackup.stream.packer import Packer
from pgbackup.stream.sink import BackupState, Sink, Tablespace
from pgbackup.stream.throttle import Throttle


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a data directory is read.

    checksums:        of the manifest, in capitals; NONE is one of them.
    verify_checksums: check pages, if the cluster has data checksums.
    wal:              put the WAL of the backup into its last archive.
    direct_io:        read past the page cache.
    threads:          that read at the same time, beside the caller's.
    estimate:         look at the size of everything before, to tell how far the run is.
    max_rate:         kilobytes per second, or None.
    manifest:         end with one.
    force_encode:     hexadecimal names in it even where they are text.
    tablespace_map:   put one into the main archive, instead of links.
    check_interval:   seconds after which the session is asked whether all is well, so that a lost
                      one does not come to light when everything has been read.
    """

    checksums: str = "CRC32C"
    verify_checksums: bool = True
    wal: bool = False
    direct_io: bool = False
    threads: int = 1
    estimate: bool = False
    max_rate: int | None = None
    manifest: bool = True
    force_encode: bool = False
    tablespace_map: bool = False
    check_interval: float = 30


class DirectoryBackup:
    """One backup of a data directory. Close it when the sink has been cleaned up."""

    def __init__(self, data: DataDirectory, session: BackupSession, options: ReadOptions) -> None:
        self._data = data
        self._session = session
        self._options = options
        self._outstanding = Outstanding()
        self._direct = DirectReads(options.threads + 1) if options.direct_io else None
        self._members: ArchiveMembers | None = None
        self._checked = 0.0

    def run(self, sink: Sink) -> BackupOutcome:
        """Read everything into the sink; the caller cleans that up.

        Raises: PgbackupError, what the session raises, what the sink raises.
        """
        if self._options.max_rate is not None:
            sink = Throttle(sink, self._options.max_rate)
        self._session.begin()
        self._checked = time.monotonic()
        start = self._session.start
        tablespaces = self._data.tablespaces()
        walk = self._walk(tablespaces)
        if self._options.estimate:
            tablespaces = tuple(self._estimated(tablespaces))
        members = self._members = ArchiveMembers(
            self._data, self._reading(start), force_encode=self._options.force_encode
        )
        sizes = [each.size for each in tablespaces if each.size is not None]
        sink.begin_backup(BackupState(start, tablespaces, sum(sizes) if sizes else None))
        stop = start
        for tablespace in tablespaces:
            sink.begin_archive(tablespace.archive_name)
            packer = Packer(sink)
            if tablespace.oid is None:
                self._put_first(packer, members, tablespaces)
            for entry in walk.entries(tablespace):
                members.send(packer, tablespace.oid, entry)
                self._check_session()
            if tablespace.oid is None:
                stop = self._finish(packer, members)
            packer.put(END_OF_ARCHIVE)
            packer.hand_on()
            sink.end_archive()
        if self._options.manifest:
            self._send_manifest(sink, members, stop)
        sink.end_backup(stop)
        warnings = (*walk.warnings, *members.warnings())
        is_damaged, has_label = members.bad_count > 0, self._session.label is not None
        return BackupOutcome(start, stop, tablespaces, warnings, is_damaged, has_label)

    def close(self) -> None:
        """Close what is open; no thread may be reading."""
        if self._members is not None:
            self._members.close()
        if self._direct is not None:
            self._direct.close()

    def _check_session(self) -> None:
        if time.monotonic() >= self._checked + self._options.check_interval:
            self._session.check()
            self._checked = time.monotonic()

    def _reading(self, start: WalPosition) -> Reading:
        control = self._data.control
        is_verified = (
            self._options.verify_checksums
            and control.data_checksum_version > 0
            and control.block_size == PAGE_SIZE
        )
        return Reading(
            self._options.checksums,
            start.lsn if is_verified else None,
            control.relation_segment_blocks,
            self._outstanding,
            self._direct,
        )

    def _walk(self, tablespaces: tuple[Tablespace, ...]) -> Walk:
        # Without a label there may be no recovery, which would make unlogged relations anew.
        unlogged = self._session.label is None
        has_map = self._options.tablespace_map
        return Walk(self._data, tablespaces, has_map=has_map, with_unlogged=unlogged)

    def _put_first(
        self, packer: Packer, members: ArchiveMembers, tablespaces: tuple[Tablespace, ...]
    ) -> None:
        """Put the files that tell recovery what the others are."""
        if self._session.label is not None:
            members.put_content(packer, BACKUP_LABEL, self._session.label)
        places = {
            each.oid: each.location
            for each in tablespaces
            if each.oid is not None and each.location.startswith("/")
        }
        if self._options.tablespace_map and places:
            content = encode_tablespace_map(places, self._data.major)
            members.put_content(packer, TABLESPACE_MAP, content)

    def _estimated(self, tablespaces: tuple[Tablespace, ...]) -> Iterator[Tablespace]:
        """The same tablespaces with the size that their archives will have, more or less."""
        walk = self._walk(tablespaces)
        for tablespace in tablespaces:
            headers = (entry.header for entry in walk.entries(tablespace))
            yield replace(tablespace, size=sum(map(member_size, headers)))

    def _send_manifest(self, sink: Sink, members: ArchiveMembers, stop: WalPosition) -> None:
        sink.begin_manifest()
        rest = memoryview(members.manifest(wal_ranges(self._data, self._session.start, stop)))
        while rest:
            buffer = sink.buffer
            length = min(len(buffer), len(rest))
            buffer[:length] = rest[:length]
            sink.manifest_contents(length)
            rest = rest[length:]
        sink.end_manifest()

    def _finish(self, packer: Packer, members: ArchiveMembers) -> WalPosition:
        """Send what comes after all other files, and stop the backup.

        pg_control says up to where a standby's files need WAL, so it must be newer than they are.
        """
        packer.flush()
        self._outstanding.wait_for_all()
        members.put_control(packer)
        stop = self._session.end()
        if self._options.wal:
            send_wal(self._data, members, packer, self._session.start, stop)
        return stop
