"""Stretches: an archive cut at the starts of members, so that threads can share it.

Each stretch is read, decoded and walked by one thread from beginning to end; there is no queue
between threads. The cuts come from the index, and the members found are compared with it.

Never creates or judges anything: what a member means is its handler's business.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pgbackup.backup.stored import FrameReader, StoredArchive
from pgbackup.errors import CorruptData
from pgbackup.pg.tar import TarHeader
from pgbackup.stream.index import IndexEntry
from pgbackup.stream.untar import MemberHandler, TarWalker

MIN_SIZE = 32 << 20
"""Plain bytes. The frame at a cut is decoded twice: at most an eighth of the work."""

MAX_GAP = 4 << 20
"""Plain bytes that nobody needs and that are read all the same: about a frame."""

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


def cut(
    archives: Sequence[tuple[StoredArchive, Sequence[IndexEntry]]],
    jobs: int,
    is_needed: Callable[[StoredArchive, IndexEntry], bool] | None = None,
) -> list[Stretch]:
    """Cut archives into stretches for `jobs` threads, the largest first.

    is_needed: tells which members have to be among them; None for all, and the end markers.
    """
    wholes = [Stretch(archive, 0, archive.record.size, entries) for archive, entries in archives]
    runs = wholes
    if is_needed is not None:
        runs = [run for whole in wholes for run in _needed(whole, is_needed)]
    size = max(MIN_SIZE, sum(run.size for run in runs) // (jobs * STRETCHES_PER_JOB))
    stretches = [stretch for run in runs for stretch in _cut_one(run, size)]
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


def _needed(
    whole: Stretch, is_needed: Callable[[StoredArchive, IndexEntry], bool]
) -> Iterator[Stretch]:
    """The parts of an archive that hold what is needed, and no long gaps."""
    entries = whole.entries
    ends = [entry.offset for entry in entries[1:]] + [whole.end]
    first = last = -1
    for number, entry in enumerate(entries):
        if not is_needed(whole.archive, entry):
            continue
        if first >= 0 and entry.offset - ends[last] > MAX_GAP:
            yield _part(whole, first, last, ends[last])
            first = -1
        first, last = number if first < 0 else first, number
    if first >= 0:
        yield _part(whole, first, last, ends[last])


def _part(whole: Stretch, first: int, last: int, end: int) -> Stretch:
    entries = whole.entries[first : last + 1]
    return Stretch(whole.archive, entries[0].offset, end, entries)


def _cut_one(run: Stretch, size: int) -> Iterator[Stretch]:
    start, first = run.start, 0
    for number, entry in enumerate(run.entries):
        if entry.offset - start >= size:
            yield Stretch(run.archive, start, entry.offset, run.entries[first:number])
            start, first = entry.offset, number
    yield Stretch(run.archive, start, run.end, run.entries[first:])
