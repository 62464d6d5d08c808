"""A file that can be read again is compared whenever somebody else was faster."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pgbackup.errors import Conflict, CorruptData
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.repeatable import archive_file
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.repo.samples import SYSTEM

NAME = "0000000A0000000000000021"
CONTENT = b"0123456789abcdef" * 1000
OTHER = CONTENT[:-1] + b"!"
PLAIN, COMPRESSED = (layout.segment_object(SYSTEM, NAME, each) for each in (False, True))


class Meanwhile(MemoryStorage):
    """Somebody else stores an object right before the n-th look at whether it is there."""

    def __init__(self, name: str, content: bytes, looks: int) -> None:
        super().__init__()
        self._name = name
        self._content = content
        self._looks = looks

    def exists(self, name: str) -> bool:
        if name == self._name:
            self._looks -= 1
            if not self._looks:
                self.create(name, self._content)
        return super().exists(name)


def push(storage: MemoryStorage, level: int | None, content: bytes = CONTENT) -> str:
    return archive_file(storage, SYSTEM, NAME, len(CONTENT), lambda: [content], level)


def objects(storage: MemoryStorage) -> list[str]:
    return [each.name for each in storage.list()]


@pytest.mark.parametrize("looks", [2, 3], ids=["before the commit", "after the commit"])
def test_the_same_content_in_the_other_form_is_success(looks: int) -> None:
    storage = Meanwhile(PLAIN, CONTENT, looks)
    push(storage, 1)
    assert PLAIN in objects(storage)
    assert b"".join(WalArchive(storage, SYSTEM).chunks(NAME)) == CONTENT


@pytest.mark.parametrize("looks", [2, 3], ids=["before the commit", "after the commit"])
def test_other_content_in_the_other_form_is_a_conflict_and_stays_alone(looks: int) -> None:
    storage = Meanwhile(PLAIN, OTHER, looks)
    with pytest.raises(Conflict):
        push(storage, 1)
    assert objects(storage) == [layout.conflict_object(SYSTEM, NAME), PLAIN]
    assert storage.read(PLAIN) == OTHER
    assert storage.read(layout.conflict_object(SYSTEM, NAME)) == CONTENT


@pytest.mark.parametrize("level", [None, 1], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c + b"!", lambda c: b""], ids=["less", "more", "none"]
)
def test_a_file_that_changes_its_length_is_not_stored(
    change: Callable[[bytes], bytes], level: int | None
) -> None:
    storage = MemoryStorage()
    with pytest.raises(CorruptData, match="it is not of 16000 bytes"):
        push(storage, level, change(CONTENT))
    assert objects(storage) == []


def test_what_is_kept_aside_of_an_unfinished_segment_is_durable(tmp_path: Path) -> None:
    name = f"{NAME}.partial"
    synced: list[str] = []

    class Noting(FileSystem):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

    storage = LocalStorage(tmp_path, filesystem=Noting())
    storage.create(layout.wal_object(SYSTEM, name, compressed=False), OTHER)
    kept = str(tmp_path / layout.conflict_object(SYSTEM, name))
    for _ in range(2):  # the second time somebody else may have put it there
        synced.clear()
        archive_file(storage, SYSTEM, name, len(CONTENT), lambda: [CONTENT], 1)
        assert {kept, str(tmp_path / layout.conflict_object(SYSTEM, "")).rstrip("/")} <= set(synced)
