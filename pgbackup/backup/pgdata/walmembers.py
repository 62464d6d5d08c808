"""The WAL of a backup as members of its last archive, read off pg_wal once the backup has stopped.

For a backup that goes to standard output, where nothing else can bring the WAL.

Source: basebackup.c, perform_base_backup (PostgreSQL 18)
"""

import os
from pathlib import Path
from typing import Final

from pgbackup.backup.pgdata.archivemembers import ArchiveMembers
from pgbackup.backup.pgdata.datadir import DataDirectory, source_errors
from pgbackup.errors import WalGap
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Segment, WalFileKind, WalFileName, WalPosition
from pgbackup.pg.manifest import WalRange
from pgbackup.stream.packer import Packer

PG_WAL: Final = "pg_wal"

_CHUNK: Final = 128 * 1024  # bytes


def wal_ranges(data: DataDirectory, start: WalPosition, stop: WalPosition) -> list[WalRange]:
    """The WAL that recovery needs, newest timeline first. Raises: PgbackupError.

    Source: backup_manifest.c, AddWALInfoToBackupManifest (PostgreSQL 18)
    """
    if start.timeline == stop.timeline:
        return [WalRange(start.timeline, start.lsn, stop.lsn)]
    path = f"{data.path}/{PG_WAL}/{stop.timeline.history_name}"
    with source_errors("read file", path), open(path, "rb") as file:
        history = TimelineHistory.parse(stop.timeline, file.read())
    return [WalRange(*span) for span in reversed(history.path(start, stop))]


def send_wal(
    data: DataDirectory,
    members: ArchiveMembers,
    packer: Packer,
    start: WalPosition,
    stop: WalPosition,
) -> None:
    """Put the segments from start to stop, and every history file.

    Raises: WalGap, PgbackupError.
    """
    folder = f"{data.path}/{PG_WAL}"
    with source_errors("read directory", folder):
        names = sorted(path.name for path in Path(folder).iterdir())
    for name in _needed(data, names, start, stop):
        _send_segment(f"{folder}/{name}", name, members, packer, data.control.wal_segment_size)
        _mark(members, packer, name)
    for name in names:
        if WalFileName.parse(name).kind is WalFileKind.HISTORY:
            with source_errors("read file", f"{folder}/{name}"):
                content = Path(folder, name).read_bytes()
            members.put_content(packer, f"{PG_WAL}/{name}", content)
            _mark(members, packer, name)


def _needed(
    data: DataDirectory, names: list[str], start: WalPosition, stop: WalPosition
) -> list[str]:
    """Segments of any timeline from start to stop; in the order of their numbers."""
    size = data.control.wal_segment_size
    first = Segment.containing(start.timeline, start.lsn, size).number
    last = Segment.ending_at(stop.timeline, stop.lsn, size).number
    found: dict[int, list[str]] = {}
    for name in names:
        parsed = WalFileName.parse(name)
        if parsed.kind is WalFileKind.SEGMENT:
            found.setdefault(parsed.segment(size).number, []).append(name)
    for number in range(first, last + 1):
        if number not in found:
            raise _removed(Segment(stop.timeline, number, size).name)
    return [name for number in range(first, last + 1) for name in found[number]]


def _send_segment(path: str, name: str, members: ArchiveMembers, packer: Packer, size: int) -> None:
    header = members.made_up(f"{PG_WAL}/{name}", size)
    packer.put(header.encode())
    left = size
    with source_errors("read file", path), open(path, "rb", buffering=0) as file:
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise WalGap(f'could not finish the backup: WAL segment "{name}" is too short')
            packer.put(data)
            left -= len(data)
        # A checkpoint may give the file to a later segment, and WAL be written over what we read.
        if not _is_named(file.fileno(), path):
            raise _removed(name)


def _is_named(fd: int, path: str) -> bool:
    """Tell whether a file still has its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _removed(name: str) -> WalGap:
    return WalGap(
        f'could not finish the backup: the server has removed WAL segment "{name}"',
        hint="Raise wal_keep_size, or back up into a repository: pgbackup backup -B REPO",
    )


def _mark(members: ArchiveMembers, packer: Packer, name: str) -> None:
    """Say that a file is archived, so that a server that starts from the backup does not do it."""
    members.put_content(packer, f"{PG_WAL}/archive_status/{name}.done", b"")
