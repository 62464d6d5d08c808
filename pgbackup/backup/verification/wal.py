"""The WAL that a backup needs: there, of this system, and without a gap or a damaged record.

Every record of every segment is checksummed and must name the one before it, so that nothing that
recovery would read is taken on trust. Segments are read in pieces: they can be as large as 1 GiB.
"""

from collections.abc import Callable, Iterator

from pgbackup.backup.stored import StoredBackup, read_history
from pgbackup.backup.walrecords import WalRecords
from pgbackup.errors import CorruptData, NotFound, WrongSystem
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.pg.walfile import PageCheck
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.catalog import HistoryRecord

PIECE_SIZE = 1 << 20
"""Bytes in which WAL is checked: whole pages, however large these are."""


class WalCheck:
    """Checks all WAL of one backup.

    advance: told of the bytes read.
    """

    def __init__(
        self, backup: StoredBackup, archive: WalArchive, advance: Callable[[int], object]
    ) -> None:
        self._backup = backup
        self._record = backup.record
        self._archive = archive
        self._advance = advance
        self._walk = WalRecords()

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each thing that is wrong."""
        for wal_range in self._record.wal:
            self._walk = WalRecords()
            for segment in wal_range.segments(self._record.wal_segment_size):
                yield from self._attempt(segment, self._check_segment)
        if self._record.tail is not None:
            segment = Segment.parse(
                self._record.tail.removesuffix(".partial"), self._record.wal_segment_size
            )
            yield from self._attempt(segment, self._check_tail)
        for history in self._record.histories:
            yield from self._history_problems(history)

    def _attempt(self, segment: Segment, check: Callable[[Segment], object]) -> Iterator[str]:
        try:
            check(segment)
        except (NotFound, CorruptData, WrongSystem) as error:
            self._walk = WalRecords()
            yield error.message

    def _check_segment(self, segment: Segment) -> None:
        self._check(segment, self._archive.chunks(segment.name, segment.size))

    def _check_tail(self, segment: Segment) -> None:
        assert self._record.tail is not None
        end = self._check(segment, self._backup.chunks(self._record.tail))
        if end != self._record.stop_lsn:
            raise CorruptData(
                f'could not use WAL "{self._record.tail}": it ends at {end},'
                f" the backup at {self._record.stop_lsn}"
            )
        self._advance(segment.end - end)

    def _check(self, segment: Segment, chunks: Iterator[bytes]) -> Lsn:
        return check_content(
            self._walk, segment, self._record.system_identifier, chunks, self._advance
        )

    def _history_problems(self, listed: HistoryRecord) -> Iterator[str]:
        record = self._record
        start = WalPosition(record.timeline, record.start_lsn)
        stop = WalPosition(record.stop_timeline, record.stop_lsn)
        try:
            timeline = Timeline.parse_hex(listed.name[:8])
            history = TimelineHistory.parse(timeline, read_history(self._archive, listed))
            if timeline == record.stop_timeline:
                history.path(start, stop)
        except (NotFound, CorruptData) as error:
            yield error.message


def check_content(
    walk: WalRecords,
    segment: Segment,
    system_identifier: int,
    chunks: Iterator[bytes],
    advance: Callable[[int], object],
) -> Lsn:
    """Check a segment piece by piece; return the position behind it.

    walk:    has walked the segments before this one, or none.
    advance: told of the bytes read.

    Raises: CorruptData, WrongSystem; the walk is of no use then. Whatever chunks raises.
    """
    pages = PageCheck(segment, system_identifier)
    try:
        for piece in _pieces(chunks):
            offset = pages.position - segment.start
            pages.add(piece)
            walk.add(piece, segment, offset)
            advance(len(piece))
    except (CorruptData, WrongSystem):
        # If the object is damaged, it is not said of the content that comes of that.
        for _ in chunks:
            pass
        raise
    return pages.position


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, and what is left of them, be it nothing."""
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= PIECE_SIZE:
            yield bytes(waiting[:PIECE_SIZE])
            del waiting[:PIECE_SIZE]
    yield bytes(waiting)
