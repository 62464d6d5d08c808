"""A deposit stores what flows in, each object when it is durable, and raises what fails."""

import errno
import os
from pathlib import Path

import pytest
from crc32c import crc32c

from pgbackup.errors import Conflict, StorageError
from pgbackup.repo.catalog import ObjectRecord
from pgbackup.repo.deposit import Deposit
from pgbackup.storage.api import Storage
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from tests.repo.samples import MIB, SYSTEM
from tests.stream.checked_sink import backup_state, send

FOLDER = f"{SYSTEM}/backups/20261122T120000F/"
ARCHIVES = {"16384.tar": os.urandom(3 * MIB + 17), "16385.tar": b"", "base.tar": b"base" * 1000}
MANIFEST = b"{}\n" * 500_000


def stored(storage: Storage) -> dict[str, bytes]:
    return {each.name: storage.read(each.name) for each in storage.list()}


@pytest.mark.parametrize("pieces", [(1 << 30,), (MIB,), (1000, 70_000, MIB - 1)], ids=str)
def test_what_flows_in_is_stored_under_its_names(storage: Storage, pieces: tuple[int, ...]) -> None:
    send(Deposit(storage, FOLDER), ARCHIVES, MANIFEST, pieces=pieces)
    expected = {FOLDER + name: content for name, content in ARCHIVES.items()}
    assert stored(storage) == expected | {FOLDER + "backup_manifest": MANIFEST}


def test_an_index_is_stored_and_described(storage: Storage) -> None:
    deposit = Deposit(storage, FOLDER)
    deposit.begin_backup(backup_state())
    deposit.begin_archive("base.tar.zst")
    deposit.end_archive()
    deposit.put_index("base.tar", b"index")
    deposit.end_backup(backup_state().start)
    assert deposit.indexes == [ObjectRecord("base.index", 5, f"{crc32c(b'index'):08x}")]
    deposit.cleanup()
    assert stored(storage) == {FOLDER + "base.tar.zst": b"", FOLDER + "base.index": b"index"}


def test_a_deposit_that_is_given_up_leaves_no_part_of_an_archive(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "repo")
    deposit = Deposit(storage, FOLDER)
    deposit.begin_backup(backup_state(16384))
    deposit.begin_archive("16384.tar")
    deposit.buffer[:4] = b"done"
    deposit.archive_contents(4)
    deposit.end_archive()
    deposit.begin_archive("base.tar")
    for _ in range(3):
        deposit.archive_contents(len(deposit.buffer))
    deposit.cleanup()
    assert stored(storage) == {FOLDER + "16384.tar": b"done"}
    assert not list((tmp_path / "repo").rglob(".*"))


def test_a_name_that_is_taken_is_not_overwritten(storage: Storage) -> None:
    storage.create(FOLDER + "base.tar", b"older")
    with pytest.raises(Conflict):
        send(Deposit(storage, FOLDER), {"base.tar": b"newer"}, MANIFEST)
    assert stored(storage) == {FOLDER + "base.tar": b"older"}


class FailingFileSystem(FileSystem):
    """Fails at the n-th call of one method, and counts those."""

    def __init__(self, call: str, number: int) -> None:
        self.calls = 0
        original = getattr(self, call)

        def failing(*arguments: object, **options: object) -> object:
            self.calls += 1
            if self.calls == number:
                raise OSError(errno.EIO, "Input/output error")
            return original(*arguments, **options)

        setattr(self, call, failing)


@pytest.mark.parametrize("call", ["open_new", "write", "fsync", "link", "fsync_directory", "close"])
def test_every_failure_of_the_storage_comes_back(tmp_path: Path, call: str) -> None:
    whole = FailingFileSystem(call, 0)
    send(Deposit(LocalStorage(tmp_path / "0", filesystem=whole), FOLDER), ARCHIVES, MANIFEST)
    assert whole.calls >= len(ARCHIVES) + 1 - (call == "write")
    for number in range(1, whole.calls + 1):
        place = tmp_path / str(number)
        storage = LocalStorage(place, filesystem=FailingFileSystem(call, number))
        with pytest.raises(StorageError):
            send(Deposit(storage, FOLDER), ARCHIVES, MANIFEST)
        left = stored(LocalStorage(place))
        known = {FOLDER + name: content for name, content in ARCHIVES.items()}
        known[FOLDER + "backup_manifest"] = MANIFEST
        assert left.items() <= known.items(), "whole objects only"
        assert not list(place.rglob(".*"))
