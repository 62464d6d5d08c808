"""A repository comes into being by the first write, and only where nothing else is."""

import json
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, NotFound, Refused, UsageError, WrongSystem
from pgbackup.repo import layout
from pgbackup.repo.repository import Repository
from pgbackup.storage.api import Storage
from pgbackup.storage.local import LocalStorage
from tests.repo.samples import MIB, SYSTEM, record

FIRST = "20261122T120000F"


def names(storage: Storage) -> list[str]:
    return [found.name for found in storage.list()]


def test_a_missing_repository_is_not_found_and_not_made(storage: Storage) -> None:
    with pytest.raises(NotFound, match=r"there is no pgbackup\.json") as caught:
        Repository.open(storage, create=False)
    assert "-B" in str(caught.value.hint)
    assert names(storage) == []


def test_a_repository_is_made_once(storage: Storage) -> None:
    made = Repository.open(storage, create=True)
    assert len(made.repository_id) == 32
    assert Repository.open(storage, create=True).repository_id == made.repository_id
    assert Repository.open(storage, create=False).repository_id == made.repository_id
    assert names(storage) == ["pgbackup.json"]
    assert json.loads(storage.read(layout.FORMAT))["format"] == 1


def test_two_repositories_have_two_identities(tmp_path: Path) -> None:
    first = Repository.open(LocalStorage(tmp_path / "1"), create=True)
    assert (
        first.repository_id
        != Repository.open(LocalStorage(tmp_path / "2"), create=True).repository_id
    )


def test_a_place_with_other_content_is_refused(storage: Storage) -> None:
    storage.create("holiday/photo.jpg", b"x")
    with pytest.raises(Refused, match=r"it is not empty and has no pgbackup\.json"):
        Repository.open(storage, create=True)
    assert names(storage) == ["holiday/photo.jpg"]


def test_a_newer_format_is_refused(storage: Storage) -> None:
    storage.create(layout.FORMAT, b'{"format": 2, "repository_id": "x"}')
    for create in [True, False]:
        with pytest.raises(Refused, match="it has format 2, this version of pgbackup knows 1"):
            Repository.open(storage, create=create)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"format": "1"}', b'{"format": 1}', b"\xff"]
)
def test_a_damaged_format_object_is_reported(storage: Storage, data: bytes) -> None:
    storage.create(layout.FORMAT, data)
    with pytest.raises(CorruptData, match="could not read"):
        Repository.open(storage, create=True)
    assert storage.read(layout.FORMAT) == data


def test_clusters_are_found_by_their_folders(storage: Storage) -> None:
    repository = Repository.open(storage, create=True)
    assert repository.systems() == []
    repository.cluster(12).bind(150018, MIB)
    repository.cluster(9).catalog.put(record(FIRST, system_identifier=9))
    storage.create("notes/readme", b"x")
    assert repository.systems() == [9, 12]
    assert repository.cluster(9).catalog.get(FIRST).system_identifier == 9


def test_the_only_cluster_need_not_be_named(storage: Storage) -> None:
    repository = Repository.open(storage, create=True)
    with pytest.raises(NotFound, match="is empty"):
        repository.only_system()
    repository.cluster(12).bind(150018, MIB)
    assert repository.only_system() == repository.only_system(12) == 12
    assert repository.only_cluster().system == 12
    with pytest.raises(NotFound, match='could not find system "13"') as missing:
        repository.only_system(13)
    assert "12" in str(missing.value.hint)
    repository.cluster(9).bind(150018, MIB)
    with pytest.raises(UsageError, match="holds several") as several:
        repository.only_system()
    assert "--system ID with one of 9, 12" in str(several.value.hint)
    assert repository.only_system(9) == 9


def test_a_cluster_is_bound_to_major_version_and_segment_size(storage: Storage) -> None:
    cluster = Repository.open(storage, create=True).cluster(SYSTEM)
    assert cluster.facts() is None
    cluster.bind(150018, MIB)
    cluster.bind(150002, MIB)
    facts = cluster.facts()
    assert facts is not None
    assert (facts.major, facts.wal_segment_size) == (15, MIB)
    for version, size in [(160000, MIB), (150018, 2 * MIB)]:
        with pytest.raises(WrongSystem, match=f"system {SYSTEM} is known with PostgreSQL 15"):
            cluster.bind(version, size)
    assert cluster.facts() == facts


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"nonsense",
        b'{"system_identifier": "8", "major": 15, "wal_segment_size": 1048576}',
        b'{"system_identifier": "7", "major": 15, "wal_segment_size": 1000}',
    ],
)
def test_damaged_facts_of_a_cluster_are_reported(storage: Storage, data: bytes) -> None:
    storage.create(layout.cluster_object(7), data)
    with pytest.raises(CorruptData):
        Repository(storage, "id").cluster(7).bind(150018, MIB)


def test_a_repository_is_private(tmp_path: Path) -> None:
    Repository.open(LocalStorage(tmp_path / "repo"), create=True).cluster(7).bind(150018, MIB)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"repo": 0o700, "pgbackup.json": 0o600, "7": 0o700, "cluster.json": 0o600}
