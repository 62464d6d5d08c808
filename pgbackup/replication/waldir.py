"""A directory like pg_wal that receives one stream of WAL.

Made by the receiver for the time of a run. Full segments stand under their names, plain or in a
compressed form that somebody else makes of them; the one being received has the suffix .partial.
Where to go on is found out from names and sizes alone: there is no second truth to disagree.
It never renames an unfinished segment, never overwrites a full one, and never removes a .partial
but one that is wholly contained in the full segment of its name.

Source: receivelog.c, walmethods.c (PostgreSQL 18).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, Self

from pgbackup.errors import ProtocolViolation, WalGap
from pgbackup.pg.history import TimelineHistory, WalSpan
from pgbackup.pg.lsn import (
    MAX_LSN,
    Lsn,
    Segment,
    Timeline,
    WalFileKind,
    WalFileName,
    WalPosition,
)
from pgbackup.pg.walfile import LONG_HEADER_SIZE, check_segment_header
from pgbackup.replication.partialfile import PARTIAL_SUFFIX, PartialFile, agrees
from pgbackup.storage.durable import DIRECTORY_FLAGS, FileSystem, PathName, storage_errors

DIRECTORY_MODE = 0o700

Archived = Callable[[str], Iterator[bytes] | None]
"""Gives the content of a full segment by its name, in whatever form it is stored; None if it is
not there. Reading it to the end also makes sure that it is durable."""


class Contents(NamedTuple):
    """The segments of a directory."""

    full: frozenset[Segment]
    partial: frozenset[Segment]


class WalDirectory:
    """A WalDestination on a file system.

    Always: flush_lsn <= write_lsn; no byte before write_lsn is missing; at most one .partial per
    timeline is written by this. After a StorageError only begin makes it usable again.
    """

    def __init__(
        self,
        path: PathName,
        system_identifier: int,
        segment_size: int,
        *,
        archived: Archived = lambda name: None,
        finished: Callable[[Segment], None] = lambda segment: None,
        compressed_suffix: str = ".zst",
        filesystem: FileSystem | None = None,
    ) -> None:
        """Make the directory if there is none, and open it.

        segment_size:      bytes.
        finished:          told of every segment that has got its full name.
        compressed_suffix: of full segments that are stored in another form.
        """
        self._path = os.fspath(path)
        self._system_identifier = system_identifier
        self._segment_size = segment_size
        self._archived = archived
        self._finished = finished
        self._suffix = compressed_suffix
        self._filesystem = filesystem or FileSystem()
        self._file: PartialFile | None = None
        self._header = b""
        self._segment = Segment(Timeline(1), 0, segment_size)
        self._flushed = self._written = Lsn(0)
        with storage_errors("open WAL directory", self._path):
            self._filesystem.make_directories(self._path, DIRECTORY_MODE)
            self._folder = os.open(self._path, DIRECTORY_FLAGS)

    @property
    def write_lsn(self) -> Lsn:
        return self._written

    @property
    def flush_lsn(self) -> Lsn:
        return self._flushed

    @property
    def segment(self) -> Segment:
        """The segment that holds write_lsn."""
        return self._segment

    @property
    def is_open(self) -> bool:
        """Whether the current segment has its .partial."""
        return self._file is not None

    def contents(self) -> Contents:
        """The segments that are there; a plain one of another size counts as not there."""
        full, partial = set(), set()
        with storage_errors("list WAL directory", self._path), os.scandir(self._folder) as names:
            for entry in [each.name for each in names]:
                plain = entry.removesuffix(self._suffix)
                name = WalFileName.parse(plain)
                if name.kind is WalFileKind.PARTIAL and plain == entry:
                    partial.add(name.segment(self._segment_size))
                elif name.kind is WalFileKind.SEGMENT and (
                    plain != entry or self._size(entry) == self._segment_size
                ):
                    full.add(name.segment(self._segment_size))
        return Contents(frozenset(full), frozenset(partial))

    def resume_position(
        self,
        history: TimelineHistory,
        is_given_up: Callable[[Segment], bool] = lambda segment: False,
    ) -> WalPosition | None:
        """The start of the segment to go on with, or None if nothing of this history is there.

        That is the newest .partial that nothing has taken the place of; else the segment after
        the last full one of the newest timeline. A backup may have stored full segments far
        ahead of the .partial: what lies between would be missing for ever.

        history:     of the server's timeline; files that it does not lead through do not count.
        is_given_up: tells of a segment whether its .partial will never be completed.
        """
        found = self.contents()
        spans = [span for span in all_spans(history) if span.start < span.end]
        for number in range(len(spans) - 1, -1, -1):
            for segment in sorted(within(spans[number], found.partial), key=_by_number):
                if not (
                    is_given_up(segment) or self._is_superseded(segment, spans[number:], found)
                ):
                    return WalPosition(segment.timeline, segment.start)
        for number in range(len(spans) - 1, -1, -1):
            full = within(spans[number], found.full)
            if full:
                end = max(full, key=_by_number).end
                if end < spans[number].end or number == len(spans) - 1:
                    return WalPosition(spans[number].timeline, end)
                return self._start_of(spans[number + 1])
        return None

    def begin(self, position: WalPosition) -> None:
        """Go on with the segment that holds a position, from its start.

        A timeline's last segment stays .partial for good when the next timeline begins.
        """
        self.close_file()
        segment = Segment.containing(position.timeline, position.lsn, self._segment_size)
        self._settle_names()
        self._remove_contained(segment.timeline)
        self._go_to(segment)

    def prepare(self) -> None:
        """Have the .partial of the current segment: it marks where to go on after a crash."""
        if self._file is None:
            self._file = PartialFile(self._filesystem, self._folder, self._path, self._segment)

    def write(self, start: Lsn, data: memoryview) -> None:
        """Append WAL.

        start: must be write_lsn.
        data:  any length, also across segments; not kept after return.

        Raises: WalGap, ProtocolViolation (overlap), WrongSystem and CorruptData (the segment's
        header), StorageError, Conflict.
        """
        if start > self._written:
            raise WalGap(f"could not write WAL from {start}: {self._written} is due")
        if start < self._written:
            raise ProtocolViolation(
                f"could not write WAL from {start}: it is there up to {self._written}"
            )
        while len(data):
            piece = data[: self._segment.end - self._written]
            self._check_header(piece)
            self.prepare()
            assert self._file is not None
            self._file.write(piece)
            self._written += len(piece)
            data = data[len(piece) :]
            if self._written == self._segment.end:
                self._finish(self._file)

    def flush(self) -> None:
        """Make durable everything before write_lsn. Raises: StorageError."""
        if self._file is not None:
            self._file.flush()
        self._flushed = self._written

    def skip(self, segment: Segment) -> None:
        """Go on behind a segment that somebody else has just stored durably under its name."""
        assert self._written == segment.start
        self.close_file()
        self._go_to(segment.next())

    def close_file(self) -> None:
        """Let go of the file being written; it stays .partial."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let go of the directory. No effect the second time."""
        self.close_file()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _settle_names(self) -> None:
        """Make durable what names there are: a killed run, or a failed sync, may not have.

        On a new descriptor, so that no failed sync is repeated.
        """
        with storage_errors("open WAL directory", self._path):
            folder, self._folder = self._folder, os.open(self._path, DIRECTORY_FLAGS)
            os.close(folder)
            self._filesystem.fsync_directory(self._folder)

    def _go_to(self, segment: Segment) -> None:
        self._segment = segment
        self._written = self._flushed = segment.start
        self._header = b""

    def _finish(self, file: PartialFile) -> None:
        file.finish(self._archived(self._segment.name))
        self._file = None
        finished = self._segment
        self._go_to(finished.next())
        self._finished(finished)

    def _check_header(self, piece: memoryview) -> None:
        if len(self._header) >= LONG_HEADER_SIZE:
            return
        self._header += bytes(piece[: LONG_HEADER_SIZE - len(self._header)])
        if len(self._header) == LONG_HEADER_SIZE:
            check_segment_header(self._header, self._segment, self._system_identifier)

    def _size(self, name: str) -> int:
        with suppress(FileNotFoundError):
            return os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_size
        return -1

    def _start_of(self, span: WalSpan) -> WalPosition:
        segment = Segment.containing(span.timeline, span.start, self._segment_size)
        return WalPosition(span.timeline, segment.start)

    def _is_superseded(self, partial: Segment, spans: list[WalSpan], found: Contents) -> bool:
        """Tell whether a full segment, or one of the next timeline, has a .partial's place.

        spans: from the timeline of the .partial on.
        """
        if partial in found.full:
            return True
        if partial.end <= spans[0].end or len(spans) == 1:
            return False
        heir = Segment(spans[1].timeline, partial.number, partial.size)
        return heir in found.full or heir in found.partial

    def _remove_contained(self, timeline: Timeline) -> None:
        """Remove every .partial of a timeline that a full segment contains."""
        found = self.contents()
        for segment in found.partial & found.full:
            if segment.timeline == timeline and self._is_contained(segment):
                with storage_errors("remove WAL file", f"{self._path}/{segment.name}.partial"):
                    self._filesystem.unlink(segment.name + PARTIAL_SUFFIX, dir_fd=self._folder)
                    self._filesystem.fsync_directory(self._folder)

    def _is_contained(self, segment: Segment) -> bool:
        chunks = self._archived(segment.name)
        if chunks is None:
            return False
        name, at = segment.name + PARTIAL_SUFFIX, 0
        with storage_errors("read WAL file", f"{self._path}/{name}"):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                for chunk in chunks:
                    if not agrees(os.pread(fd, len(chunk), at), chunk, at):
                        return False
                    at += len(chunk)
            finally:
                os.close(fd)
        return at == segment.size


def all_spans(history: TimelineHistory) -> list[WalSpan]:
    """What each timeline of a history contributes, oldest first."""
    first = history.entries[0].timeline if history.entries else history.timeline
    start = WalPosition(first, Lsn(0))
    return history.path(start, WalPosition(history.timeline, Lsn(MAX_LSN)))


def within(span: WalSpan, segments: Iterable[Segment]) -> list[Segment]:
    """Those segments of a span's timeline that hold bytes of it."""
    return [
        segment
        for segment in segments
        if segment.timeline == span.timeline
        and segment.start < span.end
        and segment.end > span.start
    ]


def _by_number(segment: Segment) -> int:
    return segment.number
