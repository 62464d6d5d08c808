"""A restored directory is the backup, or it is not there."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, Locked, PgbackupError, Refused, WalGap, WrongSystem
from pgbackup.pg.lsn import Timeline
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.plan import plan_restore
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.restore.run import RestoreOutcome, run_restore
from pgbackup.restore.settings import Recovery
from pgbackup.storage.durable import FileSystem, PathName
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.progress import SilentMeter
from tests.backup.sample import (
    LABEL,
    OID,
    SYSTEM,
    Member,
    Sample,
    directory,
    files_of,
    rewrite,
    sample,
    symlink,
)
from tests.backup.wal import MIB, sample_wal


def restore(
    cluster: ClusterRepository,
    target: Path,
    *,
    mappings: tuple[str, ...] = (),
    jobs: int = 2,
    filesystem: FileSystem | None = None,
    **options: object,
) -> RestoreOutcome:
    record = cluster.catalog.get(LABEL)
    plan = plan_restore(record, str(target), mappings, **options)  # type: ignore[arg-type]
    return run_restore(plan, cluster, jobs=jobs, meter=SilentMeter(), filesystem=filesystem)


def tree(top: Path) -> dict[str, bytes]:
    """Every file below a directory, not following links."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def expected(made: Sample) -> dict[str, bytes]:
    files = files_of(made.archives)
    files["backup_manifest"] = made.manifest()
    for segment, data in made.segments.items():
        files[f"pg_wal/{segment.name}"] = data
        files[f"pg_wal/archive_status/{segment.name}.done"] = b""
    return files


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
@pytest.mark.parametrize("algorithm", ["CRC32C", "SHA256", "NONE"])
def test_a_restored_directory_has_the_files_of_the_backup_and_its_wal(
    tmp_path: Path, compressed: bool, algorithm: str
) -> None:
    made = sample()
    made.compressed, made.algorithm = compressed, algorithm
    outcome = restore(made.put(MemoryStorage()), tmp_path / "a" / "data")
    assert tree(tmp_path / "a" / "data") == expected(made)
    assert (outcome.files, outcome.wal_files) == (len(files_of(made.archives)), 2)


def test_an_empty_directory_is_used_as_it_is(tmp_path: Path) -> None:
    made = sample()
    target = tmp_path / "data"
    target.mkdir()
    inode = target.stat().st_ino
    restore(made.put(MemoryStorage()), target)
    assert tree(target) == expected(made)
    assert target.stat().st_ino == inode


@pytest.mark.parametrize("mode", [0o700, 0o750], ids=oct)
def test_modes_are_the_owners_and_the_groups_only_if_the_cluster_lets_it(
    tmp_path: Path, mode: int
) -> None:
    made = sample(tablespace=str(tmp_path / "space"))
    made.archives[None].insert(3, Member("server.key", b"k", mode=0o600))
    made.archives[None].insert(3, Member("script", b"#", mode=0o4777))
    made.archives[None].insert(3, Member("readable", b"r", mode=0o640))
    made.changes["data_directory_mode"] = mode
    umask = os.umask(0o077)
    try:
        restore(made.put(MemoryStorage()), tmp_path / "data")
    finally:
        os.umask(umask)
    found = {
        path.name: stat.S_IMODE(path.lstat().st_mode)
        for top in ("data", "space")
        for path in [tmp_path / top, *(tmp_path / top).rglob("*")]
        if not path.is_symlink()
    }
    shared = mode & 0o640
    assert {found[name] for name in ("data", "base", "1", "pg_wal", "space", "5")} == {mode}
    assert found["server.key"] == 0o600
    assert {found[name] for name in ("script", "readable", "backup_manifest")} == {shared}
    assert found["pg_control"] == shared


def test_a_tablespace_goes_to_its_place_and_is_linked(tmp_path: Path) -> None:
    made = sample(tablespace=str(tmp_path / "space"))
    restore(made.put(MemoryStorage()), tmp_path / "data")
    link = tmp_path / "data" / "pg_tblspc" / str(OID)
    assert link.readlink() == tmp_path / "space"
    assert (link / "PG_15_202209061" / "5" / "16401").read_bytes() == b"row " * 4096


