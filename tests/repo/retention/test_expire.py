"""expire removes what the plan says, in an order that a kill cannot spoil, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pgbackup.backup.take import require_wal
from pgbackup.errors import CorruptData, Locked, UsageError, WalGap
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.repo import layout
from pgbackup.repo.inventory import read_inventory
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.repo.retention import expire as expire_module
from pgbackup.repo.retention.expire import plan_expire, run_expire
from pgbackup.repo.retention.policy import Policy
from pgbackup.repo.slots import Slot, put_slot
from pgbackup.storage.api import Lock, Storage
from pgbackup.storage.durable import FileSystem, PathName
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.cli.program import ROOT, environment
from tests.repo.retention.expiring import (
    KEEP_ONE,
    SEGMENTS,
    add_backup,
    day,
    label,
    make_cluster,
    segment,
)
from tests.repo.samples import MIB, SYSTEM

FIRST, SECOND, THIRD = (label(number) for number in range(3))


@pytest.fixture
def cluster(storage: Storage) -> ClusterRepository:
    """Three backups, a day and ten segments apart."""
    made = make_cluster(storage)
    for number in range(3):
        add_backup(made, number)
    return made


def labels(cluster: ClusterRepository) -> list[str]:
    return [each.label for each in cluster.catalog.list()]


def wal(cluster: ClusterRepository) -> list[int]:
    """Numbers of the segments that are there, on all timelines."""
    return [each.name.segment(MIB).number for each in cluster.archive.segments()]


def test_what_no_kept_backup_needs_goes(cluster: ClusterRepository) -> None:
    outcome = run_expire(cluster, KEEP_ONE, day(3))
    assert outcome.backups == (FIRST, SECOND)
    assert labels(cluster) == [THIRD]
    assert wal(cluster) == [*range(2 * SEGMENTS, 3 * SEGMENTS)]
    assert len(outcome.files) == 2 * SEGMENTS
    assert outcome.size == 2 * 200 + 2 * SEGMENTS * 10
    assert outcome.notes == ()
    folder = layout.backups_folder(SYSTEM)
    assert {each.name.split("/")[2] for each in cluster.storage.list(folder)} == {THIRD}
    again = run_expire(cluster, KEEP_ONE, day(3))
    assert (again.backups, again.files) == ((), ())


def test_a_plan_changes_nothing(cluster: ClusterRepository) -> None:
    before = list(cluster.storage.list())
    plan = plan_expire(cluster, KEEP_ONE, day(3))
    assert [each.label for each in plan.going_backups()] == [FIRST, SECOND]
    assert plan.going_size() == 2 * 200 + 2 * SEGMENTS * 10
    assert list(cluster.storage.list()) == before


def test_without_a_policy_nothing_is_done(cluster: ClusterRepository) -> None:
    before = list(cluster.storage.list())
    for do in (plan_expire, run_expire):
        with pytest.raises(UsageError, match="nothing says which") as caught:
            do(cluster, Policy(), day(3))
        assert "--keep-full" in str(caught.value.hint)
    assert list(cluster.storage.list()) == before


def test_a_pinned_backup_stays_alone_with_its_own_wal(cluster: ClusterRepository) -> None:
    cluster.catalog.pin(FIRST, "the audit", day(3))
    plan = run_expire(cluster, KEEP_ONE, day(3)).plan
    assert labels(cluster) == [FIRST, THIRD]
    assert wal(cluster) == [0, *range(2 * SEGMENTS, 3 * SEGMENTS)]
    assert [each.has_wal_after for each in plan.backups if each.stays] == [False, True]
    assert "pinned: the audit" in plan.backups[0].reasons
    assert cluster.catalog.alone() == {FIRST}
    assert read_inventory(cluster).gaps().holes == ()
    cluster.archive.delete(segment(0).name)
    (hole,) = read_inventory(cluster).gaps().holes
    assert str(hole) == segment(0).name


class Held(MemoryStorage):
    """A backup is held just when it is to be removed, and neither before nor after that."""

    def lock(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        if name == layout.backup_lock(SYSTEM, FIRST):
            raise Locked("it is being restored")
        return super().lock(name, owner)


def test_a_backup_that_could_not_be_removed_keeps_its_wal() -> None:
    cluster = make_cluster(Held())
    for number in range(3):
        add_backup(cluster, number)
    outcome = run_expire(cluster, KEEP_ONE, day(3))
    assert outcome.backups == (SECOND,)
    assert outcome.notes == ("it is being restored",)
    assert labels(cluster) == [FIRST, THIRD]
    assert wal(cluster) == [*range(3 * SEGMENTS)]


def test_wal_that_a_slot_holds_stays(cluster: ClusterRepository) -> None:
    """RC-21: what a slot holds survives, its backup need not."""
    put_slot(cluster, Slot("far", False, WalPosition(Timeline(1), Lsn(15 * MIB + 77))))
    put_slot(cluster, Slot("idle", False, None))
    put_slot(cluster, Slot("dead", True, WalPosition(Timeline(1), Lsn(MIB))))
    plan = run_expire(cluster, KEEP_ONE, day(3)).plan
    assert labels(cluster) == [THIRD]
    assert wal(cluster) == [*range(15, 3 * SEGMENTS)]
    assert "slot far holds it" in [each.reason for each in plan.wal]


def test_a_temporary_slot_holds_wal_while_its_owner_lives(cluster: ClusterRepository) -> None:
    position = WalPosition(Timeline(1), Lsn(15 * MIB))
    with cluster.storage.lock(layout.slot_lock(SYSTEM, "short")):
        put_slot(cluster, Slot("short", True, position))
        run_expire(cluster, KEEP_ONE, day(3))
    assert wal(cluster) == [*range(15, 3 * SEGMENTS)]
    run_expire(cluster, KEEP_ONE, day(3))
    assert wal(cluster) == [*range(2 * SEGMENTS, 3 * SEGMENTS)]


class NewSlot(FileSystem):
    """Makes a slot, or moves it back, when the first WAL of a cluster is removed."""

    def __init__(self) -> None:
        self.cluster: ClusterRepository | None = None

    def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
        if self.cluster is not None and os.fspath(path).startswith("0000"):
            put_slot(self.cluster, Slot("back", False, WalPosition(Timeline(1), Lsn(15 * MIB))))
        super().unlink(path, dir_fd=dir_fd)


@pytest.mark.parametrize("before", [None, 25], ids=["new", "moved back"])
def test_a_slot_that_begins_meanwhile_ends_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None
) -> None:
    monkeypatch.setattr(expire_module, "WAL_BATCH", 3)
    filesystem = NewSlot()
    cluster = make_cluster(LocalStorage(tmp_path / "repo", filesystem=filesystem))
    for number in range(3):
        add_backup(cluster, number)
    if before is not None:
        put_slot(cluster, Slot("back", False, WalPosition(Timeline(1), Lsn(before * MIB))))
    filesystem.cluster = cluster
    outcome = run_expire(cluster, KEEP_ONE, day(3))
    assert wal(cluster) == [*range(3, 3 * SEGMENTS)]
    assert "a slot has begun" in outcome.notes[0]


@pytest.mark.parametrize("document", [b"x", b'{"format": 2}', b'{"format": 1, "restart_lsn": 1}'])
def test_nothing_goes_while_a_slot_cannot_be_read(
    cluster: ClusterRepository, document: bytes
) -> None:
    cluster.storage.create(layout.slot_object(SYSTEM, "own"), document)
    with pytest.raises(CorruptData, match=r"slots/own\.json"):
        run_expire(cluster, KEEP_ONE, day(3))
    assert len(labels(cluster)) == 3


def test_a_backup_that_is_restored_stays_with_its_wal(cluster: ClusterRepository) -> None:
    with cluster.catalog.reading(SECOND, "restore"):
        run_expire(cluster, KEEP_ONE, day(3))
        assert labels(cluster) == [SECOND, THIRD]
        assert wal(cluster) == [*range(SEGMENTS, 3 * SEGMENTS)]
    run_expire(cluster, KEEP_ONE, day(3))
    assert labels(cluster) == [THIRD]


def test_a_running_backup_keeps_what_it_may_read(cluster: ClusterRepository) -> None:
    with cluster.catalog.begin("full", day(4)) as running:
        cluster.storage.create(layout.backup_folder(SYSTEM, running) + "base.tar.zst", b"x")
        run_expire(cluster, KEEP_ONE, day(4))
        assert running in cluster.catalog.under_way()
        assert cluster.storage.exists(layout.backup_folder(SYSTEM, running) + "base.tar.zst")
    run_expire(cluster, KEEP_ONE, day(4))
    assert list(cluster.catalog.labels()) == [THIRD]


def test_a_second_run_is_told_to_wait(cluster: ClusterRepository) -> None:
    with (
        cluster.storage.lock(layout.expire_lock(SYSTEM), {"command": "expire"}),
        pytest.raises(Locked, match=r"\(expire\)"),
    ):
        run_expire(cluster, KEEP_ONE, day(3))
    assert labels(cluster) == [FIRST, SECOND, THIRD]


def test_a_damaged_record_keeps_its_backup_and_all_wal_since(cluster: ClusterRepository) -> None:
    damaged = "20200101T000000F"  # all WAL came later
    cluster.storage.create(layout.record_object(SYSTEM, damaged), b"damaged")
    outcome = run_expire(cluster, KEEP_ONE, day(3))
    assert outcome.backups == (FIRST, SECOND)
    assert [each.label for each in cluster.catalog.damaged()] == [damaged]
    assert wal(cluster) == [*range(3 * SEGMENTS)]
    (note,) = outcome.notes
    assert damaged in note
    assert "cannot be read" in note


@pytest.mark.parametrize(
    "name",
    [
        "wal/README",
        "wal/00000001000000000000ABCD.zst",
        "wal/000000010000000000000001.zst.gz",
        "wal/000000000000000000000001",
        "backups/notes/x",
    ],
)
def test_what_nobody_knows_stays_and_is_reported(cluster: ClusterRepository, name: str) -> None:
    unknown = layout.system_folder(SYSTEM) + name
    cluster.storage.create(unknown, b"x")
    outcome = run_expire(cluster, KEEP_ONE, day(3))
    assert cluster.storage.exists(unknown)
    assert any(unknown in note for note in outcome.notes)
    assert labels(cluster) == [THIRD]


def test_the_receivers_unfinished_segment_stays_and_older_ones_go(
    cluster: ClusterRepository,
) -> None:
    """AC-01: as pg_archivecleanup, which also takes old partial and backup history files."""
    names = {at: layout.wal_folder(SYSTEM) + f"{segment(at)}.partial" for at in (3, 25, 30)}
    history = layout.wal_folder(SYSTEM) + f"{segment(3)}.00000028.backup"
    for name in (*names.values(), history):
        cluster.storage.create(name, b"x")
    run_expire(cluster, KEEP_ONE, day(3))
    assert [at for at, name in names.items() if cluster.storage.exists(name)] == [25, 30]
    assert not cluster.storage.exists(history)


def test_histories_stay_without_a_hole_above_the_oldest_timeline(
    cluster: ClusterRepository,
) -> None:
    archive = cluster.archive
    fork = f"1\t{Lsn(25 * MIB)}\tno recovery target\n".encode()
    archive.put_history(Timeline(2), b"1\t0/1000\tno recovery target\n")
    archive.put_history(Timeline(3), fork)
    run_expire(cluster, KEEP_ONE, day(3))
    assert archive.find("00000002.history") is not None, "servers count from 1 until one is missing"
    archive.put_history(Timeline(4), fork + f"3\t{Lsn(30 * MIB)}\tpromoted\n".encode())
    add_backup(cluster, 3, 4)
    run_expire(cluster, KEEP_ONE, day(4))
    assert labels(cluster) == [label(3)]
    kept = [timeline for timeline in (2, 3, 4) if archive.find(Timeline(timeline).history_name)]
    assert kept == [3, 4]


@pytest.mark.parametrize(
    ("history", "state"), [(b"", "is missing"), (b"two\t0/1\n", "cannot be read")]
)
def test_a_timeline_without_history_stays_whole(
    cluster: ClusterRepository, history: bytes, state: str
) -> None:
    if history:
        cluster.archive.put_history(Timeline(7), history)
    for at in (1, 2):
        name = layout.segment_object(SYSTEM, segment(at, 7).name, compressed=False)
        cluster.storage.create(name, b"x")
    outcome = run_expire(cluster, KEEP_ONE, day(3))
    assert [f.number for f in outcome.files] == [*range(2 * SEGMENTS)]
    assert any(f"timeline 7: its history {state}" in note for note in outcome.notes)
    assert (cluster.archive.find("00000007.history") is not None) is bool(history)


class MeanwhileFileSystem(FileSystem):
    """Something happens when the first segment goes."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens
        self._has_happened = False

    def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
        super().unlink(path, dir_fd=dir_fd)
        if str(path).startswith("0000") and not self._has_happened:
            self._has_happened = True
            self._happens()


