"""The order of the calls that make an object durable, and what is left when one of them fails."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pgbackup.errors import Conflict, NotFound, StorageDenied, StorageError
from pgbackup.storage.api import Storage
from pgbackup.storage.durable import FileSystem, PathName, storage_error, syncfs_reports_errors
from pgbackup.storage.local import LocalStorage
from tests.strace import killed_at

DATA = bytes(range(256)) * 40


class RecordingFileSystem(FileSystem):
    """Notes every call by name, and fails the n-th of one kind.

    Always: no descriptor is synced again after a sync of it failed.
    """

    def __init__(self, fail: str = "", nth: int = 1, error: int = errno.EIO) -> None:
        self.calls: list[str] = []
        self.failed_syncs: set[int] = set()
        self._fail = fail
        self._nth = nth
        self._error = error

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self._fail and Counter(self.calls)[call] == self._nth:
            raise OSError(self._error, os.strerror(self._error))

    def open_new(self, path: PathName, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        self._note("open_new")
        fd = super().open_new(path, mode, dir_fd=dir_fd)
        self.failed_syncs.discard(fd)
        return fd

    def write(self, fd: int, view: memoryview) -> int:
        self._note("write")
        return super().write(fd, view)

    def fsync(self, fd: int) -> None:
        assert fd not in self.failed_syncs
        kind = "fsync_directory" if Path(f"/proc/self/fd/{fd}").is_dir() else "fsync"
        try:
            self._note(kind)
        except OSError:
            self.failed_syncs.add(fd)
            raise
        super().fsync(fd)

    def close(self, fd: int) -> None:
        super().close(fd)
        self._note("close")

    def link(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        self._note("link")
        super().link(existing, new, dir_fd=dir_fd)

    def rename(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        self._note("rename")
        super().rename(existing, new, dir_fd=dir_fd)

    def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
        self._note("unlink")
        super().unlink(path, dir_fd=dir_fd)

    def make_directory(
        self, path: PathName, mode: int = 0o700, *, dir_fd: int | None = None
    ) -> None:
        self._note("make_directory")
        super().make_directory(path, mode, dir_fd=dir_fd)

    def remove_directory(self, path: PathName, *, dir_fd: int | None = None) -> None:
        self._note("remove_directory")
        super().remove_directory(path, dir_fd=dir_fd)


def below(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def put(storage: Storage, name: str, *chunks: bytes, replace: bool = False) -> None:
    with storage.writer(name) as writer:
        for chunk in chunks or [DATA]:
            writer.write(chunk)
        writer.commit(replace=replace)


def test_a_new_object_is_synced_before_it_is_visible_and_its_name_after(tmp_path: Path) -> None:
    filesystem = RecordingFileSystem()
    put(LocalStorage(tmp_path, filesystem=filesystem), "a")
    assert filesystem.calls == [
        "open_new", "write", "fsync", "close", "link", "unlink", "fsync_directory",
    ]  # fmt: skip


def test_a_replacing_object_is_synced_before_it_is_visible(tmp_path: Path) -> None:
    filesystem = RecordingFileSystem()
    put(LocalStorage(tmp_path, filesystem=filesystem), "a", replace=True)
    assert filesystem.calls == [
        "open_new", "write", "fsync", "close", "rename", "fsync_directory",
    ]  # fmt: skip


def test_every_new_folder_is_synced_into_its_parent(tmp_path: Path) -> None:
    filesystem = RecordingFileSystem()
    put(LocalStorage(tmp_path / "new" / "repo", filesystem=filesystem), "a/b/c")
    assert filesystem.calls == [
        *["make_directory", "fsync_directory"] * 4,
        "open_new", "write", "fsync", "close", "link", "unlink", "fsync_directory",
    ]  # fmt: skip


def test_a_deleted_name_is_synced_away(tmp_path: Path) -> None:
    put(LocalStorage(tmp_path), "a/b")
    filesystem = RecordingFileSystem()
    LocalStorage(tmp_path, filesystem=filesystem).delete("a/b")
    assert filesystem.calls == ["unlink", "fsync_directory", "remove_directory"]


def test_several_deleted_names_are_synced_away_at_once(tmp_path: Path) -> None:
    for name in ("a/b", "a/c", "d/e"):
        put(LocalStorage(tmp_path), name)
    filesystem = RecordingFileSystem()
    LocalStorage(tmp_path, filesystem=filesystem).delete("a/b", "a/missing", "a/c", "d/e")
    assert filesystem.calls == [
        *["unlink"] * 3, "fsync_directory", "remove_directory",
        "unlink", "fsync_directory", "remove_directory",
    ]  # fmt: skip


def test_sync_covers_the_object_and_every_folder_above_it(tmp_path: Path) -> None:
    put(LocalStorage(tmp_path), "a/b/c")
    filesystem = RecordingFileSystem()
    LocalStorage(tmp_path, filesystem=filesystem).sync("a/b/c")
    assert filesystem.calls == ["fsync", *["fsync_directory"] * 3]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("make_directory", 1),
        ("make_directory", 2),
        ("fsync_directory", 1),
        ("fsync_directory", 2),
        ("open_new", 1),
        ("write", 1),
        ("write", 2),
        ("fsync", 1),
        ("close", 1),
        ("link", 1),
    ],
)
def test_nothing_is_visible_after_a_failure(
    tmp_path: Path, call: str, nth: int, error: int
) -> None:
    filesystem = RecordingFileSystem(call, nth, error)
    storage = LocalStorage(tmp_path, filesystem=filesystem)
    with pytest.raises(StorageError, match=r'could not write object ".*/a/b/c": '):
        put(storage, "a/b/c", DATA, DATA)
    assert list(storage.list()) == []
    assert [name for name in below(tmp_path) if (tmp_path / name).is_file()] == []
    assert Counter(filesystem.calls)["fsync"] <= 1
    put(LocalStorage(tmp_path), "a/b/c")
    assert storage.read("a/b/c") == DATA


@pytest.mark.parametrize("replace", [False, True], ids=["link", "rename"])
def test_an_object_whose_directory_failed_to_sync_is_not_promised(
    tmp_path: Path, replace: bool
) -> None:
    filesystem = RecordingFileSystem("fsync_directory")
    storage = LocalStorage(tmp_path, filesystem=filesystem)
    with pytest.raises(StorageError, match="input/output error"):
        put(storage, "a", replace=replace)
    assert storage.read("a") == DATA
    assert below(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EIO, errno.EROFS])
def test_a_failed_rename_keeps_the_old_object(tmp_path: Path, error: int) -> None:
    put(LocalStorage(tmp_path), "a", b"old")
    storage = LocalStorage(tmp_path, filesystem=RecordingFileSystem("rename", 1, error))
    with pytest.raises(StorageError):
        put(storage, "a", b"new", replace=True)
    assert storage.read("a") == b"old"
    assert below(tmp_path) == ["a"]


def test_a_temporary_file_that_cannot_be_removed_is_reported_and_not_listed(
    tmp_path: Path,
) -> None:
    storage = LocalStorage(tmp_path, filesystem=RecordingFileSystem("unlink"))
    with pytest.raises(StorageError):
        put(storage, "a")
    assert [found.name for found in storage.list()] == ["a"]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_directory_that_cannot_be_synced_is_accepted(tmp_path: Path, error: int) -> None:
    storage = LocalStorage(tmp_path, filesystem=RecordingFileSystem("fsync_directory", 1, error))
    put(storage, "a")
    with pytest.raises(StorageError):
        put(LocalStorage(tmp_path, filesystem=RecordingFileSystem("fsync", 1, error)), "b")
    assert [found.name for found in storage.list()] == ["a"]


def test_a_failed_delete_is_an_error(tmp_path: Path) -> None:
    put(LocalStorage(tmp_path), "a")
    for call in ["unlink", "fsync_directory"]:
        storage = LocalStorage(tmp_path, filesystem=RecordingFileSystem(call))
        with pytest.raises(StorageError, match="could not delete object"):
            storage.delete("a")


class DribblingFileSystem(FileSystem):
    """Writes 1 to 7 bytes at a time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def write(self, fd: int, view: memoryview) -> int:
        return super().write(fd, view[: self._random.randint(1, 7)])


