"""Answers BASE_BACKUP from a stored backup: its archives into a sink, and its manifest.

What is stored goes out as it is, but for two things that a client decides about: the WAL of the
backup at the end of the last archive, and whether tablespaces are in a `tablespace_map` or are
links. A backup that is stored with the one is served with the other by leaving out one member.

Never writes, and decodes nothing that can be sent as it is stored.

Source: basebackup.c, perform_base_backup (PostgreSQL 18)
"""

import hashlib
from collections.abc import Iterator

from pgbackup.backup.members import TABLESPACE_MAP
from pgbackup.backup.stored import FrameReader, StoredArchive, StoredBackup
from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import WalPosition
from pgbackup.pg.manifest import Manifest
from pgbackup.pg.tar import BLOCK_SIZE, END_OF_ARCHIVE, SYMLINK, TarHeader, padding
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.serve.basebackup.storedpieces import Pieces, PlainPieces, StoredPieces
from pgbackup.serve.basebackup.storedwal import Further, StoredBackupWal
from pgbackup.stream.index import IndexEntry
from pgbackup.stream.sink import BackupState, Sink, Tablespace
from pgbackup.wire.basebackup import BaseBackup

_MAP_LINE = b'{ "Path": "tablespace_map",'


class StoredBackupSource:
    """One answer.

    as_stored: send the stored zstd frames; all archives have to be compressed.
    further:   WAL that goes on behind the backup, for a client that wants a later moment.
    """

    def __init__(
        self,
        backup: StoredBackup,
        archive: WalArchive,
        command: BaseBackup,
        *,
        as_stored: bool,
        further: Further | None = None,
    ) -> None:
        self._backup = backup
        self._command = command
        self._as_stored = as_stored
        self._wal = StoredBackupWal(backup, archive, further) if command.wal else None
        self._further = further
        self._archives = sorted(backup.archives, key=_is_main)

    def run(self, sink: Sink) -> WalPosition:
        """Send everything, and return where the needed WAL ends; the caller cleans the sink up.

        Raises: PgbackupError, what the sink raises.
        """
        record = self._backup.record
        if self._wal is not None:
            self._wal.check()
        manifest = self._manifest()
        state = self._state()
        sink.begin_backup(state)
        for archive in self._archives:
            suffix = layout.COMPRESSED_SUFFIX if self._as_stored else ""
            sink.begin_archive(_tablespace(archive, {}, None).archive_name + suffix)
            self._send(archive, sink, state)
            sink.end_archive()
        if manifest is not None:
            sink.begin_manifest()
            _send_manifest(sink, manifest)
            sink.end_manifest()
        stop = WalPosition(record.stop_timeline, record.stop_lsn)
        if self._further is not None:  # clients stream WAL up to the position that they are told
            stop = self._further.end
        sink.end_backup(stop)
        return stop

    def _state(self) -> BackupState:
        record = self._backup.record
        locations = {each.oid: each.location for each in record.tablespaces}
        tablespaces = tuple(
            _tablespace(each, locations, each.record.size if self._command.progress else None)
            for each in self._archives
        )
        start = WalPosition(record.timeline, record.start_lsn)
        return BackupState(start, tablespaces, record.size if self._command.progress else None)

    @property
    def _needs_links(self) -> bool:
        """Whether the stored tablespace_map has to make room for links."""
        return bool(self._backup.record.tablespaces) and not self._command.tablespace_map

    @property
    def _may_change(self) -> bool:
        """Whether the main archive may have to be another one than the stored."""
        return self._wal is not None or self._needs_links

    def _send(self, archive: StoredArchive, sink: Sink, state: BackupState) -> None:
        stored = StoredPieces(sink, archive)
        pieces: Pieces = stored if self._as_stored else PlainPieces(sink, archive)
        sender = _RangeSender(archive, pieces, state)
        entries = self._backup.index(archive) if _is_main(archive) and self._may_change else []
        map_entry = _find_map(entries) if self._needs_links else None
        if not entries or (map_entry is None and self._wal is None):
            sender.send(0, archive.record.size)
            pieces.end()
            if self._as_stored:
                stored.put_stored(archive.seek_table())
            return
        start = 0
        if map_entry is not None:
            sender.header(map_entry)  # or something else would be left out
            sender.send(0, map_entry.offset)
            start = _end_of(map_entry)
        sender.send(start, _end_of(entries[-1]))
        for data in self._added(sender.header(entries[0]), has_links=map_entry is None):
            pieces.put(memoryview(data))
            state.bytes_done += len(data)
        pieces.put(memoryview(END_OF_ARCHIVE))
        state.bytes_done += len(END_OF_ARCHIVE)
        pieces.end()

    def _added(self, like: TarHeader, *, has_links: bool) -> Iterator[bytes]:
        """What comes behind the stored members of the last archive."""
        if not has_links:
            for each in self._backup.record.tablespaces:
                if each.location.startswith("/"):
                    name = f"pg_tblspc/{each.oid}"
                    link = like._replace(name=name, size=0, mode=0o777, type=SYMLINK)
                    yield link._replace(linkname=each.location).encode()
        if self._wal is not None:
            yield from self._wal.members(like)

    def _manifest(self) -> bytes | None:
        """The stored one, byte for byte; but for the line of a file that is left out."""
        if self._command.manifest_checksums is None:
            return None
        manifest = self._backup.read(layout.MANIFEST)
        if not self._needs_links or _MAP_LINE not in manifest:
            return manifest
        lines = manifest.splitlines(keepends=True)
        kept = b"".join(line for line in lines[:-1] if not line.startswith(_MAP_LINE))
        checksum = hashlib.sha256(kept).hexdigest()
        changed = kept + f'"Manifest-Checksum": "{checksum}"}}\n'.encode()
        Manifest.parse(changed)
        return changed


