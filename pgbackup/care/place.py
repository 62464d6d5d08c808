"""Judges the place where a repository lies: writing, space, permissions, leftovers.

The only part of `check` that writes: one small object, which it reads and removes again.
"""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from pgbackup.care.finding import Findings, critical, fine, warning
from pgbackup.errors import PgbackupError
from pgbackup.repo import layout
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.storage.api import Storage

DAYS_CRITICAL = 1
DAYS_WARNING = 3
"""For how long the WAL of a normal day still has to fit."""

_PROBE = "write-test-{pid}"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_DAY = 86400


def judge_writing(storage: Storage) -> Findings:
    """Write, read and remove an object, as the user that check runs as."""
    name = _PROBE.format(pid=os.getpid())
    content = os.urandom(4096)
    try:
        storage.create(name, content)
        try:
            same = storage.read(name) == content
        finally:
            storage.delete(name)
    except PgbackupError as error:
        yield critical(
            "repository_write",
            f"the repository can not be written to: {error.message}",
            error.hint or f"check owner, permissions and space of {storage.url}: ls -ld, df -h",
        )
        return
    if same:
        yield fine("repository_write", "an object was written, read and removed")
    else:
        yield critical(
            "repository_write",
            "an object that was written reads differently",
            "look for errors of the disk: dmesg",
        )


def judge_space(root: str, last: BackupRecord | None, wal_per_day: float | None) -> Findings:
    """Whether the next backup and the WAL of the next days fit.

    root:        a directory.
    wal_per_day: stored bytes, or None if that is not known.
    """
    found = os.statvfs(root)
    free = found.f_bavail * found.f_frsize
    fix = "make room: pgbackup expire, or enlarge the file system"
    text = f"{free} bytes are free"
    days = free / wal_per_day if wal_per_day else None
    size = 0 if last is None else last.stored_size
    if free < size:
        yield critical("space", f"{text}, less than the last backup took ({size})", fix)
    elif days is not None and days < DAYS_CRITICAL:
        yield critical("space", f"{text}, enough for the WAL of {days:.1f} days", fix)
    elif free < 2 * size:
        yield warning("space", f"{text}, less than two backups of {size}", fix)
    elif days is not None and days < DAYS_WARNING:
        yield warning("space", f"{text}, enough for the WAL of {days:.1f} days", fix)
    else:
        yield fine("space", text)


def judge_permissions(root: str) -> Findings:
    """A repository holds all data of the server: it is for its owner alone."""
    found = Path(root).stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        yield warning(
            "permissions",
            f"others may look into the repository: mode {mode:04o}",
            f"chmod 700 {root}",
        )
    elif found.st_uid != os.geteuid():
        yield warning(
            "permissions",
            f"the repository belongs to user {found.st_uid}, and this is user {os.geteuid()}",
            "run pgbackup as the owner, always",
        )
    else:
        yield fine("permissions", f"the repository has mode {mode:04o}")


def judge_leftovers(cluster: ClusterRepository) -> Findings:
    """What killed commands left."""
    abandoned = [each for each in cluster.storage.pending() if each.is_abandoned]
    if abandoned:
        size = sum(each.size for each in abandoned)
        yield warning(
            "leftovers",
            f"killed commands left {len(abandoned)} unfinished files, {size} bytes,"
            f' such as one of "{abandoned[0].name}"',
            "the next backup removes them: pgbackup backup",
        )
    else:
        yield fine("leftovers", "no command was killed in the middle")


def wal_rate(cluster: ClusterRepository) -> float | None:
    """Stored bytes of WAL per day, over the last day; None if less than an hour can be seen."""
    now = datetime.now(UTC).timestamp()
    folder = layout.wal_folder(cluster.system)
    found = list(cluster.storage.list(folder))
    if not found:
        return None
    seen = min(_DAY, now - min(each.modified for each in found))
    if seen < _DAY / 24:
        return None
    return sum(each.size for each in found if each.modified >= now - _DAY) * _DAY / seen