def test_short_writes_are_continued(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, filesystem=DribblingFileSystem(7))
    put(storage, "a")
    assert storage.read("a") == DATA


class StuckFileSystem(FileSystem):
    """A device that takes nothing and reports no error."""

    def write(self, fd: int, view: memoryview) -> int:
        return 0


def test_a_write_of_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="accepted no data"):
        put(LocalStorage(tmp_path, filesystem=StuckFileSystem()), "a")


class RepeatingFileSystem(FileSystem):
    """NFS: the answer to a link was lost, the client asked again and the name was there."""

    def link(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        super().link(existing, new, dir_fd=dir_fd)
        super().link(existing, new, dir_fd=dir_fd)


def test_a_link_that_was_repeated_by_the_network_has_worked(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, filesystem=RepeatingFileSystem())
    put(storage, "a")
    assert storage.read("a") == DATA
    with pytest.raises(Conflict):
        put(storage, "a")
    assert below(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENOSPC, StorageError, "no space left on device"),
        (errno.EDQUOT, StorageError, "disk quota exceeded"),
        (errno.EIO, StorageError, "input/output error"),
        (errno.EACCES, StorageDenied, "permission denied"),
        (errno.EPERM, StorageDenied, "operation not permitted"),
        (errno.EROFS, StorageDenied, "the file system is mounted read-only"),
        (errno.ENOENT, NotFound, "no such file or directory"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_errors_are_worded_in_one_way(number: int, kind: type, text: str) -> None:
    error = storage_error("write object", "r/a", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert error.message == f'could not write object "r/a": {text}'
    assert (error.hint is None) == (number == errno.ENOENT)


def test_write_back_is_begun_while_a_large_object_is_written(tmp_path: Path) -> None:
    ranges = []

    class NotingFileSystem(FileSystem):
        def start_writeback(self, fd: int, offset: int, length: int) -> None:
            ranges.append((offset, length))
            super().start_writeback(fd, offset, length)

    storage = LocalStorage(tmp_path, filesystem=NotingFileSystem())
    chunk = memoryview(bytes(400 << 10))
    with storage.writer("a") as writer:
        for _ in range(7):
            writer.write(chunk)
        writer.commit()
    assert ranges == [(0, 1200 << 10), (1200 << 10, 1200 << 10)]
    assert storage.stat("a").size == 2800 << 10


def test_syncfs_makes_a_file_system_durable(tmp_path: Path) -> None:
    filesystem = FileSystem()
    fd = filesystem.open_new(tmp_path / "a")
    try:
        filesystem.write_all(fd, b"x")
        filesystem.sync_file_system(fd)
    finally:
        filesystem.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        filesystem.sync_file_system(fd)


@pytest.mark.parametrize(
    ("system", "release", "reports"),
    [
        ("Linux", "5.8.0-1-amd64", True),
        ("Linux", "6.1.0", True),
        ("Linux", "5.10-rc1", True),
        ("Linux", "5.7.19", False),
        ("Linux", "4.18.0-553.el8", False),
        ("Linux", "strange", False),
        ("FreeBSD", "14.1-RELEASE", False),
    ],
)
def test_syncfs_is_trusted_from_the_kernel_that_reports_errors(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str, reports: bool
) -> None:
    monkeypatch.setattr(os, "uname", lambda: (system, "host", release, "", ""))
    assert syncfs_reports_errors() is reports


def test_directories_are_made_with_their_modes_and_again_without_effect(tmp_path: Path) -> None:
    filesystem = RecordingFileSystem()
    filesystem.make_directories(tmp_path / "a" / "b", 0o750)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ["a", "a/b"]] == [0o750, 0o750]
    assert filesystem.calls == ["make_directory", "fsync_directory"] * 2
    filesystem.make_directories(tmp_path / "a" / "b", 0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750


def test_a_directory_that_could_not_be_synced_is_not_left_for_the_next(tmp_path: Path) -> None:
    filesystem = RecordingFileSystem("fsync_directory")
    with pytest.raises(OSError, match="Input/output error"):
        filesystem.make_directory(tmp_path / "a")
    assert below(tmp_path) == []


SCRIPT = """
import sys
from pgbackup.storage.local import LocalStorage
storage = LocalStorage(sys.argv[1])
with storage.lock("system/lock"):
    with storage.writer("system/wal/new") as writer:
        for _ in range(3):
            writer.write(b"new" * 10000)
        writer.commit()
    with storage.writer("system/wal/replaced") as writer:
        writer.write(b"second")
        writer.commit(replace=True)
    storage.delete("system/wal/deleted")
"""


def run_until_killed(repo: Path, call: str, nth: int) -> bool:
    """Run the script on a fresh repository, killed as it enters the n-th call of one kind.

    Returns False if it ended before that.
    """
    shutil.rmtree(repo, ignore_errors=True)
    storage = LocalStorage(repo)
    storage.create("system/wal/replaced", b"first")
    storage.create("system/wal/deleted", b"deleted")
    before = killed_at(call, nth)
    done = subprocess.run(
        [*before, sys.executable, "-c", SCRIPT, repo],
        check=False,
        capture_output=True,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "at_least"),
    [
        ("write", 4),
        ("fsync", 5),
        ("linkat", 1),
        ("renameat", 1),
        ("unlinkat", 4),
        ("fchmod", 2),
        ("flock", 3),
        ("pwrite64", 1),
    ],
)
def test_killed_at_any_call_every_object_is_whole_or_absent(
    tmp_path: Path, call: str, at_least: int
) -> None:
    repo = tmp_path / "repo"
    nth = 0
    while run_until_killed(repo, call, nth + 1):
        nth += 1
        storage = LocalStorage(repo)
        found = {each.name: storage.read(each.name) for each in storage.list()}
        assert found.pop("system/wal/replaced") in (b"first", b"second")
        assert found.pop("system/wal/deleted", b"deleted") == b"deleted"
        assert found.pop("system/wal/new", b"new" * 30000) == b"new" * 30000
        assert found == {}
        assert not storage.is_locked("system/lock")
        storage.reap()
        assert [name for name in below(repo) if "/." in name] == []
    assert nth >= at_least
    assert LocalStorage(repo).read("system/wal/replaced") == b"second"
