"""A backup exists when its record does, whatever was interrupted."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pgbackup.errors import Conflict, Locked, NotFound, StorageError, UsageError
from pgbackup.repo import layout
from pgbackup.repo.catalog import Catalog
from pgbackup.repo.record import encode_record
from pgbackup.storage.api import Lock, Storage
from pgbackup.storage.durable import FileSystem, PathName
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.repo.samples import NOON, SYSTEM, record

FIRST, SECOND, THIRD = "20261122T120000F", "20261122T130000I", "20261123T120000F"


@pytest.fixture
def catalog(storage: Storage) -> Catalog:
    return Catalog(storage, SYSTEM)


def fill(storage: Storage, label: str) -> None:
    """Store a backup's objects, but no record."""
    for name in ["base.tar.zst", "base.index", layout.MANIFEST]:
        storage.create(layout.backup_folder(SYSTEM, label) + name, b"x")


def add(storage: Storage, label: str) -> None:
    fill(storage, label)
    Catalog(storage, SYSTEM).put(record(label))


def objects(storage: Storage) -> list[str]:
    return [found.name for found in storage.list()]


def test_an_empty_catalogue_lists_nothing(catalog: Catalog) -> None:
    assert list(catalog.list()) == []
    assert list(catalog.damaged()) == []
    assert list(catalog.unfinished()) == []
    assert list(catalog.clean_unfinished()) == []


def test_backups_are_listed_oldest_first(storage: Storage, catalog: Catalog) -> None:
    for label in [THIRD, FIRST, SECOND]:
        add(storage, label)
    assert [each.label for each in catalog.list()] == [FIRST, SECOND, THIRD]
    assert catalog.get(SECOND) == record(SECOND)
    assert catalog.get("latest").label == THIRD
    assert catalog.get("oldest").label == FIRST


def test_a_folder_without_record_is_no_backup(storage: Storage, catalog: Catalog) -> None:
    add(storage, FIRST)
    fill(storage, SECOND)
    assert [each.label for each in catalog.list()] == [FIRST]
    assert catalog.get("latest").label == FIRST
    with pytest.raises(NotFound):
        catalog.get(SECOND)
    assert list(catalog.unfinished()) == [SECOND]


@pytest.mark.parametrize("label", ["latest", "oldest", FIRST])
def test_a_backup_that_is_not_there_is_not_found(catalog: Catalog, label: str) -> None:
    with pytest.raises(NotFound, match=f'could not find backup "{label}"') as caught:
        catalog.get(label)
    assert "pgbackup" in str(caught.value.hint)


def test_what_is_no_label_is_a_usage_error(catalog: Catalog) -> None:
    for text in ["newest", "../x", ""]:
        with pytest.raises(UsageError, match="could not use backup label"):
            catalog.get(text)
        with pytest.raises((UsageError, NotFound)):
            catalog.remove(text)


def test_other_clusters_are_not_seen(storage: Storage, catalog: Catalog) -> None:
    add(storage, FIRST)
    assert list(Catalog(storage, SYSTEM + 1).list()) == []


def test_a_record_is_put_once(storage: Storage, catalog: Catalog) -> None:
    add(storage, FIRST)
    with pytest.raises(Conflict):
        catalog.put(record(FIRST, comment="other"))
    assert catalog.get(FIRST) == record(FIRST)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(encode_record(record(FIRST))[:-20], id="cut"),
        pytest.param(encode_record(record(FIRST)), id="of-another-backup"),
        pytest.param(encode_record(record(SECOND, system_identifier=7)), id="of-another-system"),
        pytest.param(encode_record(record(SECOND, format=99)), id="newer"),
    ],
)
def test_a_damaged_record_does_not_hide_the_others(
    storage: Storage, catalog: Catalog, data: bytes
) -> None:
    add(storage, FIRST)
    storage.create(layout.record_object(SYSTEM, SECOND), data)
    assert [each.label for each in catalog.list()] == [FIRST]
    (damaged,) = catalog.damaged()
    assert damaged.label == SECOND
    assert SECOND in damaged.reason.message
    assert list(catalog.unfinished()) == []
    for label in ["latest", SECOND]:
        with pytest.raises(type(damaged.reason)):
            catalog.get(label)
    assert catalog.get("oldest").label == FIRST


