"""The pages of a stored backup: were they right when it was taken?

A manifest only proves that files are what was read; a page that was damaged by then is as it was.
Pages that the server wrote after the start of the backup are passed over, as it does itself: they
may be half written, and WAL restores them.

Asked by the check of each archive, on its thread.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pgbackup.backup.members import CONTROL_FILE, printable
from pgbackup.backup.pagefailures import failure_sentences, first_failures
from pgbackup.backup.stored import FrameReader, StoredArchive, StoredBackup
from pgbackup.backup.stretches import Stretch, walk
from pgbackup.errors import CorruptData
from pgbackup.pg.control import FILE_SIZE, ControlFile
from pgbackup.pg.exclude import RelationFile
from pgbackup.pg.lsn import Lsn
from pgbackup.pg.page import PAGE_SIZE, BadPage, bad_pages
from pgbackup.pg.tar import BLOCK_SIZE, TarHeader
from pgbackup.stream.index import IndexEntry

_RELATION_PATH: Final = re.compile(
    r"(?:global|(?:base|pg_tblspc/[0-9]+/PG_[0-9.]+_[0-9]+)/[0-9]+)/([^/\n]+)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class FileFailures:
    """A file with damaged pages. path: in the data directory; first: of its damaged pages."""

    path: str
    count: int
    first: tuple[BadPage, ...]


@dataclass(frozen=True, slots=True)
class PagesReport:
    """What was found.

    has_checksums: whether the cluster has data checksums; without them nothing was checked.
    checked:       pages, new ones and those written since the start included.
    """

    has_checksums: bool
    checked: int
    failed: int
    files: tuple[FileFailures, ...]


class PageCheck:
    """Checks the pages of one backup, file by file, on any number of threads."""

    def __init__(self, start_lsn: Lsn, control: ControlFile) -> None:
        self._start_lsn = start_lsn
        self._segment_blocks = control.relation_segment_blocks
        self._has_checksums = control.data_checksum_version > 0
        self._lock = threading.Lock()
        self._checked = 0
        self._files: list[FileFailures] = []

    @classmethod
    def of_backup(
        cls, backup: StoredBackup, indexes: Sequence[tuple[StoredArchive, Sequence[IndexEntry]]]
    ) -> Self:
        """Learn from the backup's pg_control what its pages are like.

        Raises: CorruptData, StorageError.
        """
        control = ControlFile.parse(_read_control(indexes))
        if control.block_size != PAGE_SIZE:
            raise CorruptData(
                f'could not check pages of backup "{backup.record.label}": they have'
                f" {control.block_size} bytes, and only {PAGE_SIZE} are supported"
            )
        return cls(backup.record.start_lsn, control)

    def begin_file(self, path: str) -> "FilePages | None":
        """What to pass the content of a file to; None if it has no pages with checksums."""
        match = _RELATION_PATH.fullmatch(path) if self._has_checksums else None
        relation = None if match is None else RelationFile.parse(match[1])
        if relation is None:
            return None
        return FilePages(path, relation.segment * self._segment_blocks, self._start_lsn)

    def end_file(self, pages: "FilePages") -> Iterator[str]:
        """Take what was found in a file; yield it in sentences."""
        with self._lock:
            self._checked += pages.count
            if pages.bad_count:
                found = FileFailures(pages.path, pages.bad_count, tuple(pages.bad))
                self._files.append(found)
        yield from failure_sentences(printable(pages.path), pages.bad, pages.bad_count)

    def report(self) -> PagesReport:
        """What was found so far, by path."""
        files = tuple(sorted(self._files, key=lambda each: each.path))
        failed = sum(each.count for each in files)
        return PagesReport(self._has_checksums, self._checked, failed, files)


class FilePages:
    """The pages of one file, whose content goes by in pieces.

    What is left at the end of a file is no page yet: the server was making the file longer.
    """

    def __init__(self, path: str, first_block: int, start_lsn: Lsn) -> None:
        self.path = path
        self.bad: list[BadPage] = []
        self.bad_count = 0
        self.count = 0
        self._first_block = first_block
        self._start_lsn = start_lsn
        self._begun = bytearray()

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self._begun:
            missing = PAGE_SIZE - len(self._begun)
            self._begun += data[:missing]
            if len(self._begun) < PAGE_SIZE:
                return
            page, self._begun = self._begun, bytearray()
            self._check(memoryview(page))
            data = data[missing:]
        whole = len(data) // PAGE_SIZE * PAGE_SIZE
        self._check(data[:whole])
        self._begun += data[whole:]

    def _check(self, pages: memoryview) -> None:
        found = bad_pages(pages, self._first_block + self.count, self._start_lsn)
        self.count += len(pages) // PAGE_SIZE
        if found:
            self.bad_count += len(found)
            self.bad = first_failures([*self.bad, *found])


def _read_control(indexes: Sequence[tuple[StoredArchive, Sequence[IndexEntry]]]) -> bytes:
    for archive, entries in indexes:
        for entry in entries:
            if archive.record.tablespace is None and entry.name == CONTROL_FILE:
                return _read_member(archive, entry)
    raise CorruptData(f'could not read file "{CONTROL_FILE}": no archive has it')


def _read_member(archive: StoredArchive, entry: IndexEntry) -> bytes:
    """A small member that fills whole blocks."""
    if entry.size != FILE_SIZE:
        raise CorruptData(f'could not read file "{entry.name}": it has {entry.size} bytes')
    content = _Content()
    stretch = Stretch(archive, entry.offset, entry.offset + BLOCK_SIZE + entry.size, [entry])
    for _ in walk(stretch, content, FrameReader(archive)):
        pass
    return bytes(content.data)


class _Content:
    """A MemberHandler that keeps all content."""

    def __init__(self) -> None:
        self.data = bytearray()

    def begin_member(self, header: TarHeader, offset: int) -> None:
        pass

    def member_contents(self, data: memoryview) -> None:
        self.data += data

    def end_member(self) -> None:
        pass
