"""A data directory that is there already: whether a restore may take it over, and how it is marked.

It must be of the cluster that is restored, belong to whoever restores, and have no server. Taking
it over renames pg_control, durably: from then on no server starts there until the restore is done.

Reads and renames; never changes or removes content.
"""

import os

from pgbackup.backup.pgdata.running import read_regular, running_server
from pgbackup.errors import CorruptData, Refused, WrongSystem
from pgbackup.pg.control import FILE_SIZE, ControlFile
from pgbackup.restore.tree import Tree
from pgbackup.storage.durable import FileSystem

GLOBAL = "global"
CONTROL = "pg_control"
UNFINISHED_CONTROL = "pg_control.pgbackup"
"""What pg_control is called until the restore is complete. No server starts without pg_control."""


def check_data_directory(fd: int, path: str, system_identifier: int) -> None:
    """Raises: Refused, WrongSystem unless a restore of this cluster may take this one over."""
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        raise Refused(
            f'could not restore into directory "{path}": it belongs to user {owner}, and files'
            f" would be made for user {os.geteuid()}",
            hint="Run the command as the user that runs the server.",
        )
    found = _system_identifier(fd, path)
    if found != system_identifier:
        raise WrongSystem(
            f'could not restore into directory "{path}": it is of system {found}, the backup of'
            f" {system_identifier}",
            hint="Name another directory with -D, or another cluster with --system.",
        )
    check_no_server(fd, path)


def check_no_server(fd: int, path: str) -> None:
    """Look for a server, or for what a killed one left running. Raises: Refused."""
    reason = running_server(fd)
    if reason is not None:
        raise Refused(
            f'could not restore into directory "{path}": {reason}',
            hint=f'Stop it first, for example with "pg_ctl -D {path} stop".',
        )


def mark(filesystem: FileSystem, fd: int, path: str) -> None:
    """Keep servers from starting. Raises: OSError, Refused if one has been faster."""
    _rename(filesystem, fd, CONTROL, UNFINISHED_CONTROL)
    try:
        # A server makes its lock file before it reads pg_control: one that was too early to be
        # kept from starting can be seen now.
        check_no_server(fd, path)
    except Refused:
        unmark(filesystem, fd)
        raise


def unmark(filesystem: FileSystem, fd: int) -> None:
    """Take the mark back, as long as nothing was changed. Raises: OSError."""
    _rename(filesystem, fd, UNFINISHED_CONTROL, CONTROL)


def _rename(filesystem: FileSystem, fd: int, existing: str, new: str) -> None:
    with Tree(fd) as tree:
        folder = tree.directory(GLOBAL)
        filesystem.rename(existing, new, dir_fd=folder)
        filesystem.fsync_directory(folder)


def _system_identifier(fd: int, path: str) -> int:
    try:
        with Tree(fd) as tree:
            data = read_regular(tree.directory(GLOBAL), CONTROL, FILE_SIZE)
        return ControlFile.parse(data).system_identifier
    except (FileNotFoundError, NotADirectoryError, CorruptData) as error:
        raise Refused(
            f'could not restore into directory "{path}": it is not empty, and'
            f' "{GLOBAL}/{CONTROL}" does not show that it is of the same cluster',
            hint="Name a new or an empty directory.",
        ) from error
