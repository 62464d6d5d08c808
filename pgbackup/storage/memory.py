"""A storage in the memory of this process, for tests and for trying things out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from threading import RLock

from pgbackup.storage.api import (
    Bytes,
    Features,
    Lock,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    PendingObject,
    Storage,
)
from pgbackup.storage.names import check_name, check_prefix
from pgbackup.storage.wording import held, lock_record, name_taken, not_found, truncated


class MemoryStorage(Storage):
    """Objects in a dictionary. Nothing to sync, nobody else to lock against but threads."""

    url = "memory:"
    features = Features(create_is_atomic=True, lock=True)

    def __init__(self) -> None:
        self._guard = RLock()
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._locks: dict[str, dict[str, str]] = {}
        self._sharers: dict[str, int] = {}

    def writer(self, name: str, *, is_bulk: bool = False) -> ObjectWriter:
        check_name(name)
        return _MemoryWriter(self, name)

    def reader(self, name: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        data, _ = self._find(name)
        end = max(offset, len(data)) if length is None else offset + length
        if end > len(data):
            raise truncated(self.locate(name), len(data), end)
        return _MemoryReader(data, offset, end)

    def stat(self, name: str) -> ObjectStat:
        data, modified = self._find(name)
        return ObjectStat(name, len(data), modified)

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        check_prefix(prefix)
        with self._guard:
            found = sorted(self._objects.items())
        for name, (data, modified) in found:
            if name.startswith(prefix):
                yield ObjectStat(name, len(data), modified)

    def folders(self, prefix: str = "") -> Sequence[str]:
        below = (found.name.removeprefix(prefix) for found in self.list(prefix))
        return sorted({name.split("/")[0] for name in below if "/" in name})

    def delete(self, *names: str) -> None:
        for name in names:
            check_name(name)
        with self._guard:
            for name in names:
                self._objects.pop(name, None)

    def sync(self, name: str) -> None:
        self._find(name)

    def lock(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        check_name(name)
        with self._guard:
            if name in self._locks:
                raise held(self.locate(name), self._locks[name])
            self._locks[name] = lock_record(owner)
        return _MemoryLock(self, name)

    def lock_shared(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        check_name(name)
        with self._guard:
            if name in self._locks and name not in self._sharers:
                raise held(self.locate(name), self._locks[name])
            self._locks[name] = lock_record(owner)
            self._sharers[name] = self._sharers.get(name, 0) + 1
        return _MemoryLock(self, name)

    def holder(self, name: str) -> Mapping[str, str] | None:
        check_name(name)
        return self._locks.get(name)

    def pending(self, prefix: str = "") -> Sequence[PendingObject]:
        check_prefix(prefix)
        return []

    def reap(self, prefix: str = "") -> Sequence[str]:
        check_prefix(prefix)
        return []

    def close(self) -> None:
        pass

    def _find(self, name: str) -> tuple[bytes, float]:
        check_name(name)
        try:
            return self._objects[name]
        except KeyError:
            raise not_found(self.locate(name)) from None

    def _put(self, name: str, data: bytes, replace: bool) -> None:
        with self._guard:
            if name in self._objects and not replace:
                raise name_taken(self.locate(name))
            self._objects[name] = (data, time.time())

    def _release(self, name: str) -> None:
        with self._guard:
            left = self._sharers.pop(name, 1) - 1
            if left:
                self._sharers[name] = left
            else:
                del self._locks[name]


class _MemoryWriter(ObjectWriter):
    def __init__(self, storage: MemoryStorage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._data: bytearray | None = bytearray()

    @property
    def position(self) -> int:
        return len(self._open())

    def write(self, data: Bytes) -> None:
        self._open().extend(data)

    def commit(self, *, replace: bool = False) -> None:
        data = bytes(self._open())
        self._data = None
        self._storage._put(self._name, data, replace)

    def abort(self) -> None:
        self._data = None

    def _open(self) -> bytearray:
        if self._data is None:
            raise ValueError("the object writer was committed or aborted before")
        return self._data


class _MemoryReader(ObjectReader):
    def __init__(self, data: bytes, offset: int, end: int) -> None:
        self._data = data
        self._offset = offset
        self._end = end

    @property
    def size(self) -> int:
        return len(self._data)

    def readinto(self, view: bytearray | memoryview) -> int:
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        end = self._end if size < 0 else min(self._offset + size, self._end)
        data = self._data[self._offset : end]
        self._offset = end
        return data

    def close(self) -> None:
        pass


class _MemoryLock(Lock):
    def __init__(self, storage: MemoryStorage, name: str) -> None:
        self._storage = storage
        self._name: str | None = name

    def release(self) -> None:
        if self._name is not None:
            self._storage._release(self._name)
            self._name = None