def test_the_link_of_a_tablespace_that_came_during_the_backup_is_left_to_recovery(
    tmp_path: Path,
) -> None:
    made = sample(tablespace=str(tmp_path / "space"))
    members = made.archives[None]
    members.insert(len(members) - 1, symlink("pg_tblspc/777", str(tmp_path / "newer")))
    cluster = made.put(MemoryStorage())
    restore(cluster, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data" / "pg_tblspc").iterdir()] == [str(OID)]
    assert not (tmp_path / "newer").exists()


def test_a_mapped_tablespace_goes_to_its_new_place(tmp_path: Path) -> None:
    made = sample(tablespace="/nowhere/old")
    new = tmp_path / "new" / "space"
    restore(made.put(MemoryStorage()), tmp_path / "data", mappings=(f"/nowhere/old/={new}",))
    assert (tmp_path / "data" / "pg_tblspc" / str(OID)).readlink() == new
    assert (new / "PG_15_202209061" / "5" / "16401").exists()


def test_an_in_place_tablespace_stays_within_the_data_directory(tmp_path: Path) -> None:
    made = sample(tablespace=f"pg_tblspc/{OID}")
    base = made.archives[None]
    base[:] = [member for member in base if member.name != f"pg_tblspc/{OID}"]
    base.insert(-3, directory(f"pg_tblspc/{OID}"))
    restore(made.put(MemoryStorage()), tmp_path / "data")
    space = tmp_path / "data" / "pg_tblspc" / str(OID)
    assert not space.is_symlink()
    assert (space / "PG_15_202209061" / "5" / "16401").read_bytes() == b"row " * 4096


def test_what_belongs_to_the_server_as_it_was_is_left_out(tmp_path: Path) -> None:
    made = sample()
    left_out = ("standby.signal", "recovery.signal", "postmaster.pid", "tablespace_map")
    made.archives[None][3:3] = [Member(name, b"1") for name in left_out]
    restore(made.put(MemoryStorage()), tmp_path / "data")
    assert not {path.name for path in (tmp_path / "data").iterdir()} & set(left_out)


def test_standby_signal_is_kept_when_that_is_asked_for(tmp_path: Path) -> None:
    made = sample()
    made.archives[None].insert(3, Member("standby.signal"))
    restore(
        made.put(MemoryStorage()), tmp_path / "data", recovery=Recovery(keep_standby_signal=True)
    )
    assert (tmp_path / "data" / "standby.signal").exists()


def test_a_restore_command_is_added_to_the_settings(tmp_path: Path) -> None:
    made = sample()
    command = r"""pgbackup wal-get -B '/r' %f "%p" \x"""
    recovery = Recovery(RecoveryTarget(TargetKind.END_OF_WAL), restore_command=command)
    restore(made.put(MemoryStorage()), tmp_path / "data", recovery=recovery)
    text = (tmp_path / "data" / "postgresql.auto.conf").read_text()
    assert text.startswith("# Do not edit this file manually!\n")
    assert r"""restore_command = 'pgbackup wal-get -B ''/r'' %f "%p" \\x'""" in text.splitlines()
    assert "recovery_target_time = ''" in text.splitlines()
    assert (tmp_path / "data" / "recovery.signal").read_bytes() == b""


def test_the_beginning_of_a_segment_becomes_a_whole_one(tmp_path: Path) -> None:
    made = sample()
    last = list(made.segments)[-1]
    content = made.segments.pop(last)
    cut = made.stop - last.start
    made.tail = (f"{last.name}.partial", content[:cut])
    restore(made.put(MemoryStorage()), tmp_path / "data")
    placed = tmp_path / "data" / "pg_wal" / last.name
    assert placed.read_bytes() == content[:cut].ljust(MIB, b"\0")
    assert not (tmp_path / "data" / "pg_wal" / "archive_status" / f"{last.name}.done").exists()


def test_history_files_are_placed(tmp_path: Path) -> None:
    made = sample()
    text = b"1\t0/1000000\tno recovery target specified\n"
    made.histories[Timeline(2).history_name] = text
    restore(made.put(MemoryStorage()), tmp_path / "data")
    assert (tmp_path / "data" / "pg_wal" / "00000002.history").read_bytes() == text


class TestRefusals:
    """Nothing is left behind by a restore that fails."""

    def fails(
        self,
        kind: type[PgbackupError],
        match: str,
        cluster: ClusterRepository,
        target: Path,
        **options: object,
    ) -> None:
        before = sorted(target.parent.rglob("*"))
        with pytest.raises(kind, match=match):
            restore(cluster, target, **options)  # type: ignore[arg-type]
        assert sorted(target.parent.rglob("*")) == before

    @pytest.mark.parametrize("existing", [True, False], ids=["empty", "missing"])
    def test_damage_is_found_while_writing(self, tmp_path: Path, existing: bool) -> None:
        storage = MemoryStorage()
        cluster = sample().put(storage)
        name = layout.backup_folder(SYSTEM, LABEL) + "base.tar.zst"
        data = bytearray(storage.read(name))
        data[len(data) // 2] ^= 1
        rewrite(storage, name, bytes(data))
        if existing:
            (tmp_path / "data").mkdir()
        self.fails(CorruptData, "could not decode archive", cluster, tmp_path / "data")

    def test_a_file_with_another_checksum(self, tmp_path: Path) -> None:
        made = sample()
        text = made.manifest()
        changed = made.archives[None][6]
        made.archives[None][6] = Member(changed.name, changed.content[::-1])
        made.manifest = lambda: text  # type: ignore[method-assign]
        cluster = made.put(MemoryStorage())
        self.fails(CorruptData, 'restore file "base/1/1259"', cluster, tmp_path / "data")

    def test_a_directory_that_is_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "precious").write_text("here before")
        self.fails(Refused, "not empty", sample().put(MemoryStorage()), tmp_path / "data")
        assert (tmp_path / "data" / "precious").read_text() == "here before"

    def test_a_tablespace_directory_that_is_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "space" / "PG_15_202209061").mkdir(parents=True)
        cluster = sample(tablespace=str(tmp_path / "space")).put(MemoryStorage())
        self.fails(Refused, "not empty", cluster, tmp_path / "data")

    def test_a_finished_data_directory(self, tmp_path: Path) -> None:
        cluster = sample().put(MemoryStorage())
        restore(cluster, tmp_path / "data")
        self.fails(Refused, "not empty", cluster, tmp_path / "data")

    def test_a_data_directory_with_what_only_looks_unfinished(self, tmp_path: Path) -> None:
        cluster = sample().put(MemoryStorage())
        restore(cluster, tmp_path / "data")
        (tmp_path / "data" / "global" / "pg_control.pgbackup").touch()
        self.fails(Refused, "not empty", cluster, tmp_path / "data")

    def test_missing_wal(self, tmp_path: Path) -> None:
        made = sample()
        cluster = made.put(MemoryStorage())
        cluster.archive.delete(next(iter(made.segments)).name)
        self.fails(WalGap, "is not in the archive", cluster, tmp_path / "data")

    def test_wal_of_another_system(self, tmp_path: Path) -> None:
        made = sample()
        made.segments = sample_wal(SYSTEM + 1)[0]
        cluster = made.put(MemoryStorage())
        self.fails(WrongSystem, f"of system {SYSTEM + 1}", cluster, tmp_path / "data")

    @pytest.mark.parametrize("change", [b"!", b""], ids=["changed", "shorter"])
    def test_a_damaged_beginning_of_a_segment(self, tmp_path: Path, change: bytes) -> None:
        made = sample()
        last = list(made.segments)[-1]
        content = made.segments.pop(last)[: made.stop - last.start]
        made.tail = (f"{last.name}.partial", content)
        cluster = made.put(MemoryStorage())
        name = layout.backup_folder(SYSTEM, LABEL) + made.tail[0]
        rewrite(cluster.storage, name, content[:-1] + change)
        self.fails(CorruptData, "not what was stored", cluster, tmp_path / "data")

    def test_the_manifest_of_another_system(self, tmp_path: Path) -> None:
        made = sample()
        made.major, made.system = 17, SYSTEM + 1
        cluster = made.put(MemoryStorage())
        self.fails(WrongSystem, f"manifest is of system {SYSTEM + 1}", cluster, tmp_path / "data")

    def test_a_changed_history_file(self, tmp_path: Path) -> None:
        made = sample()
        made.histories["00000002.history"] = b"1\t0/1000000\tno recovery target specified\n"
        cluster = made.put(MemoryStorage())
        name = cluster.archive.find("00000002.history")
        assert name is not None
        rewrite(cluster.storage, name, b"1\t0/1000000\tno recovery target specifies\n")
        self.fails(CorruptData, "00000002.history", cluster, tmp_path / "data")

    def test_wal_of_the_wrong_size(self, tmp_path: Path) -> None:
        made = sample()
        first = next(iter(made.segments))
        made.level = None
        cluster = made.put(MemoryStorage())
        name = cluster.archive.find(first.name)
        assert name is not None
        rewrite(cluster.storage, name, made.segments[first][:-8192])
        self.fails(CorruptData, first.name, cluster, tmp_path / "data")

    def test_a_backup_without_label(self, tmp_path: Path) -> None:
        made = sample()
        del made.archives[None][0]
        cluster = made.put(MemoryStorage())
        self.fails(CorruptData, '"backup_label"', cluster, tmp_path / "data")

    def test_a_running_restore_of_the_same_directory(self, tmp_path: Path) -> None:
        cluster = sample().put(MemoryStorage())
        seen: list[type[PgbackupError]] = []

        class Meddler(SilentMeter):
            def advance(self, length: int) -> None:
                if not seen:
                    seen.append(Locked)
                    with pytest.raises(Locked):
                        restore(cluster, tmp_path / "data")

        plan = plan_restore(cluster.catalog.get(LABEL), str(tmp_path / "data"))
        run_restore(plan, cluster, jobs=1, meter=Meddler())
        assert seen
        assert (tmp_path / "data" / "global" / "pg_control").exists()

    def test_directories_made_on_the_way_are_removed_too(self, tmp_path: Path) -> None:
        made = sample(tablespace=str(tmp_path / "deep" / "er" / "space"))
        cluster = made.put(MemoryStorage())
        name = layout.backup_folder(SYSTEM, LABEL) + "base.tar.zst"
        data = cluster.storage.read(name)
        rewrite(cluster.storage, name, data[:5000] + b"\x01" + data[5001:])
        with pytest.raises(CorruptData):
            restore(cluster, tmp_path / "a" / "b" / "data")
        assert list(tmp_path.iterdir()) == []


