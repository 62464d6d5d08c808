"""What lets a server start from a restored directory: the WAL it needs, and how it goes on.

The WAL of the backup is placed in pg_wal, so that the server becomes consistent without help. It
then comes up as it was at the end of the backup, unless there is a restore_command to go on with.

Never starts anything.
"""

import os
from collections.abc import Callable

from crc32c import crc32c

from pgbackup.backup.stored import StoredBackup, read_history
from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Segment
from pgbackup.pg.walfile import LONG_HEADER_SIZE, check_segment_header
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import HistoryRecord
from pgbackup.restore.extract import Rules, Site
from pgbackup.restore.newfile import NewFile, target_errors
from pgbackup.restore.plan import RestorePlan, tail_segment_name
from pgbackup.restore.settings import configuration_lines
from pgbackup.restore.tree import Tree

PG_WAL = "pg_wal"
ARCHIVE_STATUS = "pg_wal/archive_status"
AUTO_CONF = "postgresql.auto.conf"

_CHUNK = 1 << 20  # bytes


class PgWal:
    """Fills pg_wal. Safe to use from several threads.

    site:    the data directory.
    advance: told of the bytes placed.
    """

    def __init__(
        self,
        site: Site,
        rules: Rules,
        archive: WalArchive,
        backup: StoredBackup,
        advance: Callable[[int], object],
    ) -> None:
        self._site = site
        self._rules = rules
        self._archive = archive
        self._backup = backup
        self._advance = advance

    def make_directories(self) -> None:
        """Make what archives have, too, if they have it."""
        with Tree(self._site.root) as tree, target_errors("create directory", PG_WAL):
            tree.make_missing(PG_WAL, self._rules.mode)
            tree.make_missing(ARCHIVE_STATUS, self._rules.mode)

    def place_segment(self, segment: Segment) -> None:
        """Place a segment of the archive. Raises: NotFound, CorruptData, PgbackupError."""
        header = b""
        file = self._new_file(segment.name)
        try:
            for chunk in self._archive.chunks(segment.name, segment.size):
                if len(header) < LONG_HEADER_SIZE:
                    header += chunk[: LONG_HEADER_SIZE - len(header)]
                file.write(chunk)
                self._advance(len(chunk))
            check_segment_header(header, segment, self._backup.record.system_identifier)
            file.close()
        finally:
            file.abort()
        self._mark_archived(segment.name)

    def place_history(self, history: HistoryRecord) -> None:
        """Place a timeline history file. Raises: as place_segment."""
        data = read_history(self._archive, history)
        put_file(self._site, self._rules, f"{PG_WAL}/{history.name}", data)
        self._mark_archived(history.name)

    def place_tail(self, tail: str) -> None:
        """Place the beginning of a segment that the archive could not have, zeros behind it.

        Raises: as place_segment.
        """
        record = self._backup.record
        expected = next((each for each in record.objects if each.name == tail), None)
        located = self._backup.storage.locate(self._backup.folder + tail)
        if expected is None or expected.size > record.wal_segment_size:
            raise CorruptData(f'could not use object "{located}": the record does not describe it')
        checksum = 0
        file = self._new_file(tail_segment_name(tail))
        try:
            with self._backup.storage.reader(self._backup.folder + tail) as reader:
                size = reader.size
                while chunk := reader.read(_CHUNK):
                    checksum = crc32c(chunk, checksum)
                    file.write(chunk)
            if (size, f"{checksum:08x}") != (expected.size, expected.crc32c):
                raise CorruptData(f'could not read object "{located}": it is not what was stored')
            file.extend(record.wal_segment_size)
            self._advance(record.wal_segment_size)
            file.close()
        finally:
            file.abort()

    def _mark_archived(self, name: str) -> None:
        # As pg_basebackup does, or the new server would archive once more what came from there.
        put_file(self._site, self._rules, f"{ARCHIVE_STATUS}/{name}.done", b"")

    def _new_file(self, name: str) -> NewFile:
        return new_file(self._site, self._rules, f"{PG_WAL}/{name}")


def new_file(site: Site, rules: Rules, path: str) -> NewFile:
    """Create a file of our own below a site. Raises: PgbackupError."""
    located = f"{site.name}/{path}"
    directory, _, name = path.rpartition("/")
    with target_errors("create file", located), Tree(site.root) as tree:
        fd = rules.filesystem.open_new(name, rules.file_mode, dir_fd=tree.directory(directory))
    return NewFile(rules.filesystem, fd, located, sync=rules.sync)


def put_file(site: Site, rules: Rules, path: str, data: bytes) -> None:
    """Write a small file of our own below a site. Raises: PgbackupError."""
    file = new_file(site, rules, path)
    try:
        file.write(data)
        file.close()
    finally:
        file.abort()


def write_settings(site: Site, rules: Rules, plan: RestorePlan) -> None:
    """Write what makes the server go on with recovery, if it is to. Raises: PgbackupError."""
    signal = plan.recovery.signal
    if signal is None:
        return
    lines = configuration_lines(plan.recovery.settings(plan.major))
    located = f"{site.name}/{AUTO_CONF}"
    with target_errors("write file", located):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(AUTO_CONF, flags, rules.file_mode, dir_fd=site.root)
    file = NewFile(rules.filesystem, fd, located, sync=rules.sync)
    try:
        file.write(lines.encode("utf-8", "surrogateescape"))
        file.close()
    finally:
        file.abort()
    put_file(site, rules, signal, b"")
