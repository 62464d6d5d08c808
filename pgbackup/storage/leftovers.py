"""Hidden files of a storage on a file system: temporary names and lock files, and who owns them.

Both carry a flock while their process lives, which the kernel takes back whatever way it ends.
A temporary name also says host and process: flock does not reach across every network file system.
"""

import fcntl
import os
import re
import time

TYPE_CHECKING = False  # that of typing, which is slow to load
if TYPE_CHECKING:
    from pgbackup.storage.durable import FileSystem

# Another host's temporary file may belong to a writer that we cannot see. No object takes a day.
FOREIGN_AGE = 24 * 3600  # seconds

_TEMPORARY = r"\.(?P<final>.+)\.tmp-(?P<host>[A-Za-z0-9._]+)-(?P<pid>[0-9]{1,9})-[0-9a-f]+"
_LOCK = r"\.(?P<final>.+)\.lock"


def host_name() -> str:
    """The name of this host, in letters that a temporary name can hold."""
    return re.sub(r"[^A-Za-z0-9._]", "_", os.uname().nodename)[:48] or "localhost"


def temporary_name(final: str) -> str:
    """A new name for an object that is being written next to where it will be visible."""
    return f".{final}.tmp-{host_name()}-{os.getpid()}-{os.urandom(6).hex()}"


def lock_file_name(final: str) -> str:
    """The name of the file whose flock is the lock."""
    return f".{final}.lock"


def try_flock(fd: int, *, attempts: int = 1, operation: int = fcntl.LOCK_EX) -> bool:
    """Take the flock of an open file; False if somebody else has it.

    attempts:  more than one passes over those who hold it for a moment to see whether it is held.
    operation: LOCK_EX or LOCK_SH.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.02)
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def is_hidden(name: str) -> bool:
    """Tell whether a file can be a temporary name or a lock file; no object is."""
    return name.startswith(".")


def pending_name(name: str) -> str | None:
    """The name that a file will get when it is complete; None if it is no temporary one."""
    match = re.fullmatch(_TEMPORARY, name)
    return None if match is None else match["final"]


def is_leftover(name: str, folder: int) -> bool:
    """Tell whether a file is a temporary name or a lock file whose owner is dead.

    folder: descriptor of its directory.

    Raises: OSError.
    """
    fd = _take(name, folder)
    if fd is not None:
        os.close(fd)
    return fd is not None


def remove_leftover(filesystem: "FileSystem", name: str, folder: int) -> bool:
    """Remove a file if it is a leftover; tell whether it was one. Raises: as is_leftover."""
    fd = _take(name, folder)
    if fd is None:
        return False
    try:
        filesystem.unlink(name, dir_fd=folder)
    finally:
        os.close(fd)
    return True


def _take(name: str, folder: int) -> int | None:
    """Open a leftover with its flock, or somebody could take it over before it is removed."""
    match = re.fullmatch(_TEMPORARY, name)
    if match is None:
        if re.fullmatch(_LOCK, name) is None:
            return None
    elif match["host"] == host_name():
        if _is_alive(int(match["pid"])):
            return None
    elif time.time() - _status(name, folder).st_mtime <= FOREIGN_AGE:
        return None
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    is_ours = False
    try:
        # The file that was opened may have given its place to another, which is held.
        is_ours = try_flock(fd) and os.path.samestat(os.fstat(fd), _status(name, folder))
        return fd if is_ours else None
    finally:
        if not is_ours:
            os.close(fd)


def _status(name: str, folder: int) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
