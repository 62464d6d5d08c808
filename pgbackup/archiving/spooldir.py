"""The directory in which the hooks of one server remember things from call to call.

What lies there only saves time: it may be removed at any moment, and no answer depends on it
alone. Nothing is taken from a directory that others can write to.
"""

# ruff: noqa: PTH102, PTH106, PTH108, PTH208 - pathlib is slow to load

import os
import stat
import time

NAME = "pgbackup.spool"
_STALE = 3600  # seconds without a change


def spool_directory(path: str, chosen: str | None) -> str | None:
    """Where the spool of a server is; None if it has none.

    path:   as the server gave it; what lies in pg_wal has its spool there.
    chosen: the user's own place; "" is none.
    """
    if chosen is not None:
        return chosen or None
    folder, _, _ = path.rpartition("/")
    return f"{folder}/{NAME}" if folder.rpartition("/")[2] == "pg_wal" else None


def is_safe(directory: str) -> bool:
    """Tell whether a directory is there, ours, and nobody else's."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    )


def make_safe(directory: str) -> bool:
    """Make the directory if there is none; tell whether it can be used."""
    try:  # noqa: SIM105 - contextlib is slow to load
        os.mkdir(directory, 0o700)
    except OSError:
        pass
    return is_safe(directory)


def remove_stale(directory: str) -> None:
    """Remove segments that were fetched for a recovery that has ended since, as far as possible."""
    try:
        for entry in os.listdir(directory):
            folder = f"{directory}/{entry}"
            found = os.lstat(folder)
            if stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _STALE:
                for name in os.listdir(folder):
                    os.unlink(f"{folder}/{name}")
                os.rmdir(folder)
    except OSError:
        pass


def try_to_remove(path: str) -> None:
    """Remove a file that is in nobody's way if it stays."""
    try:  # noqa: SIM105 - a block of its own
        os.unlink(path)
    except OSError:
        pass