def test_a_backup_that_begins_meanwhile_stops_the_removal_of_wal(tmp_path: Path) -> None:
    for number in range(9):
        add_backup(make_cluster(LocalStorage(tmp_path)), number)
    began = tmp_path / layout.backup_folder(SYSTEM, label(9))
    storage = LocalStorage(tmp_path, filesystem=MeanwhileFileSystem(began.mkdir))
    outcome = run_expire(Repository.open(storage).cluster(SYSTEM), KEEP_ONE, day(10))
    assert len(outcome.files) == 64
    assert any("a backup has begun" in note for note in outcome.notes)


def test_a_backup_that_ends_meanwhile_stops_the_removal_of_wal(tmp_path: Path) -> None:
    """One of a standby may begin before all that had to be kept for it."""
    other = make_cluster(LocalStorage(tmp_path))
    for number in range(9):
        add_backup(other, number)
    ending = replace(other.catalog.get(label(8)), label=label(9))
    filesystem = MeanwhileFileSystem(lambda: other.catalog.put(ending))
    storage = LocalStorage(tmp_path, filesystem=filesystem)
    with other.storage.lock(layout.backup_lock(SYSTEM, label(9))):
        outcome = run_expire(Repository.open(storage).cluster(SYSTEM), KEEP_ONE, day(10))
    assert len(outcome.files) == 64
    assert any("a backup has ended" in note for note in outcome.notes)


