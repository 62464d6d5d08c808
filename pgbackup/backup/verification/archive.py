"""One archive of a stored backup: bytes, frames, members.

Made once for an archive; its stretches are checked by several threads. Where a frame is damaged
the check goes on at the next member behind it, so that all that was lost is told.
"""

import threading
from collections.abc import Callable, Mapping

from crc32c import crc32c

from pgbackup.backup.crc import join_crc32c
from pgbackup.backup.members import (
    BACKUP_LABEL,
    CONTROL_FILE,
    ContentCheck,
    data_path,
    printable,
    tablespace_path,
)
from pgbackup.backup.stored import FrameReader, StoredArchive
from pgbackup.backup.stretches import Stretch, walk
from pgbackup.backup.verification.pages import FilePages, PageCheck
from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.manifest import ManifestFile
from pgbackup.pg.tar import FILE, SYMLINK, TarHeader
from pgbackup.repo.catalog import BackupRecord
from pgbackup.stream.index import IndexEntry
from pgbackup.stream.seekable import Frame
from pgbackup.stream.untar import TarWalker

Report = Callable[[str], object]

_KEPT = {BACKUP_LABEL, CONTROL_FILE}
_MAX_KEPT = 1 << 20  # bytes


class ArchiveCheck:
    """Checks one archive.

    report:  told of each problem.
    advance: told of plain bytes that went by.
    pages:   checks the pages of files, if that is wanted.
    kept:    content of the small files that others want to look into, by path.
    """

    def __init__(
        self,
        archive: StoredArchive,
        record: BackupRecord,
        files: Mapping[str, ManifestFile],
        report: Report,
        advance: Callable[[int], object],
        pages: PageCheck | None = None,
    ) -> None:
        self._archive = archive
        self._record = record
        self._files = files
        self._report = report
        self._advance = advance
        self._page_check = pages
        self._lock = threading.Lock()
        self._runs: list[_Run] = []
        self.kept: dict[str, bytes] = {}

    def is_readable(self) -> bool:
        """Read the seek table; tell whether it can be used."""
        try:
            if self._archive.frames:
                return True
            self._report(f'could not read archive "{self._archive.located}": it is empty')
        except (CorruptData, NotFound) as error:
            self._report(error.message)
        return False

    def scan(self) -> list[IndexEntry]:
        """Find the members without the index, as far as the archive can be read."""
        entries = _Entries()
        reader = FrameReader(self._archive)
        walker = TarWalker(entries, name=self._archive.located)
        try:
            for frame in self._archive.frames:
                walker.feed(reader.read(frame))
        except CorruptData as error:
            self._report(error.message)
        return entries.found

    def check(self, stretch: Stretch) -> None:
        """Check some members and the stored bytes they come from."""
        run = _Run(stretch)
        rest: Stretch | None = stretch
        while rest is not None:
            rest = self._check_to_damage(rest, run)
        with self._lock:
            self._runs.append(run)

    def finish(self) -> None:
        """Compare the checksum of the whole object, once all stretches were checked."""
        position = checksum = 0
        for run in sorted(self._runs, key=lambda run: run.stretch.start):
            if not run.is_whole or (run.start != position and run.end):
                return
            checksum = join_crc32c(checksum, run.checksum, run.end - run.start)
            position = run.end or position
        table = self._archive.seek_table()
        checksum = join_crc32c(checksum, crc32c(table), len(table))
        size = position + len(table)
        if (size, f"{checksum:08x}") != (
            self._archive.record.stored_size,
            self._archive.record.crc32c,
        ):
            self._report(
                f'could not accept archive "{self._archive.located}": its bytes are not those that'
                " were stored"
            )

    def _check_to_damage(self, stretch: Stretch, run: "_Run") -> Stretch | None:
        """Check up to the first damage; return what is left behind it."""
        members = _Members(stretch, self._record, self._files, self._report, self._page_check)
        reader = FrameReader(self._archive, run.add)
        try:
            for length in walk(stretch, members, reader):
                self._advance(length)
            return None
        except CorruptData as error:
            self._report(error.message)
        finally:
            self.kept |= members.kept
        if reader.damaged is None:
            run.is_whole = False
            return None
        return self._behind(stretch, members.finished, reader.damaged)

    def _behind(self, stretch: Stretch, finished: int, frame: Frame) -> Stretch | None:
        end = frame.offset + frame.size
        for number, entry in enumerate(stretch.entries[finished:], finished):
            if entry.offset >= end:
                return Stretch(stretch.archive, entry.offset, stretch.end, stretch.entries[number:])
            if entry.type == FILE:
                path = data_path(stretch.archive.record.tablespace, entry.name)
                self._report(f'could not read file "{printable(path)}": a part of it is damaged')
        return None


