"""A pin keeps a backup from being removed, and is no part of its record."""

from datetime import timedelta

import pytest

from pgbackup.errors import Locked, NotFound, Refused
from pgbackup.repo import layout
from pgbackup.repo.catalog import Catalog
from pgbackup.repo.pin import Pin
from pgbackup.storage.api import Storage
from tests.repo.samples import NOON, SYSTEM, record

FIRST, SECOND = "20261122T120000F", "20261122T130000F"


@pytest.fixture
def catalog(storage: Storage) -> Catalog:
    made = Catalog(storage, SYSTEM)
    made.put(record(FIRST))
    made.put(record(SECOND))
    return made


def test_a_pinned_backup_cannot_be_removed(catalog: Catalog) -> None:
    assert catalog.pin(FIRST, "the merger", NOON)
    assert dict(catalog.pins()) == {FIRST: Pin("the merger", NOON)}
    with pytest.raises(Refused, match="it is pinned") as caught:
        catalog.remove(FIRST)
    assert caught.value.hint == f"Type: pgbackup unpin {FIRST}"
    assert catalog.get(FIRST) == record(FIRST)
    assert catalog.unpin(FIRST)
    catalog.remove(FIRST)
    assert [each.label for each in catalog.list()] == [SECOND]


def test_pinning_again_changes_the_reason_at_most(catalog: Catalog) -> None:
    later = NOON + timedelta(hours=1)
    assert catalog.pin(FIRST, "one", NOON)
    assert not catalog.pin(FIRST, "one", later)
    assert not catalog.pin(FIRST, None, later)
    assert catalog.pin_of(FIRST) == Pin("one", NOON)
    assert catalog.pin(FIRST, "two", later)
    assert catalog.pin_of(FIRST) == Pin("two", later)


def test_unpinning_what_is_not_pinned_changes_nothing(catalog: Catalog) -> None:
    assert not catalog.unpin(FIRST)
    assert dict(catalog.pins()) == {}


@pytest.mark.parametrize("label", ["20261122T140000F", "latest"])
def test_what_is_no_backup_cannot_be_pinned(storage: Storage, label: str) -> None:
    empty = Catalog(storage, SYSTEM)
    with pytest.raises(NotFound, match=f'could not find backup "{label}"'):
        empty.pin(label, None, NOON)
    with pytest.raises(NotFound):
        empty.unpin(label)
    assert list(storage.list()) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"reason": 1}', rb'{"reason": "\ud800", "since": "2026-11-22T12:00:00Z"}'],
    ids=["empty", "list", "number", "half-a-character"],
)
def test_a_pin_that_cannot_be_read_counts(storage: Storage, catalog: Catalog, data: bytes) -> None:
    storage.create(layout.pin_object(SYSTEM, FIRST), data)
    assert catalog.pin_of(FIRST) == Pin("unreadable", None)
    with pytest.raises(Refused):
        catalog.remove(FIRST)


def test_a_backup_that_is_read_is_not_removed(catalog: Catalog) -> None:
    with catalog.reading(FIRST, "restore"), catalog.reading(FIRST, "verify"):
        assert catalog.is_in_use(FIRST)
        assert not catalog.is_in_use(SECOND)
        with pytest.raises(Locked, match=r"\((restore|verify)\)"):
            catalog.remove(FIRST)
        catalog.pin(FIRST, None, NOON)
        catalog.unpin(FIRST)
        catalog.remove(SECOND)
    assert not catalog.is_in_use(FIRST)
    catalog.remove(FIRST)
    with pytest.raises(NotFound), catalog.reading(FIRST, "restore"):
        pass


def test_objects_that_no_backup_has_outlive_it(storage: Storage, catalog: Catalog) -> None:
    folder = layout.backup_folder(SYSTEM, FIRST)
    for name in ("base.tar.zst", "16385.index", "0000000A0000000000000022.partial", "notes.txt"):
        storage.create(folder + name, b"x")
    storage.create(layout.backups_folder(SYSTEM) + "elsewhere/backup.json", b"x")
    catalog.remove(FIRST)
    left = [folder + "notes.txt", layout.backups_folder(SYSTEM) + "elsewhere/backup.json"]
    assert list(catalog.unknown()) == left
    assert list(catalog.clean_unfinished()) == []
    assert list(catalog.unknown()) == left