@pytest.mark.slow
def test_a_kill_at_each_step_leaves_whole_backups_and_the_rest_for_the_next_run(
    tmp_path: Path,
) -> None:
    origin = tmp_path / "origin"
    cluster = make_cluster(LocalStorage(origin))
    for number in range(3):
        add_backup(cluster, number)
    run_expire(cluster_in(shutil.copytree(origin, tmp_path / "whole")), KEEP_ONE, day(3))
    expected = objects(tmp_path / "whole")
    killed = 0
    for number in range(1, 200):
        repo = shutil.copytree(origin, tmp_path / "killed")
        done = subprocess.run(
            [sys.executable, "-m", "tests.repo.retention.expiring", repo, str(number)],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        left = cluster_in(repo)
        assert not left.catalog.damaged()
        numbers = wal(left)
        assert numbers == [*range(numbers[0], 3 * SEGMENTS)], "no hole"
        for each in left.catalog.list():
            assert not left.archive.missing(each.wal, MIB)
            folder = layout.backup_folder(SYSTEM, each.label)
            assert all(left.storage.exists(folder + one.name) for one in each.archives)
        run_expire(left, KEEP_ONE, day(3))
        assert objects(repo) == expected
        shutil.rmtree(repo)
    assert killed >= 2 * 3 + 2 * SEGMENTS


def cluster_in(repo: Path) -> ClusterRepository:
    return Repository.open(LocalStorage(repo)).cluster(SYSTEM)


def objects(repo: Path) -> list[str]:
    """Every file, hidden ones included."""
    return sorted(str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file())


def test_a_backup_whose_wal_was_removed_meanwhile_is_not_finished(
    cluster: ClusterRepository,
) -> None:
    done = cluster.catalog.get(SECOND)
    require_wal(cluster, done)
    cluster.archive.delete(done.wal[0].first)
    with pytest.raises(WalGap, match=f'"{done.wal[0].first}" was removed from the archive'):
        require_wal(cluster, done)
