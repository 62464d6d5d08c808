"""Hidden files of a storage on a file system: temporary names and lock files, and who owns them.

Both carry a flock while their process lives, which the kernel takes back whatever way it ends.
A temporary name also says host and process: flock does not reach across every network file system.
"""

import fcntl
import os
import re
import time

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
    match = re.fullmatch(_TEMPORARY, name)
    if match is not None:
        if match["host"] == host_name():
            dead = not _is_alive(int(match["pid"]))
        else:
            age = time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
            dead = age > FOREIGN_AGE
        return dead and _nobody_holds(name, folder)
    return re.fullmatch(_LOCK, name) is not None and _nobody_holds(name, folder)


def _nobody_holds(name: str, folder: int) -> bool:
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        return try_flock(fd)
    finally:
        os.close(fd)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
