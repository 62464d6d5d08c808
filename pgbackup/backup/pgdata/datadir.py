"""The data directory of a server on this host: whose it is, and which tablespaces it has.

Opened once at the start of a backup. Reads, never writes; follows no link but those in pg_tblspc.
"""

# ruff: noqa: PTH100, PTH115, PTH116 - paths are bytes

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self

from pgbackup.backup.controlfile import (
    CONTROL_FILE,
    ControlData,
    read_beginning,
    read_control,
)
from pgbackup.errors import NotFound, PgbackupError, Refused, UsageError
from pgbackup.pg.control import ClusterState, ControlFile
from pgbackup.pg.exclude import (
    IN_PLACE_SINCE,
    TABLESPACE_DIRECTORY,
    version_directory,
)
from pgbackup.stream.sink import Tablespace

VERSION_FILE: Final = "PG_VERSION"
OLDEST_MAJOR: Final = 13
NEWEST_MAJOR: Final = 18

_MAX_OID = 2**32 - 1


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """A data directory as it was opened.

    path:    absolute, without a slash at its end.
    mode:    permission bits of the directory itself.
    control: what pg_control said when it was opened.
    """

    path: str
    major: int
    mode: int
    control: ControlFile

    @classmethod
    def open(cls, path: str) -> Self:
        """Raises: UsageError, NotFound, Refused, CorruptData, PgbackupError."""
        if not path:
            raise UsageError('could not open data directory "": the name is empty')
        path = os.path.abspath(path)
        with source_errors("open data directory", path):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                raise NotFound(
                    f'could not open data directory "{path}": there is no such directory',
                    hint=_HINT,
                ) from None
        with source_errors("read file", f"{path}/{VERSION_FILE}"):
            major = _major(path)
        with source_errors("read file", f"{path}/{CONTROL_FILE}"):
            try:
                control = read_control(path).values
            except (FileNotFoundError, NotADirectoryError):
                raise _no_data_directory(path, CONTROL_FILE) from None
        return cls(path, major, stat.S_IMODE(status.st_mode), control)

    @property
    def version_directory(self) -> str:
        """The directory that each tablespace has for clusters of this version."""
        return version_directory(self.major, self.control.catalog_version)

    @property
    def directory_mode(self) -> int:
        """Permission bits of directories that the server makes. Source: file_perm.c"""
        return 0o750 if self.mode & 0o050 == 0o050 else 0o700

    @property
    def is_shut_down(self) -> bool:
        """Whether the last server here ended in good order, and no other one has begun since."""
        return self.control.state in (
            ClusterState.SHUTDOWNED,
            ClusterState.SHUTDOWNED_IN_RECOVERY,
        )

    def contains(self, path: str) -> bool:
        """Whether a path, which need not exist, is this directory or lies in it."""
        top = os.path.realpath(self.path)
        return os.path.commonpath((top, os.path.realpath(path))) == top

    def read_control(self) -> ControlData:
        """Read pg_control as it is now. Raises: CorruptData, PgbackupError."""
        with source_errors("read file", f"{self.path}/{CONTROL_FILE}"):
            return read_control(self.path)

    def tablespaces(self) -> tuple[Tablespace, ...]:
        """User tablespaces in the server's order, then the data directory.

        A name that is no OID is passed over by all versions: nothing could be called after it.

        Raises: PgbackupError.
        Source: xlog.c, do_pg_backup_start (PostgreSQL 18)
        """
        found = []
        folder = f"{self.path}/{TABLESPACE_DIRECTORY}"
        with source_errors("read directory", folder), os.scandir(os.fsencode(folder)) as listing:
            for each in listing:
                oid = _oid(each.name)
                location = None if oid is None else self._location(each)
                if location is not None:
                    found.append(Tablespace(oid, location, None))
        return (*found, Tablespace(None, "", None))

    def _location(self, entry: "os.DirEntry[bytes]") -> str | None:
        """Where a tablespace is; None for what is none, or has gone meanwhile."""
        with suppress(FileNotFoundError):
            if entry.is_symlink():
                return link_target(entry.path)
            if entry.is_dir() and self.major >= IN_PLACE_SINCE:
                return f"{TABLESPACE_DIRECTORY}/{text(entry.name)}"
        return None


@contextmanager
def source_errors(action: str, path: str) -> Iterator[None]:
    """Word an OSError on something that is to be backed up. Raises: PgbackupError.

    action: verb and kind of thing, as in "read file".
    """
    try:
        yield
    except OSError as error:
        raise source_error(action, path, error) from error


def source_error(action: str, path: str, error: OSError) -> PgbackupError:
    """The error for the user. action: as for source_errors."""
    reason = error.strerror or str(error)
    denied = isinstance(error, PermissionError)
    return PgbackupError(
        f'could not {action} "{path}": {reason[:1].lower()}{reason[1:]}',
        hint="Run pgbackup as the user that runs the server." if denied else None,
    )


def link_target(path: bytes) -> str:
    """Where a link leads; absolute, as servers make them, or nothing could be restored there.

    Raises: OSError.
    """
    target = os.readlink(path)
    return text(target if target.startswith(b"/") else os.path.realpath(path))


def text(name: bytes) -> str:
    """A file name as it is in archives, whatever the locale calls it here."""
    return name.decode("utf-8", "surrogateescape")


_HINT = 'Name the directory that "SHOW data_directory" tells in psql.'


def _major(path: str) -> int:
    try:
        content = read_beginning(f"{path}/{VERSION_FILE}", 16).strip()
    except (FileNotFoundError, NotADirectoryError):
        raise _no_data_directory(path, VERSION_FILE) from None
    if not content.isdigit():
        raise _no_data_directory(path, VERSION_FILE, "is not PostgreSQL's")
    major = int(content)
    if not OLDEST_MAJOR <= major <= NEWEST_MAJOR:
        raise Refused(
            f'could not open data directory "{path}": it is of PostgreSQL {major}; supported are'
            f" {OLDEST_MAJOR} to {NEWEST_MAJOR}"
        )
    return major


def _no_data_directory(path: str, name: str, what: str = "is not there") -> Refused:
    return Refused(
        f'could not open data directory "{path}": it is no data directory, "{name}" {what}',
        hint=_HINT,
    )


def _oid(name: bytes) -> int | None:
    if not name.isdigit() or name.startswith(b"0") or len(name) > len(str(_MAX_OID)):
        return None
    oid = int(name)
    return oid if oid <= _MAX_OID else None
