"""LocalStorage keeps the contract, and keeps to its directory."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, Locked, NotFound, StorageError, UsageError
from pgbackup.storage import leftovers, locallock
from pgbackup.storage.api import Storage
from pgbackup.storage.durable import FileSystem, PathName
from pgbackup.storage.leftovers import temporary_name, try_flock
from pgbackup.storage.local import LocalStorage
from tests.storage.contract import StorageContract, names


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def everything_below(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[Storage]:
        before = open_descriptors()
        yield LocalStorage(tmp_path / "new" / "repo")
        assert open_descriptors() == before, "a descriptor leaked"
        hidden = [name for name in everything_below(tmp_path) if "/." in name]
        assert hidden == [], "a temporary file or a lock was left"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def storage(repo: Path) -> LocalStorage:
    return LocalStorage(repo)


def test_the_root_is_made_by_the_first_write_only(repo: Path, storage: LocalStorage) -> None:
    assert names(storage) == []
    assert not storage.exists("a")
    assert not storage.is_locked("a")
    storage.delete("a")
    assert list(storage.reap()) == []
    assert not repo.exists()
    storage.create("a", b"")
    assert repo.is_dir()


def test_objects_are_plain_files_of_the_same_names(repo: Path, storage: LocalStorage) -> None:
    storage.create("a/b.c", b"hello")
    assert (repo / "a" / "b.c").read_bytes() == b"hello"
    assert storage.features.local_path == str(repo) == storage.url


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_modes_are_private_whatever_the_umask(repo: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        LocalStorage(repo).create("a/b", b"x")
    finally:
        os.umask(before)
    assert [(repo / name).stat().st_mode & 0o7777 for name in ["", "a", "a/b"]] == [
        0o700,
        0o700,
        0o600,
    ]


def test_emptied_folders_go_but_never_the_root(repo: Path, storage: LocalStorage) -> None:
    storage.create("a/b/c/d", b"")
    storage.create("a/x", b"")
    storage.delete("a/b/c/d")
    assert everything_below(repo) == ["a", "a/x"]
    storage.delete("a/x")
    assert everything_below(repo) == []
    assert repo.is_dir()


def test_a_relative_path_means_where_the_process_was_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("repo")
    monkeypatch.chdir("/")
    storage.create("a", b"x")
    assert (tmp_path / "repo" / "a").exists()


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(UsageError, match="path is empty"):
        LocalStorage("")


def test_a_symbolic_link_in_place_of_an_object_is_not_followed(
    tmp_path: Path, repo: Path, storage: LocalStorage
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    repo.mkdir()
    (repo / "link").symlink_to(secret)
    with pytest.raises(StorageError, match="symbolic link"):
        storage.read("link")
    with pytest.raises(StorageError, match="symbolic link"):
        storage.sync("link")
    with pytest.raises(NotFound):
        storage.stat("link")
    assert names(storage) == []
    with pytest.raises(StorageError), storage.writer("link") as writer:
        raise StorageError("leave")
    with storage.writer("link") as writer:
        writer.write(b"x")
        writer.commit(replace=True)
    assert secret.read_bytes() == b"secret"
    assert not (repo / "link").is_symlink()


def test_a_symbolic_link_in_place_of_a_folder_is_not_followed(
    tmp_path: Path, repo: Path, storage: LocalStorage
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "object").write_bytes(b"x")
    repo.mkdir()
    (repo / "folder").symlink_to(outside)
    calls: list[Callable[[str], object]] = [
        storage.read,
        storage.writer,
        storage.stat,
        storage.delete,
        storage.lock,
    ]
    for call in calls:
        with pytest.raises(StorageError):
            call("folder/object")
    with pytest.raises(StorageError):
        names(storage)
    with pytest.raises(StorageError):
        storage.reap()
    assert everything_below(outside) == ["object"]


def test_what_is_no_object_is_not_listed(repo: Path, storage: LocalStorage) -> None:
    storage.create("a", b"")
    (repo / "with space").write_bytes(b"")
    (repo / ".hidden").write_bytes(b"")
    (repo / "lost+found").mkdir(mode=0)
    (repo / ".git").mkdir()
    (repo / ".git" / "config").write_bytes(b"")
    os.mkfifo(repo / "fifo")
    assert names(storage) == ["a"]
    with pytest.raises(NotFound):
        storage.read("fifo")


def test_a_file_in_place_of_a_folder_is_a_storage_error(storage: LocalStorage) -> None:
    storage.create("a", b"")
    calls: list[Callable[[str], object]] = [
        storage.read,
        storage.writer,
        storage.stat,
        storage.delete,
        storage.exists,
    ]
    for call in calls:
        with pytest.raises(StorageError, match="not a directory"):
            call("a/b")


def test_a_file_that_shrinks_under_the_reader_is_damage(repo: Path, storage: LocalStorage) -> None:
    storage.create("a", bytes(1000))
    with storage.reader("a") as reader:
        reader.read(10)
        os.truncate(repo / "a", 500)
        with pytest.raises(CorruptData, match="is truncated"):
            reader.read()


def test_a_file_that_grew_under_the_writer_is_refused(repo: Path, storage: LocalStorage) -> None:
    with storage.writer("a") as writer:
        writer.write(b"mine")
        (temporary,) = repo.iterdir()
        with temporary.open("ab") as other:
            other.write(b"foreign")
        with pytest.raises(StorageError, match="another length"):
            writer.commit()
    assert everything_below(repo) == []


def test_a_temporary_file_that_was_taken_away_is_a_storage_error(
    repo: Path, storage: LocalStorage
) -> None:
    with storage.writer("a") as writer:
        (temporary,) = repo.iterdir()
        temporary.unlink()
        with pytest.raises(StorageError, match="temporary file is gone") as caught:
            writer.commit()
    assert not isinstance(caught.value, NotFound)


def test_reap_removes_what_a_dead_process_left(repo: Path, storage: LocalStorage) -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys; from pgbackup.storage.local import LocalStorage\n"
            "storage = LocalStorage(sys.argv[1])\n"
            "storage.create('b/kept', b'x')\n"
            "storage.writer('a/b').write(b'x')\n"
            "held = storage.writer('a/b'); held.write(b'x'); lock = storage.lock('c/lock')\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n",
            repo,
        ],
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    with storage.writer("a/b") as mine, storage.lock("c/mine"):
        assert not storage.is_locked("c/lock")
        mine.write(b"mine")
        assert sorted(storage.pending()) == [("a/b", 1, True), ("a/b", 1, True), ("a/b", 4, False)]
        assert storage.pending("c/") == []
        removed = storage.reap()
        assert len(removed) == 3
        assert {name.split(".tmp-")[0] for name in removed} == {"a/.b", "c/.lock.lock"}
        mine.commit()
    assert everything_below(repo) == ["a", "a/b", "b", "b/kept"]


def stale_lock(repo: Path) -> Path:
    """What a killed process leaves of the lock "a"."""
    repo.mkdir()
    path = repo / ".a.lock"
    path.write_bytes(b"{}")
    return path


def test_nobody_takes_a_lock_file_over_that_is_just_being_removed(
    repo: Path, storage: LocalStorage
) -> None:
    tried = []

    class Trying(FileSystem):
        def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
            with pytest.raises(Locked):
                storage.lock("a")
            tried.append(path)
            super().unlink(path, dir_fd=dir_fd)

    stale_lock(repo)
    assert list(LocalStorage(repo, filesystem=Trying()).reap()) == tried == [".a.lock"]


def test_reap_leaves_a_lock_file_that_took_the_place_of_the_one_it_looked_at(
    repo: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stale_lock(repo)
    locks = []

    def replaced(fd: int) -> bool:
        if not locks:
            path.unlink()
            locks.append(storage.lock("a"))
        return try_flock(fd)

    monkeypatch.setattr(leftovers, "try_flock", replaced)
    assert list(storage.reap()) == []
    monkeypatch.undo()
    assert storage.is_locked("a")
    locks[0].release()


def test_a_lock_file_that_lost_its_name_at_this_moment_is_no_lock(
    repo: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stale_lock(repo)
    held = []

    def replaced(fd: int, *, attempts: int = 1, operation: int = fcntl.LOCK_EX) -> bool:
        if not held:
            path.unlink()
            held.append(os.open(path, os.O_RDWR | os.O_CREAT))
            assert try_flock(held[0])
        return try_flock(fd, attempts=attempts, operation=operation)

    monkeypatch.setattr(locallock, "try_flock", replaced)
    with pytest.raises(Locked):
        storage.lock("a")
    os.close(held[0])


def test_the_lock_of_a_killed_process_is_free(repo: Path, storage: LocalStorage) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pgbackup.storage.local import LocalStorage\n"
            "lock = LocalStorage(sys.argv[1]).lock('a/lock', {'command': 'backup'})\n"
            "print(flush=True); sys.stdin.read()\n",
            repo,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert storage.is_locked("a/lock")
        with pytest.raises(Locked, match=f"process {child.pid} on .* \\(backup\\) has held"):
            storage.lock("a/lock")
        child.kill()
    assert not storage.is_locked("a/lock")
    with storage.lock("a/lock"):
        assert storage.is_locked("a/lock")
    assert everything_below(repo) == []


@pytest.mark.parametrize(
    ("host", "hours", "goes"),
    [
        pytest.param("elsewhere", 23, False, id="young-of-another-host"),
        pytest.param("elsewhere", 25, True, id="old-of-another-host"),
        pytest.param(None, 25, False, id="old-of-a-live-process-here"),
    ],
)
def test_reap_judges_by_host_process_and_age(
    repo: Path, storage: LocalStorage, host: str | None, hours: int, goes: bool
) -> None:
    storage.create("a", b"")
    name = temporary_name("b")
    if host:
        name = f".b.tmp-{host}-1-abcdef"
    (repo / name).write_bytes(b"x")
    then = (repo / "a").stat().st_mtime - hours * 3600
    os.utime(repo / name, (then, then))
    assert list(storage.reap()) == ([name] if goes else [])
    assert (repo / name).exists() != goes


def test_reap_leaves_unknown_hidden_files(repo: Path, storage: LocalStorage) -> None:
    storage.create("a", b"")
    (repo / ".snapshot").write_bytes(b"")
    (repo / ".b.tmp").write_bytes(b"")
    assert list(storage.reap()) == []
    assert (repo / ".snapshot").exists()


def test_a_damaged_lock_record_still_tells_that_it_is_held(
    repo: Path, storage: LocalStorage
) -> None:
    for text in [b"", b"{", b"[]", b"\xff"]:
        with storage.lock("a"):
            (repo / ".a.lock").write_bytes(text)
            with pytest.raises(Locked, match="another process has held it"):
                storage.lock("a")