class _RangeSender:
    """Sends ranges of one stored archive, whole frames as they are."""

    def __init__(self, archive: StoredArchive, pieces: Pieces, state: BackupState) -> None:
        self._archive = archive
        self._pieces = pieces
        self._state = state
        self._reader = FrameReader(archive)

    def send(self, start: int, end: int) -> None:
        """Send bytes [start, end) of the plain archive."""
        for frame in self._archive.frames_between(start, end) if start < end else ():
            first, last = max(start - frame.offset, 0), min(end - frame.offset, frame.size)
            if last - first == frame.size:
                self._pieces.put_frame(frame)
            else:
                self._pieces.put(self._reader.read(frame)[first:last])
            self._state.bytes_done += last - first

    def header(self, entry: IndexEntry) -> TarHeader:
        """The header of a member. Raises: CorruptData if it is not that of the index."""
        data = b""
        for frame in self._archive.frames_between(entry.offset, entry.offset + BLOCK_SIZE):
            start = max(entry.offset - frame.offset, 0)
            data += self._reader.read(frame)[start : start + BLOCK_SIZE - len(data)]
        header = TarHeader.parse(data)
        if header is None or header.name != entry.name:
            raise CorruptData(
                f'could not use the index of archive "{self._archive.located}":'
                f' there is no member "{entry.name}" at byte {entry.offset}'
            )
        return header


def _is_main(archive: StoredArchive) -> bool:
    return archive.record.tablespace is None


def _tablespace(archive: StoredArchive, locations: dict[int, str], size: int | None) -> Tablespace:
    oid = archive.record.tablespace
    return Tablespace(oid, "" if oid is None else locations.get(oid, ""), size)


def _find_map(entries: list[IndexEntry]) -> IndexEntry | None:
    return next((entry for entry in entries if entry.name == TABLESPACE_MAP), None)


def _end_of(entry: IndexEntry) -> int:
    return entry.offset + BLOCK_SIZE + entry.size + padding(entry.size)


def _send_manifest(sink: Sink, manifest: bytes) -> None:
    rest = memoryview(manifest)
    while rest:
        buffer = sink.buffer
        length = min(len(buffer), len(rest))
        buffer[:length] = rest[:length]
        sink.manifest_contents(length)
        rest = rest[length:]
