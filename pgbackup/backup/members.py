"""Which members the archives of a base backup may have, and whether their content is right.

A backup consists of ordinary files and directories, and of one symbolic link for each tablespace.
Of a tablespace that was created while it was taken only the link is there; recovery makes that one.
Names from an archive are hostile input: whatever could lead out of the directory being restored,
or write one file twice, is told here, from the index alone, before anything is read or written.

Never touches a file.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from crc32c import crc32c

from pgbackup.pg import tar
from pgbackup.pg.manifest import ManifestFile, crc32c_bytes
from pgbackup.repo.catalog import ArchiveRecord, BackupRecord, TablespaceRecord
from pgbackup.stream.index import IndexEntry

BACKUP_LABEL = "backup_label"
TABLESPACE_MAP = "tablespace_map"
CONTROL_FILE = "global/pg_control"
TABLESPACES = "pg_tblspc"

MAX_PATH = 1024  # bytes
MAX_DEPTH = 32

_TABLESPACE_LINK = re.compile(rf"{TABLESPACES}/[1-9][0-9]{{0,9}}", re.ASCII)
_VERSION_DIRECTORY = re.compile(r"PG_[0-9.]+_[0-9]+", re.ASCII)


def tablespace_path(oid: int) -> str:
    """Where the data directory keeps a tablespace, or the link to it."""
    return f"{TABLESPACES}/{oid}"


def is_version_directory(name: str) -> bool:
    """Tell whether this is what a server calls its directory within a tablespace.

    Source: relpath.h, TABLESPACE_VERSION_DIRECTORY (PostgreSQL 18)
    """
    return _VERSION_DIRECTORY.fullmatch(name) is not None


def plain_name(name: str) -> str:
    """A member's name without the "./" that servers put before directories they make up.

    Source: basebackup.c, sendDir, for pg_wal/archive_status (PostgreSQL 18)
    """
    return name.removeprefix("./")


def data_path(tablespace: int | None, name: str) -> str:
    """Where a member belongs, relative to the data directory."""
    name = plain_name(name)
    return name if tablespace is None else f"{tablespace_path(tablespace)}/{name}"


def is_in_place(tablespace: TablespaceRecord) -> bool:
    """Tell whether a tablespace is a plain directory within the data directory.

    Source: tablespace.c, allow_in_place_tablespaces (PostgreSQL 15)
    """
    return tablespace.location == tablespace_path(tablespace.oid)


def member_problems(
    archives: Iterable[tuple[ArchiveRecord, Sequence[IndexEntry]]],
    record: BackupRecord,
    files: Mapping[str, ManifestFile],
) -> Iterator[str]:
    """Yield a sentence for each thing that keeps these members from being the backup.

    files: of the manifest.
    """
    rules = _Rules(record, files)
    expected = [None, *(tablespace.oid for tablespace in record.tablespaces)]
    found: list[int | None] = []
    for archive, entries in archives:
        found.append(archive.tablespace)
        if archive.tablespace not in expected:
            continue
        for entry in entries:
            reason = rules.add(archive.tablespace, entry)
            if reason is not None:
                yield (
                    f'could not use member "{printable(entry.name)}" of archive'
                    f' "{archive.name}": {reason}'
                )
    if sorted(found, key=str) != sorted(expected, key=str):
        yield "could not use the record: its archives are not those of its tablespaces"
    for path in (BACKUP_LABEL, CONTROL_FILE) if record.has_label else (CONTROL_FILE,):
        if path not in files:
            yield f'could not use the manifest: it has no file "{path}"'
    if not record.has_label and BACKUP_LABEL in files:
        yield f'could not use the record: it knows of no file "{BACKUP_LABEL}"'
    for path in files:
        if path not in rules.seen:
            yield f'could not find file "{printable(path)}" of the manifest: no archive has it'


def printable(name: str) -> str:
    """A name for messages: no byte of it can move a cursor or end a line."""
    return name.encode("unicode_escape", "surrogateescape").decode("ascii", "replace")


class _Rules:
    """What was seen so far, and what may follow."""

    def __init__(self, record: BackupRecord, files: Mapping[str, ManifestFile]) -> None:
        self._files = files
        self._links = {
            tablespace_path(tablespace.oid)
            for tablespace in record.tablespaces
            if not is_in_place(tablespace)
        }
        self._places = {tablespace_path(tablespace.oid) for tablespace in record.tablespaces}
        # Each archive counts only its own: one must not put files where another one's link leads.
        self._directories: dict[int | None, set[str]] = {None: {""}}
        for each in record.tablespaces:
            self._directories[each.oid] = {tablespace_path(each.oid)}
        self.seen: set[str] = set()

    def add(self, tablespace: int | None, entry: IndexEntry) -> str | None:
        """Take a member; return what is wrong with it."""
        path = data_path(tablespace, entry.name)
        reason = unsafe_path(plain_name(entry.name)) or self._misplaced(tablespace, entry, path)
        self.seen.add(path)
        if reason is not None:
            return reason
        match entry.type:
            case tar.FILE:
                return self._wrong_file(path, entry.size)
            case tar.DIRECTORY:
                self._directories[tablespace].add(path)
            case tar.SYMLINK:
                if tablespace is not None or not (path in self._links or self._is_newer(path)):
                    return "a symbolic link may only stand for a tablespace"
            case _:
                return f'type "{printable(entry.type)}" is not allowed'
        return "only a file may have content" if entry.size else None

    def _misplaced(self, tablespace: int | None, entry: IndexEntry, path: str) -> str | None:
        if path in self.seen:
            return "the name is there twice"
        top = plain_name(entry.name).partition("/")[0]
        if tablespace is not None and not is_version_directory(top):
            return "a tablespace has only a directory named for the version"
        if path in self._links and entry.type != tar.SYMLINK:
            return "a tablespace of the backup is linked from there"
        parent = path.rpartition("/")[0]
        if parent not in self._directories[tablespace]:
            return "the directory that it is in is not there"
        return None

    def _is_newer(self, path: str) -> bool:
        """Tell whether a link can be of a tablespace that was created during the backup."""
        return _TABLESPACE_LINK.fullmatch(path) is not None and path not in self._places

    def _wrong_file(self, path: str, size: int) -> str | None:
        file = self._files.get(path)
        if file is None:
            return "it is not in the manifest"
        if file.size != size:
            return f"it has {size} bytes, in the manifest {file.size}"
        return None


def unsafe_path(name: str) -> str | None:
    """Why a name may not be created below a directory, or None."""
    raw = name.encode("utf-8", "surrogateescape")
    parts = raw.split(b"/")
    if len(raw) > MAX_PATH or len(parts) > MAX_DEPTH:
        return "the name is too long"
    if b"\0" in raw or any(part in (b"", b".", b"..") for part in parts):
        return "the name could lead out of the directory"
    return None


class ContentHash(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        return crc32c_bytes(self._value)


class _NoHash:
    def update(self, data: memoryview, /) -> None:
        pass

    def digest(self) -> bytes:
        return b""


def content_hash(algorithm: str) -> ContentHash:
    """What makes the checksum of a manifest from the content of one file."""
    match algorithm:
        case "CRC32C":
            return _Crc32c()
        case "NONE":
            return _NoHash()
        case _:
            return hashlib.new(algorithm.lower(), usedforsecurity=False)


class ContentCheck:
    """Compares the content of one file with the manifest."""

    def __init__(self, file: ManifestFile) -> None:
        self._expected = file.checksum
        self._hash = content_hash(file.algorithm)
        self.update = self._hash.update

    def is_right(self) -> bool:
        """Tell whether what was seen is what the manifest says; its size is checked elsewhere."""
        return self._hash.digest() == self._expected
