"""A data directory that is there already: whether a restore may take it over, and how it is marked.

It must be of the cluster that is restored, belong to whoever restores, and have no server. Taking
it over renames pg_control, durably: from then on no server starts there until the restore is done.

Reads and renames; never changes or removes content.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from pgbackup.errors import CorruptData, Refused, WrongSystem
from pgbackup.pg.control import FILE_SIZE, ControlFile
from pgbackup.restore.tree import Tree
from pgbackup.storage.durable import FileSystem

GLOBAL = "global"
CONTROL = "pg_control"
UNFINISHED_CONTROL = "pg_control.pgbackup"
"""What pg_control is called until the restore is complete. No server starts without pg_control."""

LOCK_FILE = "postmaster.pid"

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_LOCK_FILE = 8192  # bytes
_KEY_LINE = 6  # of postmaster.pid, from 0: pidfile.h, LOCK_FILE_LINE_SHMEM_KEY


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
    """Look for a server, or for what a killed one left running.

    Raises: Refused.
    Source: miscinit.c, CreateLockFile (PostgreSQL 18)
    """
    lines = _read(fd, LOCK_FILE, _MAX_LOCK_FILE).decode("latin-1").splitlines()
    pid = lines[0].strip().lstrip("-") if lines else ""
    if pid.isdecimal() and int(pid) > 0 and _is_server(int(pid), fd):
        raise _running(path, f"a server with process id {pid} is running there")
    if len(lines) > _KEY_LINE and _is_attached(lines[_KEY_LINE].split()):
        raise _running(path, "processes of a server that was killed are still running there")


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
            data = _read(tree.directory(GLOBAL), CONTROL, FILE_SIZE)
        return ControlFile.parse(data).system_identifier
    except (FileNotFoundError, NotADirectoryError, CorruptData) as error:
        raise Refused(
            f'could not restore into directory "{path}": it is not empty, and'
            f' "{GLOBAL}/{CONTROL}" does not show that it is of the same cluster',
            hint="Name a new or an empty directory.",
        ) from error


def _read(folder: int, name: str, size: int) -> bytes:
    """The beginning of a regular file; nothing if there is none. Raises: OSError."""
    try:
        fd = os.open(name, _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        return file.read(size) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _is_server(pid: int, fd: int) -> bool:
    """Tell whether a process can be the server of a data directory, in which it then works."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError, OverflowError):
        return False  # one of another user could not work with this directory
    with suppress(OSError):
        works_in = Path(f"/proc/{pid}/cwd").stat()
        return os.path.samestat(works_in, os.fstat(fd))
    return True


def _is_attached(key: list[str]) -> bool:
    """Tell whether processes use the shared memory that is named by key and id.

    Source: sysv_shmem.c, PGSharedMemoryIsInUse (PostgreSQL 18)
    """
    if len(key) != 2 or not all(each.isdecimal() for each in key):
        return False
    with suppress(OSError):
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            fields = [int(each) for each in line.split()[:7]]
            # The server writes the key as unsigned and longer.
            is_same = (fields[0] - int(key[0])) % 2**32 == 0 and fields[1] == int(key[1])
            if is_same and fields[6] > 0:
                return True
    return False


def _running(path: str, reason: str) -> Refused:
    return Refused(
        f'could not restore into directory "{path}": {reason}',
        hint=f'Stop it first, for example with "pg_ctl -D {path} stop".',
    )