class SyncedFileSystem(FileSystem):
    """Notes what is made durable, in order, and when pg_control gets its name."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.devices: set[int] = set()

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.calls.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

    def sync_file_system(self, fd: int) -> None:
        super().sync_file_system(fd)
        self.devices.add(os.fstat(fd).st_dev)

    def rename(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        super().rename(existing, new, dir_fd=dir_fd)
        self.calls.append("rename")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than the others, where there are two."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as path:
        yield Path(path)


def test_all_file_systems_are_synced_and_then_the_name_of_pg_control(
    tmp_path: Path, elsewhere: Path
) -> None:
    made = sample(tablespace=str(elsewhere / "space"))
    filesystem = SyncedFileSystem()
    restore(made.put(MemoryStorage()), tmp_path / "data", filesystem=filesystem)
    assert filesystem.devices == {path.stat().st_dev for path in (tmp_path, elsewhere)}
    assert filesystem.calls[-2:] == ["rename", str(tmp_path / "data" / "global")]


@pytest.mark.parametrize("is_delta", [False, True], ids=["plain", "delta"])
def test_where_the_kernel_does_not_tell_of_failures_everything_is_synced_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_delta: bool
) -> None:
    for module in ("run", "target"):
        monkeypatch.setattr(f"pgbackup.restore.{module}.syncfs_reports_errors", lambda: False)
    made = sample(tablespace=str(tmp_path / "space"))
    cluster = made.put(MemoryStorage())
    if is_delta:
        restore(cluster, tmp_path / "data")
    filesystem = SyncedFileSystem()
    restore(cluster, tmp_path / "data", filesystem=filesystem, delta=is_delta)
    assert not filesystem.devices
    named = len(filesystem.calls) - filesystem.calls[::-1].index("rename")
    before = set(filesystem.calls[: named - 1])
    everything = {
        str(path)
        for top in ("data", "space")
        for path in (tmp_path / top, *(tmp_path / top).rglob("*"))
        if not path.is_symlink()
    }
    control = str(tmp_path / "data" / "global" / "pg_control")
    assert everything - before == {control}
    assert f"{control}.pgbackup" in before
    assert filesystem.calls[named:] == [str(tmp_path / "data" / "global")]


class FailingFileSystem(FileSystem):
    """A disk whose n-th call of a kind fails."""

    def __init__(self, call: str, number: int) -> None:
        self._call, self._left = call, number

    def _count(self, call: str) -> None:
        if call == self._call:
            self._left -= 1
            if self._left == 0:
                raise OSError(28, "No space left on device")

    def write(self, fd: int, view: memoryview) -> int:
        self._count("write")
        return super().write(fd, view)

    def open_new(self, *arguments: object, **options: object) -> int:
        self._count("open_new")
        return super().open_new(*arguments, **options)  # type: ignore[arg-type]

    def sync_file_system(self, fd: int) -> None:
        self._count("sync")
        super().sync_file_system(fd)

    def rename(self, *arguments: object, **options: object) -> None:
        self._count("rename")
        super().rename(*arguments, **options)  # type: ignore[arg-type]

    def close(self, fd: int) -> None:
        super().close(fd)
        self._count("close")


@pytest.mark.parametrize(
    ("call", "number"),
    [("write", 1), ("write", 7), ("open_new", 1), ("open_new", 9), ("sync", 1), ("rename", 1),
     ("close", 3)],
    ids=lambda value: str(value),
)  # fmt: skip
def test_a_failing_disk_leaves_nothing(tmp_path: Path, call: str, number: int) -> None:
    cluster = sample(tablespace=str(tmp_path / "space")).put(MemoryStorage())
    with pytest.raises(PgbackupError, match="o space left on device"):
        restore(cluster, tmp_path / "data", filesystem=FailingFileSystem(call, number))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "number"),
    [
        *(("open_new", number) for number in (1, 2, 4, 8, 15)),
        ("make_directory", 1),
        ("make_directory", 2),
        ("write", 5),
        ("sync_file_system", 1),
        ("rename", 1),
    ],
    ids=lambda value: str(value),
)
def test_a_killed_restore_can_be_run_again(tmp_path: Path, call: str, number: int) -> None:
    made = sample(tablespace=str(tmp_path / "space"))
    cluster = made.put(LocalStorage(tmp_path / "repo"))
    words = [str(tmp_path / "repo"), str(tmp_path / "data"), call, str(number)]
    child = subprocess.run([sys.executable, "-m", "tests.restore.killed", *words], check=False)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "data" / "global" / "pg_control").exists()
    restore(cluster, tmp_path / "data")
    found = tree(tmp_path / "data") | {
        f"pg_tblspc/{OID}/{name}": data for name, data in tree(tmp_path / "space").items()
    }
    assert found == expected(made)


def test_leftovers_in_a_tablespace_directory_of_another_restore_are_kept(tmp_path: Path) -> None:
    made = sample(tablespace="/nowhere")
    cluster = made.put(LocalStorage(tmp_path / "repo"))
    unfinished = tmp_path / "data"
    (unfinished / "global").mkdir(parents=True)
    (unfinished / "global" / "pg_control.pgbackup").touch()
    (unfinished / "pg_tblspc").mkdir()
    (unfinished / "pg_tblspc" / str(OID)).symlink_to(tmp_path / "other")
    precious = tmp_path / "space" / "PG_15_202209061" / "precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    with pytest.raises(Refused, match="not empty"):
        restore(cluster, unfinished, mappings=(f"/nowhere={tmp_path / 'space'}",))
    assert precious.exists()