def test_folders_of_other_names_are_left_alone(storage: Storage, catalog: Catalog) -> None:
    storage.create(layout.backups_folder(SYSTEM) + "keep/file", b"x")
    assert list(catalog.unfinished()) == []
    assert list(catalog.clean_unfinished()) == []
    assert objects(storage) == [layout.backups_folder(SYSTEM) + "keep/file"]


def test_a_new_label_tells_the_time_in_utc(catalog: Catalog) -> None:
    zone = timezone(timedelta(hours=2))
    assert catalog.new_label("full", NOON.replace(microsecond=999_999)) == FIRST
    assert catalog.new_label("full", datetime(2026, 11, 22, 14, tzinfo=zone)) == FIRST
    assert catalog.new_label("incremental", NOON).endswith("I")


@pytest.mark.parametrize("kind", ["F", "I"])
@pytest.mark.parametrize("back", [0, 1, 3600, 86400 * 400])
def test_a_label_is_later_than_every_other_though_the_clock_stepped_back(
    storage: Storage, catalog: Catalog, kind: str, back: int
) -> None:
    fill(storage, FIRST)
    assert catalog.new_label(kind, NOON - timedelta(seconds=back)) == f"20261122T120001{kind}"


def test_backups_begun_in_the_same_second_get_labels_of_their_own(
    storage: Storage, catalog: Catalog
) -> None:
    with (
        catalog.begin("F", NOON) as first,
        catalog.begin("F", NOON) as second,
        catalog.begin("I", NOON) as third,
    ):
        assert first == FIRST
        assert len({first, second, third}) == 3
        fill(storage, first)
    assert catalog.new_label("F", NOON) > first


def test_a_backup_in_progress_is_neither_listed_nor_cleaned(
    storage: Storage, catalog: Catalog
) -> None:
    with catalog.begin("F", NOON) as label:
        fill(storage, label)
        assert list(catalog.list()) == []
        assert list(catalog.unfinished()) == []
        assert list(catalog.clean_unfinished()) == []
        with pytest.raises(Locked, match=r"\(backup\)"):
            catalog.remove(label)
        catalog.put(record(label))
        assert [each.label for each in catalog.list()] == [label]
    assert list(catalog.clean_unfinished()) == []
    assert [each.label for each in catalog.list()] == [label]


def test_the_lock_is_given_back_when_a_backup_fails(catalog: Catalog) -> None:
    with pytest.raises(KeyError), catalog.begin("F", NOON) as first:
        raise KeyError
    with catalog.begin("F", NOON) as second:
        assert first == second


def test_what_a_failed_backup_left_is_cleaned(storage: Storage, catalog: Catalog) -> None:
    add(storage, FIRST)
    with catalog.begin("F", NOON) as label:
        fill(storage, label)
    assert list(catalog.unfinished()) == [label]
    assert list(catalog.clean_unfinished()) == [label]
    assert list(catalog.unfinished()) == []
    assert [name for name in objects(storage) if label in name] == []
    assert [each.label for each in catalog.list()] == [FIRST]


def test_a_removed_backup_is_gone(storage: Storage, catalog: Catalog) -> None:
    add(storage, FIRST)
    add(storage, SECOND)
    catalog.remove(FIRST)
    assert [each.label for each in catalog.list()] == [SECOND]
    assert [name for name in objects(storage) if FIRST in name] == []
    with pytest.raises(NotFound, match="could not remove backup"):
        catalog.remove(FIRST)


def test_a_damaged_backup_can_be_removed(storage: Storage, catalog: Catalog) -> None:
    storage.create(layout.record_object(SYSTEM, FIRST), b"nonsense")
    catalog.remove(FIRST)
    assert list(catalog.damaged()) == []


