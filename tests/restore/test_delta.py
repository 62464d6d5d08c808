"""A delta restore gives what a restore gives, and keeps what is right already."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crc32c import crc32c

from pgbackup.errors import CorruptData, PgbackupError, Refused, WrongSystem
from pgbackup.pg.manifest import crc32c_bytes
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.delta import DeltaCounts
from pgbackup.restore.existing import UNFINISHED_CONTROL
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.restore.settings import Recovery
from pgbackup.storage.durable import FileSystem, PathName
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.backup.sample import (
    LABEL,
    OID,
    SYSTEM,
    Member,
    Sample,
    control_file,
    directory,
    files_of,
    rewrite,
    sample,
)
from tests.restore.test_run import FailingFileSystem, expected, restore, tree

RELATION = "base/1/1259"
VERSION = "PG_15_202209061"
ALWAYS_WRITTEN = {"global/pg_control"}


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tablespace=str(tmp_path / "space"))


@pytest.fixture
def cluster(made: Sample, tmp_path: Path) -> ClusterRepository:
    """A stored backup, restored into "data" and "space"."""
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    return cluster


def delta(cluster: ClusterRepository, target: Path, **options: object) -> DeltaCounts:
    counts = restore(cluster, target, delta=True, **options).delta  # type: ignore[arg-type]
    assert counts is not None
    return counts


def everything(top: Path) -> dict[str, object]:
    """Each name below a directory: content, or where a link leads, and which file it is."""
    return {
        str(path.relative_to(top)): (
            str(path.readlink())
            if path.is_symlink()
            else (path.read_bytes(), path.stat().st_ino)
            if path.is_file()
            else "directory"
        )
        for path in top.rglob("*")
    }


def found(top: Path) -> dict[str, bytes]:
    return tree(top / "data") | {
        f"pg_tblspc/{OID}/{name}": data for name, data in tree(top / "space").items()
    }


def unfinished(data: Path) -> bool:
    inside = data / "global"
    return (inside / UNFINISHED_CONTROL).exists() and not (inside / "pg_control").exists()


def test_files_of_an_unchanged_cluster_are_kept(
    cluster: ClusterRepository, made: Sample, tmp_path: Path
) -> None:
    files = files_of(made.archives)
    places = {name: tmp_path / "data" / name for name in set(files) - ALWAYS_WRITTEN}
    inodes = {name: path.stat().st_ino for name, path in places.items()}
    counts = delta(cluster, tmp_path / "data")
    assert found(tmp_path) == expected(made)
    assert {name: path.stat().st_ino for name, path in places.items()} == inodes
    assert (counts.kept.files, counts.rewritten.files) == (len(places), 1)
    assert counts.kept.size == sum(len(files[name]) for name in places)
    assert counts.removed.files == 0


def change_a_byte(data: Path) -> None:
    path = data / RELATION
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xfe")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def truncate(data: Path) -> None:
    os.truncate(data / RELATION, 8192)


def extend(data: Path) -> None:
    with (data / RELATION).open("ab") as file:
        file.write(bytes(8192))


def put_directory_in_place(data: Path) -> None:
    (data / RELATION).unlink()
    (data / RELATION / "deep").mkdir(parents=True)
    (data / RELATION / "deep" / "file").touch()


def put_link_in_place(data: Path) -> None:
    outside = data.parent / "outside"
    (data / RELATION).rename(outside)
    (data / RELATION).symlink_to(outside)


def put_fifo_in_place(data: Path) -> None:
    (data / RELATION).unlink()
    os.mkfifo(data / RELATION)


def give_a_second_name(data: Path) -> None:
    os.link(data / RELATION, data.parent / "outside")


@pytest.mark.parametrize(
    "change",
    [
        change_a_byte,
        truncate,
        extend,
        put_directory_in_place,
        put_link_in_place,
        put_fifo_in_place,
        give_a_second_name,
        lambda data: (data / RELATION).unlink(),
    ],
    ids=["byte", "truncated", "longer", "directory", "link", "fifo", "hard link", "missing"],
)
def test_a_file_that_differs_is_rewritten_and_only_that(
    cluster: ClusterRepository, made: Sample, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(tmp_path / "data")
    outside = tmp_path / "outside"
    before = outside.stat().st_ino if outside.exists() else None
    counts = delta(cluster, tmp_path / "data")
    assert found(tmp_path) == expected(made)
    assert not (tmp_path / "data" / RELATION).is_symlink()
    assert (tmp_path / "data" / RELATION).stat().st_nlink == 1
    assert counts.rewritten.files == 2
    assert (outside.stat().st_ino if outside.exists() else None) == before


def add_file(data: Path) -> None:
    (data / "base" / "1" / "99999").write_bytes(b"new")


def add_directory(data: Path) -> None:
    (data / "base" / "2" / "deep").mkdir(parents=True)
    (data / "base" / "2" / "deep" / "1").write_bytes(b"new")


def add_link_to_directory(data: Path) -> None:
    (data / "linked").symlink_to(data.parent / "precious")


def add_tablespace(data: Path) -> None:
    (data / "pg_tblspc" / "77777").symlink_to(data.parent / "precious")


def link_pg_wal(data: Path) -> None:
    (data / "pg_wal").rename(data.parent / "old_wal")
    (data / "pg_wal").symlink_to(data.parent / "precious")


def link_directory(data: Path) -> None:
    (data / "base").rename(data.parent / "old_base")
    (data / "base").symlink_to(data.parent / "precious")


def put_file_for_directory(data: Path) -> None:
    (data / "base" / "1").rename(data.parent / "old_base")
    (data / "base" / "1").touch()


def lead_tablespace_nowhere(data: Path) -> None:
    (data / "pg_tblspc" / "1").mkdir()


def add_wal(data: Path) -> None:
    (data / "pg_wal" / "0000000100000000000000FF").write_bytes(b"newer")


@pytest.mark.parametrize(
    "change",
    [
        add_file,
        add_directory,
        add_link_to_directory,
        add_tablespace,
        link_pg_wal,
        link_directory,
        put_file_for_directory,
        lead_tablespace_nowhere,
        add_wal,
    ],
)
def test_what_does_not_belong_is_removed_and_no_link_is_followed(
    cluster: ClusterRepository, made: Sample, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "precious" / "1").mkdir(parents=True)
    (tmp_path / "precious" / "1" / "file").write_bytes(b"here before")
    before = everything(tmp_path / "precious")
    fresh = {path for path in everything(tmp_path / "data") if "status" not in path}
    change(tmp_path / "data")
    delta(cluster, tmp_path / "data")
    assert found(tmp_path) == expected(made)
    assert {path for path in everything(tmp_path / "data") if "status" not in path} == fresh
    assert everything(tmp_path / "precious") == before


def test_directories_that_were_links_are_named(cluster: ClusterRepository, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    link_pg_wal(tmp_path / "data")
    assert delta(cluster, tmp_path / "data").unlinked == ("pg_wal",)
    assert delta(cluster, tmp_path / "data").unlinked == ()


def test_removed_files_are_counted(cluster: ClusterRepository, tmp_path: Path) -> None:
    add_file(tmp_path / "data")
    add_directory(tmp_path / "data")
    removed = delta(cluster, tmp_path / "data").removed
    assert (removed.files, removed.size) == (2, 6)


def test_other_things_in_a_tablespace_directory_are_left_alone(
    cluster: ClusterRepository, made: Sample, tmp_path: Path
) -> None:
    foreign = tmp_path / "space" / "PG_18_202506291" / "5"
    foreign.mkdir(parents=True)
    (foreign / "1").write_bytes(b"of another cluster")
    (tmp_path / "space" / VERSION / "5" / "2").write_bytes(b"new")
    delta(cluster, tmp_path / "data")
    assert tree(tmp_path / "space") == {
        f"{VERSION}/5/16401": b"row " * 4096,
        "PG_18_202506291/5/1": b"of another cluster",
    }


def test_a_plain_restore_after_a_failed_delta_spares_other_things_in_a_tablespace_directory(
    cluster: ClusterRepository, tmp_path: Path
) -> None:
    foreign = tmp_path / "space" / "PG_18_202506291" / "precious"
    foreign.parent.mkdir()
    foreign.touch()
    with pytest.raises(PgbackupError):
        delta(cluster, tmp_path / "data", filesystem=FailingFileSystem("sync", 1))
    with pytest.raises(Refused, match="not empty"):
        restore(cluster, tmp_path / "data")
    assert foreign.exists()
    assert unfinished(tmp_path / "data")
    delta(cluster, tmp_path / "data")


def test_a_tablespace_can_move_to_an_empty_directory(
    cluster: ClusterRepository, tmp_path: Path
) -> None:
    before = everything(tmp_path / "space")
    moved = (f"{tmp_path / 'space'}={tmp_path / 'new'}",)
    delta(cluster, tmp_path / "data", mappings=moved)
    link = tmp_path / "data" / "pg_tblspc" / str(OID)
    assert link.readlink() == tmp_path / "new"
    assert (link / VERSION / "5" / "16401").read_bytes() == b"row " * 4096
    assert everything(tmp_path / "space") == before


def test_files_in_place_of_a_tablespace_inside_are_kept(tmp_path: Path) -> None:
    made = sample(tablespace=f"pg_tblspc/{OID}")
    base = made.archives[None]
    base[:] = [member for member in base if member.name != f"pg_tblspc/{OID}"]
    base.insert(-3, directory(f"pg_tblspc/{OID}"))
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    counts = delta(cluster, tmp_path / "data")
    assert tree(tmp_path / "data") == expected(made)
    assert (counts.rewritten.files, counts.removed.files) == (1, 0)


def test_files_without_checksum_are_rewritten(tmp_path: Path) -> None:
    made = sample()
    made.algorithm = "NONE"
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    change_a_byte(tmp_path / "data")
    counts = delta(cluster, tmp_path / "data")
    assert tree(tmp_path / "data") == expected(made)
    assert counts.kept.files == 0


@pytest.mark.parametrize("padding", [0, 4], ids=["to the end", "padded"])
def test_files_that_end_in_their_own_checksum_are_rewritten(tmp_path: Path, padding: int) -> None:
    def mapped(content: bytes) -> bytes:
        return content + crc32c_bytes(crc32c(content)) + bytes(padding)

    assert crc32c(mapped(b"one")) == crc32c(mapped(b"two"))
    made = sample()
    made.archives[None].insert(6, Member("base/1/pg_filenode.map", mapped(b"one" * 100)))
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    (tmp_path / "data" / "base/1/pg_filenode.map").write_bytes(mapped(b"two" * 100))
    assert delta(cluster, tmp_path / "data").rewritten.files == 2
    assert tree(tmp_path / "data") == expected(made)


def test_names_that_are_not_utf8_are_compared_as_well(tmp_path: Path) -> None:
    made = sample()
    made.archives[None].insert(4, Member("base/caf\udce9", b"content"))
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    assert delta(cluster, tmp_path / "data").rewritten.files == 1
    assert tree(tmp_path / "data") == expected(made)


def test_only_frames_with_a_needed_member_are_read(tmp_path: Path) -> None:
    made = sample()
    contents = {f"base/1/{number}": os.urandom(1 << 20) for number in range(20000, 20040)}
    at = made.archives[None].index(Member("base/1/1259", bytes(range(256)) * 64))
    made.archives[None][at:at] = [Member(name, data) for name, data in contents.items()]
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    name = layout.backup_folder(SYSTEM, LABEL) + "base.tar.zst"
    data = bytearray(cluster.storage.read(name))
    data[20 << 20] ^= 1  # in the middle of what is kept
    rewrite(cluster.storage, name, bytes(data))
    (tmp_path / "data" / "base" / "1" / "20001").write_bytes(b"changed")
    assert delta(cluster, tmp_path / "data").rewritten.files == 2
    assert tree(tmp_path / "data") == expected(made)
    (tmp_path / "data" / "base" / "1" / "20019").write_bytes(b"changed")
    (tmp_path / "data" / "base" / "1" / "20020").write_bytes(b"changed")
    with pytest.raises(CorruptData):
        delta(cluster, tmp_path / "data")


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
def test_a_new_directory_is_filled_as_without_delta(tmp_path: Path, exists: bool) -> None:
    made = sample()
    if exists:
        (tmp_path / "data").mkdir()
    counts = delta(made.put(MemoryStorage()), tmp_path / "data")
    assert tree(tmp_path / "data") == expected(made)
    assert counts.kept.files == 0


def test_modes_that_permit_too_much_are_taken_back(
    cluster: ClusterRepository, tmp_path: Path
) -> None:
    (tmp_path / "data" / RELATION).chmod(0o666)
    (tmp_path / "data" / "base").chmod(0o777)
    delta(cluster, tmp_path / "data")
    assert (tmp_path / "data" / RELATION).stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "data" / "base").stat().st_mode & 0o7777 == 0o700


def test_recovery_settings_are_those_of_this_restore(
    cluster: ClusterRepository, tmp_path: Path
) -> None:
    recovery = Recovery(RecoveryTarget(TargetKind.END_OF_WAL), restore_command="cp /a/%f %p")
    delta(cluster, tmp_path / "data", recovery=recovery)
    text = (tmp_path / "data" / "postgresql.auto.conf").read_text()
    delta(cluster, tmp_path / "data", recovery=recovery)
    assert (tmp_path / "data" / "postgresql.auto.conf").read_text() == text
    assert text.count("\nrestore_command = 'cp /a/%f %p'\n") == 1
    assert (tmp_path / "data" / "recovery.signal").exists()
    delta(cluster, tmp_path / "data")
    assert not (tmp_path / "data" / "recovery.signal").exists()
    assert "restore_command" not in (tmp_path / "data" / "postgresql.auto.conf").read_text()


class TestRefusals:
    """A refusal changes nothing."""

    def refused(
        self, kind: type[PgbackupError], match: str, cluster: ClusterRepository, top: Path
    ) -> None:
        before = everything(top)
        with pytest.raises(kind, match=match):
            delta(cluster, top / "data")
        assert everything(top) == before

    def test_another_system(self, cluster: ClusterRepository, tmp_path: Path) -> None:
        (tmp_path / "data" / "global" / "pg_control").write_bytes(control_file(SYSTEM + 1))
        self.refused(WrongSystem, str(SYSTEM + 1), cluster, tmp_path)

    @pytest.mark.parametrize("content", [None, b"", bytes(8192)], ids=["none", "empty", "zeros"])
    def test_a_directory_that_is_no_data_directory(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        inside = tmp_path / "data" / "global"
        inside.mkdir(parents=True)
        (tmp_path / "data" / "precious").touch()
        if content is not None:
            (inside / "pg_control").write_bytes(content)
        self.refused(Refused, "of the same cluster", sample().put(MemoryStorage()), tmp_path)

    def test_a_control_file_behind_a_link(self, cluster: ClusterRepository, tmp_path: Path) -> None:
        (tmp_path / "data" / "global").rename(tmp_path / "global")
        (tmp_path / "data" / "global").symlink_to(tmp_path / "global")
        self.refused(Refused, "of the same cluster", cluster, tmp_path)

    def test_a_tablespace_directory_that_the_data_directory_does_not_link_to(
        self, cluster: ClusterRepository, tmp_path: Path
    ) -> None:
        link = tmp_path / "data" / "pg_tblspc" / str(OID)
        link.unlink()
        link.symlink_to(tmp_path / "elsewhere")
        self.refused(Refused, "not empty", cluster, tmp_path)

    def test_a_running_server(self, cluster: ClusterRepository, tmp_path: Path) -> None:
        data = tmp_path / "data"
        words = [sys.executable, "-c", "input()"]
        with subprocess.Popen(words, cwd=data, stdin=subprocess.PIPE) as server:
            (data / "postmaster.pid").write_text(f"{server.pid}\n{data}\n")
            self.refused(Refused, f"process id {server.pid} is running", cluster, tmp_path)
        delta(cluster, data)
        assert not (data / "postmaster.pid").exists()

    def test_a_server_that_starts_at_this_moment(
        self, cluster: ClusterRepository, tmp_path: Path
    ) -> None:
        data = tmp_path / "data"
        words = [sys.executable, "-c", "input()"]
        with subprocess.Popen(words, cwd=data, stdin=subprocess.PIPE) as server:

            class Starting(FileSystem):
                def rename(
                    self, existing: PathName, new: PathName, *, dir_fd: int | None = None
                ) -> None:
                    super().rename(existing, new, dir_fd=dir_fd)
                    (data / "postmaster.pid").write_text(f"{server.pid}\n{data}\n")

            with pytest.raises(Refused, match=f"process id {server.pid} is running"):
                delta(cluster, data, filesystem=Starting())
        assert (data / "global" / "pg_control").exists()
        assert not (data / "global" / "pg_control.pgbackup").exists()

    def test_what_a_killed_server_left_running(
        self, cluster: ClusterRepository, tmp_path: Path
    ) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        key = -(os.getpid() + 2**20)  # of a data directory with a large inode number
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        segment = libc.shmget(key, 4096, 0o1600)  # IPC_CREAT
        assert segment >= 0, os.strerror(ctypes.get_errno())
        attached = ctypes.c_void_p(libc.shmat(segment, None, 0))
        text = f"{ended.pid}\n\n\n\n\n\n{key % 2**64:9d} {segment:9d}\n"
        (tmp_path / "data" / "postmaster.pid").write_text(text)
        try:
            self.refused(Refused, "still running there", cluster, tmp_path)
            libc.shmdt(attached)
            delta(cluster, tmp_path / "data")
        finally:
            libc.shmctl(segment, 0, None)  # IPC_RMID

    @pytest.mark.parametrize("text", ["PID", "0", "", "9" * 30, "gibberish\n1"])
    def test_a_stale_lock_file_is_no_obstacle(
        self, cluster: ClusterRepository, tmp_path: Path, text: str
    ) -> None:
        text = text.replace("PID", str(os.getpid()))  # it works in another directory
        (tmp_path / "data" / "postmaster.pid").write_text(text)
        delta(cluster, tmp_path / "data")


@pytest.mark.parametrize(
    ("call", "number"),
    [("write", 1), ("open_new", 2), ("sync", 1), ("rename", 2)],
    ids=lambda value: str(value),
)
def test_a_failure_leaves_the_directory_unfinished_and_names_the_command(
    cluster: ClusterRepository, made: Sample, tmp_path: Path, call: str, number: int
) -> None:
    change_a_byte(tmp_path / "data")
    inode = (tmp_path / "data" / "base/1/2619").stat().st_ino
    with pytest.raises(PgbackupError, match="o space left on device") as caught:
        delta(cluster, tmp_path / "data", filesystem=FailingFileSystem(call, number))
    assert f"pgbackup restore {LABEL} --delta -D {tmp_path / 'data'}" in str(caught.value.hint)
    assert unfinished(tmp_path / "data")
    assert (tmp_path / "data" / "base/1/2619").stat().st_ino == inode
    delta(cluster, tmp_path / "data")
    assert found(tmp_path) == expected(made)


@pytest.mark.parametrize("again", [True, False], ids=["delta", "plain"])
@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("rename", 1),
        ("rename", 2),
        ("fsync_directory", 1),
        ("unlink", 1),
        ("open_new", 2),
        ("write", 3),
        ("sync_file_system", 1),
    ],
    ids=lambda value: str(value),
)
def test_a_killed_delta_can_be_run_again(
    tmp_path: Path, made: Sample, call: str, number: int, again: bool
) -> None:
    cluster = made.put(LocalStorage(tmp_path / "repo"))
    restore(cluster, tmp_path / "data")
    change_a_byte(tmp_path / "data")
    add_tablespace(tmp_path / "data")
    words = [str(tmp_path / "repo"), str(tmp_path / "data"), call, str(number), "delta"]
    child = subprocess.run([sys.executable, "-m", "tests.restore.killed", *words], check=False)
    assert child.returncode == -signal.SIGKILL
    if (call, number) == ("rename", 1):
        assert not unfinished(tmp_path / "data")
        again = True
    else:
        assert unfinished(tmp_path / "data")
    restore(cluster, tmp_path / "data", delta=again)
    assert found(tmp_path) == expected(made)
