"""The contract that every storage driver keeps; tests/storage/contract.py has a test per sentence.

A storage holds objects: a name, and bytes that never change once the name is visible. An object
becomes visible when it is complete and durable, and not before. There are folders only in the
sense that names have slashes: nobody makes or removes one.

Retrying, throttling and the like are decorators around a driver; no driver does it by itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from pgbackup.errors import CorruptData, NotFound

Bytes = bytes | bytearray | memoryview


class Features(NamedTuple):
    """What a driver can do, declared so that nobody has to ask for its class.

    create_is_atomic: of several writers of one name exactly one wins, also across hosts.
    lock:             a lock is released by the death of its holder.
    local_path:       the directory in which objects are ordinary files of the same names, or None.
    """

    create_is_atomic: bool
    lock: bool
    local_path: str | None = None


class ObjectStat(NamedTuple):
    """What a listing knows about an object.

    size:     bytes.
    modified: seconds since 1970-01-01 UTC, by the storage's clock.
    """

    name: str
    size: int
    modified: float


class PendingObject(NamedTuple):
    """An object that was begun and not committed.

    size:         bytes that are there.
    is_abandoned: its writer is dead; reap removes it.
    """

    name: str
    size: int
    is_abandoned: bool


class ObjectWriter(ABC):
    """A new object being written. Left by an exception, or without commit, it leaves no trace."""

    @property
    @abstractmethod
    def position(self) -> int:
        """How many bytes were written."""

    @abstractmethod
    def write(self, data: Bytes) -> None:
        """Append all of the bytes; not kept after return.

        Raises: StorageError; the writer can then only be aborted.
        """

    @abstractmethod
    def commit(self, *, replace: bool = False) -> None:
        """Make the object durable, then visible; once.

        replace: take the place of an object of that name, in one step.

        Raises: Conflict if the name is taken, StorageError; either way the writer is aborted. If
        only the very last step failed, the object can be visible: complete, but not promised.
        """

    @abstractmethod
    def abort(self) -> None:
        """Throw away what was written. No effect after commit, nor the second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.abort()


class ObjectReader(ABC):
    """An object, or a range of one, being read from front to back."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the whole object, whatever range is being read."""

    @abstractmethod
    def readinto(self, view: bytearray | memoryview) -> int:
        """Fill a buffer; return how many bytes, fewer only where the range ends.

        Raises: CorruptData if the object ends before the range does, StorageError.
        """

    @abstractmethod
    def read(self, size: int = -1) -> bytes:
        """Return this many bytes, fewer only where the range ends; -1 means all that is left.

        Raises: as readinto.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the object. No effect the second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class Lock(ABC):
    """A lock that is held. Given back by release, by leaving the block, or by death."""

    @abstractmethod
    def release(self) -> None:
        """Give the lock back. No effect the second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()


class Storage(ABC):
    """A place that holds objects. Safe to use from several threads and processes at once.

    url: what the user calls this place; `open_storage(url)` opens it again.
    """

    url: str
    features: Features

    @abstractmethod
    def writer(self, name: str, *, is_bulk: bool = False) -> ObjectWriter:
        """Begin a new object; it becomes visible with commit.

        is_bulk: it is large and will not be read soon, so a driver may spare the caches. What is
        stored is the same; aligned pieces of whole pages are fastest.

        Raises: StorageError.
        """

    @abstractmethod
    def reader(self, name: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Read an object, or `length` bytes of it from `offset`; None means to its end.

        Raises: NotFound, CorruptData for a range that goes past the end, StorageError; all of
        them here or at the first read.
        """

    @abstractmethod
    def stat(self, name: str) -> ObjectStat:
        """Describe an object.

        Raises: NotFound, StorageError.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Yield every object below a folder, sorted by name; nothing if there is none.

        prefix: a folder, "a/b/", or "" for all.

        Objects that come or go meanwhile may be there or not; all others are, or it raises.
        Raises: StorageError.
        """

    @abstractmethod
    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the folders directly in a folder, sorted, without slashes.

        One in which only uncommitted objects lie may be there or not.
        Raises: StorageError.
        """

    @abstractmethod
    def delete(self, *names: str) -> None:
        """Remove objects for good: they do not come back after a power cut.

        In the order given, but a power cut in between may leave any of them.
        Success for those that are not there. Raises: StorageError.
        """

    @abstractmethod
    def sync(self, name: str) -> None:
        """Make durable an object that somebody else committed, perhaps without reaching the end.

        Raises: NotFound, StorageError.
        """

    @abstractmethod
    def lock(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        """Take a lock, or fail at once. Locks have names of their own: they are no objects.

        owner: what to tell those who find the lock taken; host, process and time are added.

        Raises: Locked, saying who holds it; StorageError.
        """

    @abstractmethod
    def lock_shared(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        """Take a lock that several may hold so, but nobody while another holds it by `lock`.

        Raises: as lock.
        """

    @abstractmethod
    def holder(self, name: str) -> Mapping[str, str] | None:
        """Who holds this lock: host, pid, since, and the owner that it named; None if nobody does.

        Of several that share it, any one. What cannot be made out, as while it is being written,
        is left out.
        """

    @abstractmethod
    def pending(self, prefix: str = "") -> Sequence[PendingObject]:
        """Describe below a folder the objects that are not visible yet, or never will be."""

    @abstractmethod
    def reap(self, prefix: str = "") -> Sequence[str]:
        """Remove below a folder what died before commit or release; return what was removed."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. The storage is not used afterwards."""

    def is_locked(self, name: str) -> bool:
        """Tell whether somebody alive holds this lock, in either way."""
        return self.holder(name) is not None

    def create(self, name: str, data: Bytes) -> None:
        """Store a small object whole.

        Raises: Conflict if the name is taken, StorageError.
        """
        with self.writer(name) as writer:
            writer.write(data)
            writer.commit()

    def read(self, name: str, limit: int = 64 << 20) -> bytes:
        """Return a small object whole.

        limit: bytes; more than this is not a small object.

        Raises: NotFound, CorruptData, StorageError.
        """
        with self.reader(name) as reader:
            if reader.size > limit:
                raise CorruptData(
                    f'could not read object "{self.locate(name)}": it is implausibly large',
                    detail=f"It has {reader.size} bytes; at most {limit} were expected.",
                )
            return reader.read()

    def exists(self, name: str) -> bool:
        """Tell whether an object is there.

        Raises: StorageError if that cannot be found out.
        """
        try:
            self.stat(name)
        except NotFound:
            return False
        return True

    def locate(self, name: str) -> str:
        """The name of an object as messages give it, with the place in front."""
        return f"{self.url.rstrip('/')}/{name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