class BreakingFileSystem(FileSystem):
    """Fails every unlink of an object after the first `survivors`."""

    def __init__(self, survivors: int) -> None:
        self._left = survivors

    def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
        if not str(path).startswith("."):
            self._left -= 1
            if self._left < 0:
                raise OSError(5, "Input/output error")
        super().unlink(path, dir_fd=dir_fd)


@pytest.mark.parametrize("survivors", range(6))
def test_a_removal_that_breaks_off_leaves_a_whole_backup_or_none(
    tmp_path: Path, survivors: int
) -> None:
    storage = LocalStorage(tmp_path)
    for name in ("16384.tar.zst", f"{0:024X}.partial"):  # listed before the record
        storage.create(layout.backup_folder(SYSTEM, FIRST) + name, b"x")
    add(storage, FIRST)
    whole = objects(storage)
    breaking = LocalStorage(tmp_path, filesystem=BreakingFileSystem(survivors))
    with pytest.raises(StorageError):
        Catalog(breaking, SYSTEM).remove(FIRST)
    catalog = Catalog(storage, SYSTEM)
    if survivors == 0:
        assert objects(storage) == whole
        catalog.remove(FIRST)
    else:
        assert list(catalog.list()) == []
        assert list(catalog.clean_unfinished()) == [FIRST]
    assert objects(storage) == []


class Meanwhile(MemoryStorage):
    """Somebody else does something right before a lock is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: Callable[[], object] | None = None

    def lock(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        self._happen()
        return super().lock(name, owner)

    def lock_shared(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        self._happen()
        return super().lock_shared(name, owner)

    def _happen(self) -> None:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()


def test_a_backup_that_is_finished_at_this_moment_is_not_cleaned_away() -> None:
    storage = Meanwhile()
    catalog = Catalog(storage, SYSTEM)
    fill(storage, FIRST)
    storage.happens = lambda: catalog.put(record(FIRST))
    assert catalog.clean_unfinished() == []
    assert catalog.list() == [record(FIRST)]
    assert len(objects(storage)) == 4


def test_a_label_whose_folder_is_filled_at_this_moment_is_not_used() -> None:
    storage = Meanwhile()
    storage.happens = lambda: fill(storage, FIRST)
    with Catalog(storage, SYSTEM).begin("full", NOON) as label:
        assert layout.label_time(label) > layout.label_time(FIRST)


def test_a_backup_that_is_removed_at_this_moment_is_not_read() -> None:
    storage = Meanwhile()
    add(storage, FIRST)
    catalog = Catalog(storage, SYSTEM)
    storage.happens = lambda: catalog.remove(FIRST)
    with pytest.raises(NotFound), catalog.reading(FIRST, "restore"):
        raise AssertionError


SCRIPT = """
import os, signal, sys
from datetime import datetime, UTC
from pgbackup.repo import layout
from pgbackup.repo.catalog import Catalog
from pgbackup.storage.local import LocalStorage
storage = LocalStorage(sys.argv[1])
with Catalog(storage, int(sys.argv[2])).begin("full", datetime.now(UTC)) as label:
    folder = layout.backup_folder(int(sys.argv[2]), label)
    if sys.argv[3] == "stored":
        storage.create(folder + "base.tar", b"x")
    writer = storage.writer(folder + "1.tar")
    writer.write(b"x" * 100000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("progress", ["stored", "nothing-stored"])
def test_what_a_killed_backup_left_is_cleaned(tmp_path: Path, progress: str) -> None:
    storage = LocalStorage(tmp_path)
    catalog = Catalog(storage, SYSTEM)
    add(storage, FIRST)
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(SYSTEM), progress]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert sorted(tmp_path.rglob("*")) != before
    catalog.clean_unfinished()
    assert sorted(tmp_path.rglob("*")) == before
    assert list(catalog.clean_unfinished()) == []
