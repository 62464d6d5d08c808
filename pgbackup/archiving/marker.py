"""Notes of files that were pushed before the server asked for it.

A note says which file was stored (device, inode, size, times) and what it became in the
repository. It is believed only while both are still what they were; the file's time of change
cannot be set back, and a file that changed in the last second before it was read gets no note,
since it could change again within the same tick of the clock. Without a note, a file is compared
byte for byte.

Notes are written after the object is durable. They need no sync: one that a crash tore apart or
took away is no note.
"""

# ruff: noqa: PTH100, PTH108, PTH119, PTH208 - pathlib is slow to load

import os
import time

from pgbackup.archiving.spooldir import is_safe

_PREFIX = "pushed."
_LIMIT = 8192  # bytes
_SETTLED = 10**9  # nanoseconds


def take_note(spool: str, path: str, repo: str) -> bool:
    """Tell whether a file was pushed already and is still the same; a note serves once.

    repo: as the user named it.
    """
    note = f"{spool}/{_PREFIX}{os.path.basename(path)}"
    return has_note(spool, path, repo, note) and _remove(note)


def has_note(spool: str, path: str, repo: str, note: str | None = None) -> bool:
    """Tell whether a file was pushed already and is still the same."""
    note = note or f"{spool}/{_PREFIX}{os.path.basename(path)}"
    try:
        fd = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        text = os.read(fd, _LIMIT).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    stored = text.split("\n")[2:3]
    if not stored or not is_safe(spool):
        return False
    try:
        return text == _text(repo, os.lstat(path), stored[0], os.lstat(stored[0]))
    except OSError:
        return False


def is_settled(found: os.stat_result) -> bool:
    """Tell whether a change to a file after now would show in its time of change."""
    return time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) > _SETTLED


def leave_note(spool: str, path: str, repo: str, found: os.stat_result, stored: str) -> None:
    """Note that a file was pushed.

    found:  the file before it was read, settled.
    stored: path of the durable object.

    Raises: OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    text = _text(repo, found, stored, os.lstat(stored))
    fd = os.open(f"{spool}/{_PREFIX}{os.path.basename(path)}", flags, 0o600)
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def forget_others(spool: str, waiting: set[str]) -> None:
    """Remove the notes of files that no longer wait to be pushed.

    Raises: OSError.
    """
    for entry in os.listdir(spool):
        if entry.startswith(_PREFIX) and entry.removeprefix(_PREFIX) not in waiting:
            _remove(f"{spool}/{entry}")


def _text(repo: str, found: os.stat_result, stored: str, became: os.stat_result) -> str:
    place = repo if "://" in repo else os.path.abspath(repo)
    return (
        f"1 {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} "
        f"{found.st_ctime_ns}\n{place}\n{stored}\n"
        f"{became.st_dev} {became.st_ino} {became.st_size} {became.st_mtime_ns}\n"
    )


def _remove(note: str) -> bool:
    try:
        os.unlink(note)
    except OSError:
        return False
    return True
