"""Stretches: an archive cut at the starts of members, so that threads can share it.

Each stretch is read, decoded and walked by one thread from beginning to end; there is no queue
between threads. The cuts come from the index, and the members found are compared with it.

Never creates or judges anything: what a member means is its handler's business.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pgbackup.backup.stored import FrameReader, StoredArchive
from pgbackup.errors import CorruptData
from pgbackup.pg.tar import TarHeader
from pgbackup.stream.index import IndexEntry
from pgbackup.stream.untar import MemberHandler, TarWalker

MIN_SIZE = 32 << 20
"""Plain bytes. The frame at a cut is decoded twice: at most an eighth of the work."""

STRETCHES_PER_JOB = 6
"""How finely the work is cut, so that all threads end at about the same time."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive members of one archive: what one thread reads at a time.

    start, end: bytes of the plain archive; the end marker belongs to the last stretch.
    entries:    what the index says about them.
    """

    archive: StoredArchive
    start: int
    end: int
    entries: Sequence[IndexEntry] = field(repr=False)

    @property
    def size(self) -> int:
        """Plain bytes."""
        return self.end - self.start


def cut(archives: Sequence[tuple[StoredArchive, Sequence[IndexEntry]]], jobs: int) -> list[Stretch]:
    """Cut archives into stretches for `jobs` threads, the largest first."""
    total = sum(archive.record.size for archive, _ in archives)
    size = max(MIN_SIZE, total // (jobs * STRETCHES_PER_JOB))
    stretches = [
        stretch for archive, entries in archives for stretch in _cut_one(archive, entries, size)
    ]
    return sorted(stretches, key=lambda stretch: stretch.size, reverse=True)


def walk(stretch: Stretch, handler: MemberHandler, reader: FrameReader) -> Iterator[int]:
    """Pass the members of a stretch to a handler; yield how many bytes went by, frame by frame.

    Raises: CorruptData when they are not what the index says.
    """
    archive = stretch.archive
    expected = ExpectedMembers(handler, stretch.entries, archive.located)
    walker = TarWalker(expected, offset=stretch.start, name=archive.located)
    for frame in archive.frames_between(stretch.start, stretch.end):
        first = max(stretch.start - frame.offset, 0)
        last = min(stretch.end - frame.offset, frame.size)
        walker.feed(reader.read(frame)[first:last])
        yield last - first
    walker.finish()
    expected.finish()
    if stretch.end == archive.record.size and walker.end_offset is None:
        raise CorruptData(f'could not read archive "{archive.located}": it has no end marker')


class ExpectedMembers:
    """Compares members with the index before the handler sees them."""

    def __init__(self, handler: MemberHandler, entries: Sequence[IndexEntry], name: str) -> None:
        self._handler = handler
        self._entries = iter(entries)
        self._name = name
        self.member_contents = handler.member_contents
        self.end_member = handler.end_member

    def begin_member(self, header: TarHeader, offset: int) -> None:
        found = IndexEntry(offset, header.size, header.type, header.name)
        if next(self._entries, None) != found:
            raise self._differs(f'member "{header.name}" at byte {offset} is not in it')
        self._handler.begin_member(header, offset)

    def finish(self) -> None:
        """Say that the stretch is over. Raises: CorruptData if the index knows more members."""
        entry = next(self._entries, None)
        if entry is not None:
            raise self._differs(f'there is no member "{entry.name}" at byte {entry.offset}')

    def _differs(self, reason: str) -> CorruptData:
        return CorruptData(f'could not use the index of archive "{self._name}": {reason}')


def _cut_one(archive: StoredArchive, entries: Sequence[IndexEntry], size: int) -> Iterator[Stretch]:
    start = first = 0
    for number, entry in enumerate(entries):
        if entry.offset - start >= size:
            yield Stretch(archive, start, entry.offset, entries[first:number])
            start, first = entry.offset, number
    yield Stretch(archive, start, archive.record.size, entries[first:])
