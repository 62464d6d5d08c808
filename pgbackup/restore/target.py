"""The directories that a restore fills, from the first look to the last sync.

A directory is used if it is missing, empty, or what a killed restore left: that is told by the
name under which pg_control is written until all is done, while nobody holds its lock. When a
restore fails, what it made is removed; a directory that was there before stays, empty.

A delta restore also takes over a data directory of the same cluster and what this links to. When it
fails, everything stays as it is then, and unfinished.

Nothing else is ever removed, and nothing outside is touched.
"""

# ruff: noqa: PTH120, PTH208 - descriptors, not paths

import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pgbackup.backup.members import TABLESPACES, is_version_directory, tablespace_path
from pgbackup.errors import Locked, PgbackupError, Refused
from pgbackup.interrupts import held_back
from pgbackup.restore.existing import (
    CONTROL,
    GLOBAL,
    UNFINISHED_CONTROL,
    check_data_directory,
    check_no_server,
    mark,
    unmark,
)
from pgbackup.restore.newfile import target_errors
from pgbackup.restore.plan import RestorePlan, TablespaceTarget
from pgbackup.restore.tree import Tree
from pgbackup.storage.durable import DIRECTORY_FLAGS, FileSystem, syncfs_reports_errors
from pgbackup.storage.leftovers import try_flock


@dataclass(slots=True)
class Target:
    """A directory that is open, and ours to fill.

    made: the directories that were made for it, outermost first; itself, if any, the last.
    """

    path: str
    fd: int
    made: Sequence[str]


class Targets:
    """All directories of one restore.

    control: descriptor of the unfinished pg_control, whose lock says that we are at it.
    keeps:   there are files, and they stay until they are found to be wrong.
    """

    def __init__(self, plan: RestorePlan, filesystem: FileSystem) -> None:
        self._plan = plan
        self._filesystem = filesystem
        self._opened: list[Target] = []
        self._owned: list[Target] = []
        self._is_used = False
        self._is_marked = False
        self._is_changed = False
        self.control = -1
        self.keeps = False
        self.tablespaces: dict[int, Target] = {}
        self.data: Target

    def take(self) -> None:
        """Open or make everything, take the lock, and empty what a killed restore left.

        With `keeps`, that is not emptied.

        Raises: Refused, Locked, PgbackupError.
        """
        with held_back():
            self.data = self._open(self._plan.directory)
        with target_errors("restore into directory", self.data.path), held_back():
            is_leftover = self._lock_data_directory(self.data)
            self._owned.append(self.data)
        for each in self._plan.tablespaces:
            if each.directory is not None:
                self.tablespaces[each.oid] = self._take_tablespace(each, is_leftover)
        with target_errors("restore into directory", self.data.path):
            self._is_changed = True
            if not self.keeps:
                for target in self.tablespaces.values():
                    _empty(target.fd)
                _empty(self.data.fd, kept=GLOBAL)
                with _inner(self.data.fd, GLOBAL) as inner:
                    _empty(inner, kept=UNFINISHED_CONTROL)
            for target in self._owned:
                os.fchmod(target.fd, self._plan.mode)
            os.ftruncate(self.control, 0)
            os.fchmod(self.control, self._plan.mode & 0o640)

    def finish(self) -> None:
        """Make everything durable, then the control file visible under its name."""
        with target_errors("make durable directory", self.data.path):
            if syncfs_reports_errors():
                devices = {os.fstat(each.fd).st_dev: each.fd for each in self._owned}
                for fd in devices.values():
                    self._filesystem.sync_file_system(fd)
            else:
                for each in self._owned:
                    self._sync_directories(each.fd)
                self._filesystem.fsync(self.control)
            with _inner(self.data.fd, GLOBAL) as inner:
                self._filesystem.rename(UNFINISHED_CONTROL, CONTROL, dir_fd=inner)
                self._filesystem.fsync_directory(inner)

    def undo(self) -> None:
        """Remove what was made, as far as that is possible; nothing of what was taken over."""
        if self.is_left_unfinished:
            return
        if self._is_marked:
            with suppress(OSError):
                unmark(self._filesystem, self.data.fd)
        if self._is_changed or not self._is_used:
            for target in reversed(self._owned):
                with suppress(OSError):
                    _empty(target.fd)
        for target in reversed(self._opened):
            for path in reversed(target.made):
                with suppress(OSError):
                    self._filesystem.remove_directory(path)

    @property
    def is_left_unfinished(self) -> bool:
        """Whether a failure leaves the directories neither as they were nor restored."""
        return self.keeps and self._is_changed

    def close(self) -> None:
        """Close all descriptors, which gives the lock back."""
        for target in self._opened:
            os.close(target.fd)
        if self.control >= 0:
            os.close(self.control)

    def _open(self, path: str) -> Target:
        with target_errors("restore into directory", path):
            made = []
            for missing in _missing(path):
                self._filesystem.make_directory(missing)
                made.append(missing)
            target = Target(path, os.open(path, DIRECTORY_FLAGS), made)
            self._opened.append(target)
        return target

    def _lock_data_directory(self, target: Target) -> bool:
        """Take the lock in a directory that may be used; tell whether it has leftovers."""
        names = set(os.listdir(target.fd))
        is_leftover = bool(names) and _is_unfinished(target.fd)
        self._is_used = bool(names)
        self.keeps = self._is_used and self._plan.delta
        if self.keeps and not is_leftover:
            check_data_directory(target.fd, target.path, self._plan.record.system_identifier)
            mark(self._filesystem, target.fd, target.path)
        elif self.keeps:
            check_no_server(target.fd, target.path)
        elif names and not is_leftover:
            raise _not_empty(target.path)
        try:
            self.control = self._open_control(target.fd)
        except OSError:
            with suppress(OSError):  # goes only if it is empty, so if it is ours alone
                self._filesystem.remove_directory(GLOBAL, dir_fd=target.fd)
            raise
        has_lock = True
        with suppress(OSError):  # no flock on this file system
            has_lock = try_flock(self.control)
        if not has_lock or not stat.S_ISREG(os.fstat(self.control).st_mode):
            raise Locked(
                f'could not restore into directory "{target.path}": another restore is at it'
            )
        self._is_marked = self.keeps and not is_leftover
        return is_leftover

    def _open_control(self, data: int) -> int:
        with Tree(data) as tree:
            tree.make_missing(GLOBAL, self._plan.mode)
            folder = tree.directory(GLOBAL)
            with suppress(FileExistsError):
                os.close(self._filesystem.open_new(UNFINISHED_CONTROL, dir_fd=folder))
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(UNFINISHED_CONTROL, flags, dir_fd=folder)

    def _take_tablespace(self, tablespace: TablespaceTarget, is_leftover: bool) -> Target:
        assert tablespace.directory is not None
        with held_back():
            target = self._open(tablespace.directory)
        with target_errors("restore into directory", target.path):
            names = os.listdir(target.fd)
            # Only the link in the data directory proves that its server or restore wrote here. Even
            # then, servers of other versions may have directories of their own beside ours.
            is_ours = _link(self.data.fd, tablespace.oid) == target.path
            if not self.keeps:
                ours = f"PG_{self._plan.major}_"
                is_ours = (
                    is_ours
                    and is_leftover
                    and all(is_version_directory(name) and name.startswith(ours) for name in names)
                )
            if names and not is_ours:
                raise _not_empty(target.path)
            self._owned.append(target)
        return target

    def check_space(self, sizes: Mapping[int | None, int]) -> None:
        """Refuse what cannot fit.

        sizes: bytes to be written beside the WAL, by tablespace.

        Raises: Refused.
        """
        needed: dict[int, int] = {}
        for tablespace, size in sizes.items():
            target = self.data
            if tablespace is not None:
                target = self.tablespaces.get(tablespace, self.data)
            device = os.fstat(target.fd).st_dev
            needed[device] = needed.get(device, 0) + size
        needed.setdefault(os.fstat(self.data.fd).st_dev, 0)
        needed[os.fstat(self.data.fd).st_dev] += self._plan.size - self._plan.record.size
        for target in self._owned:
            size = needed.pop(os.fstat(target.fd).st_dev, 0)
            found = os.fstatvfs(target.fd)
            free = found.f_bavail * found.f_frsize
            if size > free:
                raise Refused(
                    f'could not restore into directory "{target.path}": it takes {size} bytes,'
                    f" and {free} are free",
                    hint="Make room, or name another directory with -D.",
                )

    def _sync_directories(self, top: int) -> None:
        for _, _, _, fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            self._filesystem.fsync_directory(fd)


