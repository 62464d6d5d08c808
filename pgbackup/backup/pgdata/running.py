"""Whether a server works in a data directory, or has left something running there. Reads only."""

import os
import stat
from contextlib import suppress
from pathlib import Path

LOCK_FILE = "postmaster.pid"

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_LOCK_FILE = 8192  # bytes
_KEY_LINE = 6  # of postmaster.pid, from 0: pidfile.h, LOCK_FILE_LINE_SHMEM_KEY


def running_server(fd: int) -> str | None:
    """Why a data directory counts as in use, or None.

    fd: of the directory.

    Raises: OSError.
    Source: miscinit.c, CreateLockFile (PostgreSQL 18)
    """
    lines = read_regular(fd, LOCK_FILE, _MAX_LOCK_FILE).decode("latin-1").splitlines()
    pid = lines[0].strip().lstrip("-") if lines else ""
    if pid.isdecimal() and int(pid) > 0 and _is_server(int(pid), fd):
        return f"a server with process id {pid} is running there"
    if len(lines) > _KEY_LINE and _is_attached(lines[_KEY_LINE].split()):
        return "processes of a server that was killed are still running there"
    return None


def read_regular(folder: int, name: str, size: int) -> bytes:
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