class _Run:
    """The checksum of neighbouring frames as they are stored.

    Frames that begin before the stretch belong to the one before it.
    """

    def __init__(self, stretch: Stretch) -> None:
        self.stretch = stretch
        self.start = self.end = self.checksum = 0
        self.is_whole = True
        self._has_begun = False

    def add(self, frame: Frame, stored: memoryview) -> None:
        if frame.offset < self.stretch.start or frame.stored_offset < self.end:
            return
        if not self._has_begun:
            self._has_begun = True
            self.start = self.end = frame.stored_offset
        if frame.stored_offset != self.end:
            self.is_whole = False
            return
        self.checksum = crc32c(stored, self.checksum)
        self.end += len(stored)


class _Members:
    """A MemberHandler that compares contents with the manifest, and looks into their pages.

    finished: how many members were seen to their end.
    """

    def __init__(
        self,
        stretch: Stretch,
        record: BackupRecord,
        files: Mapping[str, ManifestFile],
        report: Report,
        page_check: PageCheck | None,
    ) -> None:
        self._tablespace = stretch.archive.record.tablespace
        self._links = {tablespace_path(each.oid): each.location for each in record.tablespaces}
        self._files = files
        self._report = report
        self._page_check = page_check
        self._path = ""
        self._check: ContentCheck | None = None
        self._pages: FilePages | None = None
        self._keep: bytearray | None = None
        self.finished = 0
        self.kept: dict[str, bytes] = {}

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self._path = data_path(self._tablespace, header.name)
        file = self._files.get(self._path) if header.type == FILE else None
        self._check = None
        if file is not None and file.size == header.size:  # another size was told already
            self._check = ContentCheck(file)
        self._pages = None
        if self._page_check is not None and header.type == FILE:
            self._pages = self._page_check.begin_file(self._path)
        is_kept = self._path in _KEPT and header.size <= _MAX_KEPT
        self._keep = bytearray() if is_kept else None
        if (
            header.type == SYMLINK
            and self._links.get(self._path, header.linkname) != header.linkname
        ):
            self._report(
                f'could not accept link "{printable(self._path)}": it leads to'
                f' "{printable(header.linkname)}", not where the record says'
            )

    def member_contents(self, data: memoryview) -> None:
        if self._check is not None:
            self._check.update(data)
        if self._pages is not None:
            self._pages.update(data)
        if self._keep is not None:
            self._keep += data

    def end_member(self) -> None:
        self.finished += 1
        if self._keep is not None:
            self.kept[self._path] = bytes(self._keep)
        if self._check is not None and not self._check.is_right():
            self._report(
                f'could not accept file "{printable(self._path)}": its checksum is not that of'
                " the manifest"
            )
        if self._page_check is not None and self._pages is not None:
            for problem in self._page_check.end_file(self._pages):
                self._report(problem)


class _Entries:
    """A MemberHandler that makes an index."""

    def __init__(self) -> None:
        self.found: list[IndexEntry] = []

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self.found.append(IndexEntry(offset, header.size, header.type, header.name))

    def member_contents(self, data: memoryview) -> None:
        pass

    def end_member(self) -> None:
        pass