@contextmanager
def targets(plan: RestorePlan, filesystem: FileSystem) -> Iterator[Targets]:
    """Have all directories of a plan for the length of a block; undo what fails."""
    opened = Targets(plan, filesystem)
    try:
        opened.take()
        yield opened
    except PgbackupError as error:
        opened.undo()
        if opened.is_left_unfinished:
            error.hint = _again(plan, error.hint)
        raise
    except BaseException:
        opened.undo()
        raise
    finally:
        opened.close()


def _again(plan: RestorePlan, hint: str | None) -> str:
    again = (
        "No server starts from the directory until this is run again, with the same options:"
        f" pgbackup restore {plan.record.label} --delta -D {shlex.quote(plan.directory)}"
    )
    return again if hint is None else f"{hint} {again}"


def _missing(path: str) -> list[str]:
    """The directories of a path that are not there, outermost first."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing


def _is_unfinished(fd: int) -> bool:
    """Tell whether a directory is what a restore left that was killed."""
    try:
        with _inner(fd, GLOBAL) as inner:
            names = os.listdir(inner)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if UNFINISHED_CONTROL in names:
        return CONTROL not in names
    return not names and os.listdir(fd) == [GLOBAL]


def _link(fd: int, oid: int) -> str | None:
    with suppress(OSError), _inner(fd, TABLESPACES) as inner:
        return os.readlink(tablespace_path(oid).rpartition("/")[2], dir_fd=inner)
    return None


@contextmanager
def _inner(fd: int, name: str) -> Iterator[int]:
    inner = os.open(name, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
    try:
        yield inner
    finally:
        os.close(inner)


def _empty(fd: int, *, kept: str | None = None) -> None:
    """Remove everything in a directory but one name."""
    for name in os.listdir(fd):
        if name == kept:
            continue
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)


def _not_empty(path: str) -> Refused:
    return Refused(
        f'could not restore into directory "{path}": it is not empty',
        hint="Name a new or an empty directory, or add --delta for a data directory of the same"
        " cluster.",
    )
