"""The members of a base backup's archives, read off a data directory in the server's order.

Walks depth first, each directory in the order in which the file system lists it, while a server
may be changing all of it: what has gone between two looks is passed over. Reads no file; sizes are
those of the moment, and whoever reads a file decides how many bytes it has.

Source: basebackup.c, sendTablespace and sendDir (PostgreSQL 13 to 18).
"""

# ruff: noqa: PTH116 - paths are bytes

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from pgbackup.backup.pgdata.datadir import DataDirectory, link_target, source_error, text
from pgbackup.pg.exclude import (
    CONTROL_FILE,
    EMPTY_DIRECTORIES,
    GLOBAL_DIRECTORY,
    IN_PLACE_SINCE,
    TABLESPACE_DIRECTORY,
    UNLOGGED_GLOBAL_SINCE,
    WAL_DIRECTORY,
    RelationFile,
    is_database_directory,
    is_excluded,
    is_temporary_relation,
    wal_subdirectories,
)
from pgbackup.pg.tar import DIRECTORY, FILE, SYMLINK, TarHeader
from pgbackup.stream.sink import Tablespace


class Entry(NamedTuple):
    """One member.

    header: as it goes into the archive; the size of a file is that of the moment of the walk.
    path:   where to read it.
    pages:  what the file's name says, if it is of a relation and so made of pages, which have
            checksums if the cluster has them; None for other files.
    """

    header: TarHeader
    path: bytes
    pages: RelationFile | None = None


class Walk:
    """Goes through what belongs to each archive, except for backup_label, tablespace_map and
    global/pg_control, which are no matter of order in a directory.

    tablespaces:   what the data directory had at the start.
    has_map:       tablespaces are told by a tablespace_map, and not by symbolic links.
    with_unlogged: unlogged relations are stored with their contents. They must be if the copy
                   can be started without recovery, which makes them anew.
    warnings:      what was met and cannot be stored, in the server's words.
    """

    def __init__(
        self,
        data: DataDirectory,
        tablespaces: Sequence[Tablespace],
        *,
        has_map: bool,
        with_unlogged: bool = False,
    ) -> None:
        self.warnings: list[str] = []
        self._data = data
        self._has_map = has_map
        self._with_unlogged = with_unlogged
        self._top = os.fsencode(data.path)
        self._places = frozenset(self._identities(tablespaces))

    def entries(self, tablespace: Tablespace) -> Iterator[Entry]:
        """The members of one archive. Raises: PgbackupError."""
        if tablespace.oid is None:
            yield from self._directory(self._top, "")
            return
        name = self._data.version_directory
        path = b"%s/%s" % (self._place(tablespace.oid), name.encode())
        status = _status(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            yield Entry(_header(name, status, DIRECTORY), path)
            yield from self._directory(path, name)

    def _directory(self, path: bytes, name: str) -> Iterator[Entry]:
        """What a directory holds. name: of the directory in the archive, "" for the top."""
        major = self._data.major
        is_database = is_database_directory(name, self._data.version_directory)
        is_global = name == GLOBAL_DIRECTORY
        may_be_unlogged = not self._with_unlogged and (
            is_database or (is_global and major >= UNLOGGED_GLOBAL_SINCE)
        )
        prefix = name + "/" if name else ""
        for each in _listing(path):
            own = text(each.name)
            if is_excluded(own, major) or (is_database and is_temporary_relation(own)):
                continue
            relation = RelationFile.parse(own) if is_database or is_global else None
            if may_be_unlogged and _is_unlogged(path, relation):
                continue
            yield from self._member(each.path, prefix + own, relation)

    def _member(self, path: bytes, name: str, relation: RelationFile | None) -> Iterator[Entry]:
        status = None if name == CONTROL_FILE else _status(path)
        if status is None:
            return
        kind = stat.S_IFMT(status.st_mode)
        if kind in (stat.S_IFDIR, stat.S_IFLNK) and _is_emptied(name):
            yield from self._emptied(path, name, status)
        elif kind == stat.S_IFDIR:
            yield Entry(_header(name, status, DIRECTORY), path)
            if not self._is_told_elsewhere(name, status):
                yield from self._directory(path, name)
        elif self._has_map and _folder(name) == TABLESPACE_DIRECTORY:
            return
        elif kind == stat.S_IFREG:
            yield Entry(_header(name, status, FILE), path, relation)
        elif kind == stat.S_IFLNK and _folder(name) == TABLESPACE_DIRECTORY:
            yield from _link(path, name, status)
        else:
            self.warnings.append(f'WARNING: skipping special file "./{name}"')

    def _emptied(self, path: bytes, name: str, status: os.stat_result) -> Iterator[Entry]:
        """A directory without its contents; a link to one is stored as if it were one."""
        header = _header(name, status, DIRECTORY)
        if stat.S_ISLNK(status.st_mode):
            header = header._replace(mode=self._data.directory_mode)
        yield Entry(header, path)
        if name == WAL_DIRECTORY:
            for below in wal_subdirectories(self._data.major):
                yield Entry(header._replace(name=f"./{name}/{below}"), path)

    def _is_told_elsewhere(self, name: str, status: os.stat_result) -> bool:
        """Whether the contents of a directory are in other archives.

        Before 16, directories in pg_tblspc have no archive of their own. Servers then lose them
        from a backup with a map; here they stay.
        """
        if name == TABLESPACE_DIRECTORY:
            return self._has_map and self._data.major >= IN_PLACE_SINCE
        return (status.st_dev, status.st_ino) in self._places

    def _identities(self, tablespaces: Sequence[Tablespace]) -> Iterator[tuple[int, int]]:
        for tablespace in tablespaces:
            if tablespace.oid is not None:
                with suppress(OSError):
                    status = os.stat(self._place(tablespace.oid))
                    yield status.st_dev, status.st_ino

    def _place(self, oid: int) -> bytes:
        return b"%s/%s/%d" % (self._top, TABLESPACE_DIRECTORY.encode(), oid)


def _listing(path: bytes) -> "Iterator[os.DirEntry[bytes]]":
    """The entries of a directory; none if it has gone."""
    try:
        with os.scandir(path) as listing:
            yield from listing
    except FileNotFoundError:
        return
    except OSError as error:
        raise source_error("read directory", text(path), error) from error


def _status(path: bytes) -> os.stat_result | None:
    """What a path is, without following a link; None if it has gone."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise source_error("look at file", text(path), error) from error


def _link(path: bytes, name: str, status: os.stat_result) -> Iterator[Entry]:
    try:
        target = link_target(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise source_error("read symbolic link", text(path), error) from error
    yield Entry(_header(name, status, SYMLINK, target), path)


def _header(name: str, status: os.stat_result, kind: str, target: str = "") -> TarHeader:
    return TarHeader(
        name,
        status.st_size if kind == FILE else 0,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns // 1_000_000_000,
        kind,
        target,
    )


def _is_emptied(name: str) -> bool:
    return name == WAL_DIRECTORY or name.rpartition("/")[2] in EMPTY_DIRECTORIES


def _is_unlogged(folder: bytes, relation: RelationFile | None) -> bool:
    """Whether recovery would make a file anew from the relation's init fork."""
    if relation is None or relation.init_name is None:
        return False
    return os.path.lexists(b"%s/%s" % (folder, relation.init_name.encode()))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
