"""A file on its way into the WAL archive.

If the archive has the name already, what comes is compared with what is there while it comes, and
nothing is stored. Otherwise it is stored; if somebody else was faster, the archived file is read
and compared then.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from pgbackup.errors import Conflict, CorruptData, NotFound
from pgbackup.repo.seal import SealingCompressor, sealed_frame
from pgbackup.repo.storedwal import StoredWal
from pgbackup.storage.api import Bytes, ObjectWriter

if TYPE_CHECKING:
    from hashlib import _Hash


class SegmentWriter(ABC):
    """A segment, or another file of known size, being archived.

    Always: position <= size.
    """

    def __init__(self, file: StoredWal, size: int) -> None:
        self._file = file
        self._size = size
        self._position = 0

    @property
    def position(self) -> int:
        """How many bytes were written."""
        return self._position

    def write(self, data: Bytes) -> None:
        """Append bytes; not kept after return.

        Raises: CorruptData if they are more than the file has, StorageError.
        """
        with memoryview(data) as whole, whole.cast("B") as view:
            if self._position + len(view) > self._size:
                raise self._wrong_size(self._position + len(view))
            self._add(view)
            self._position += len(view)

    def commit(self) -> None:
        """Have the file in the archive, durably: stored now, or found to be there already.

        Raises: CorruptData if bytes are missing, Conflict if other content has the name,
        StorageError.
        """
        try:
            if self._position != self._size:
                raise self._wrong_size(self._position)
            self._finish()
        finally:
            self.abort()

    @abstractmethod
    def abort(self) -> None:
        """Give up. No effect after commit, nor the second time."""

    @abstractmethod
    def _add(self, view: memoryview) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _wrong_size(self, size: int) -> CorruptData:
        return CorruptData(
            f'could not archive WAL file "{self._file.name}": it has {size} bytes and not '
            f"{self._size}"
        )

    def _conflict(self, detail: str) -> Conflict:
        return Conflict(
            f'could not archive WAL file "{self._file.name}": it is in the archive with other '
            "content",
            detail=f"The archived file was left as it is. {detail}",
            hint="Find out whether two servers archive into this repository, and compare the "
            "two files with pg_waldump.",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.abort()


class _StoringWriter(SegmentWriter):
    """What storing a file whose name is not in the archive has in common."""

    def __init__(self, file: StoredWal, size: int, *, is_compressed: bool, is_bulk: bool) -> None:
        super().__init__(file, size)
        self._own = file.object_name(compressed=is_compressed)
        self._other = file.object_name(compressed=not is_compressed)
        self._writer: ObjectWriter = file.storage.writer(self._own, is_bulk=is_bulk)

    def abort(self) -> None:
        self._writer.abort()

    def _finish(self) -> None:
        if self._file.storage.exists(self._other):
            self._expect_same(self._other)
            return
        try:
            self._writer.commit()
        except Conflict:
            self._expect_same(self._own)
            return
        if self._file.storage.exists(self._other):
            self._settle()

    def _settle(self) -> None:
        """Withdraw if somebody stored other content in the other form at the same moment."""
        try:
            self._expect_same(self._other)
        except Conflict:
            self._file.storage.delete(self._own)
            raise

    def _expect_same(self, stored: str) -> None:
        """Compare with what somebody else stored, and perhaps compresses at this moment."""
        try:
            is_same = self._is_content(self._file.object_chunks(stored))
            self._file.storage.sync(stored)
        except NotFound:
            is_same = self._is_content(self._file.chunks())
            self._file.sync()
        if not is_same:
            raise self._conflict("Archive the new one again to have it kept aside.")

    @abstractmethod
    def _is_content(self, chunks: Iterator[bytes]) -> bool:
        """Tell whether these are the bytes that were written."""


class NewFileWriter(_StoringWriter):
    """Stores a file piece by piece."""

    def __init__(self, file: StoredWal, size: int, level: int | None) -> None:
        super().__init__(file, size, is_compressed=level is not None, is_bulk=False)
        self._compressor = None if level is None else SealingCompressor(level, size)
        self._digest = _sha256()

    def _add(self, view: memoryview) -> None:
        self._digest.update(view)
        self._writer.write(view if self._compressor is None else self._compressor.compress(view))

    def _finish(self) -> None:
        self._end_frame()
        super()._finish()

    def _end_frame(self) -> None:
        if self._compressor is not None:
            self._writer.write(self._compressor.flush())

    def _is_content(self, chunks: Iterator[bytes]) -> bool:
        digest = _sha256()
        for chunk in chunks:
            digest.update(chunk)
        return digest.digest() == self._digest.digest()


class WholeFileWriter(_StoringWriter):
    """Stores a file that lies in memory as a whole; only commit is left to do.

    view: aligned for direct writes; stays as it is until commit or abort.
    """

    def __init__(self, file: StoredWal, view: memoryview, level: int | None) -> None:
        super().__init__(file, len(view), is_compressed=level is not None, is_bulk=level is None)
        self._view = view
        self._level = level
        try:
            self.write(view)
        except BaseException:
            self.abort()
            raise

    def _add(self, view: memoryview) -> None:
        pieces = (view,) if self._level is None else sealed_frame(view, self._level)
        for piece in pieces:
            self._writer.write(piece)

    def _is_content(self, chunks: Iterator[bytes]) -> bool:
        at = 0
        for chunk in chunks:
            if self._view[at : at + len(chunk)] != chunk:
                return False
            at += len(chunk)
        return at == len(self._view)


class SecondFormWriter(NewFileWriter):
    """Stores the compressed form of a file whose plain form is in the archive."""

    def __init__(self, file: StoredWal, size: int, level: int) -> None:
        super().__init__(file, size, level)

    def _finish(self) -> None:
        self._end_frame()
        try:
            self._writer.commit()
        except Conflict:
            self._expect_same(self._own)


class ComparingWriter(SegmentWriter):
    """Compares a file with the archived one of its name, and keeps it aside if it differs.

    Always: until they differ, all bytes before position are the same in both.
    """

    def __init__(self, file: StoredWal, size: int) -> None:
        super().__init__(file, size)
        self._archived: Iterator[bytes] = file.chunks()
        self._ahead = b""
        self._differs = False
        self._aside: ObjectWriter | None = None

    def abort(self) -> None:
        if self._aside is not None:
            self._aside.abort()

    def _add(self, view: memoryview) -> None:
        if not self._differs and not self._is_same(view):
            self._keep_aside()
        if self._aside is not None:
            self._aside.write(view)

    def _finish(self) -> None:
        if not self._differs and (self._ahead or next(self._archived, b"")):
            self._keep_aside()
        if not self._differs:
            self._file.sync()
            return
        if self._aside is not None:
            self._aside.commit(replace=True)
        kept = self._file.storage.locate(self._file.conflict)
        raise self._conflict(f'A newcomer is kept as "{kept}".')

    def _is_same(self, view: memoryview) -> bool:
        done = 0
        while done < len(view):
            self._ahead = self._ahead or next(self._archived, b"")
            if not self._ahead:
                return False
            length = min(len(self._ahead), len(view) - done)
            if view[done : done + length].tobytes() != self._ahead[:length]:
                return False
            self._ahead = self._ahead[length:]
            done += length
        return True

    def _keep_aside(self) -> None:
        """Begin to keep the newcomer, once per name: PostgreSQL comes again every minute."""
        self._differs = True
        if self._file.storage.exists(self._file.conflict):
            return
        self._aside = self._file.storage.writer(self._file.conflict)
        left = self._position
        for chunk in self._file.chunks():
            if left == 0:
                break
            self._aside.write(chunk[:left])
            left -= min(left, len(chunk))


def _sha256() -> "_Hash":
    import hashlib  # noqa: PLC0415 - slow to load, and the WAL hooks compare without it

    return hashlib.sha256()
