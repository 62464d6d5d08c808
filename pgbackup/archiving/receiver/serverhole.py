"""What a server has removed of the WAL that a receiver would go on with.

Servers remove the oldest segments first, so where their WAL begins is found by halving, each time
with a connection of its own that takes a few bytes and reports nothing as stored.
"""

from collections.abc import Callable, Sequence

from pgbackup.errors import WalGap
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, WalPosition
from pgbackup.replication.slotstate import closing
from pgbackup.replication.transport import Transport
from pgbackup.replication.walreceiver import WalStream
from pgbackup.repo.coverage import Stretch

Connect = Callable[[], Transport]


def find_hole(
    connect: Connect, history: TimelineHistory, start: WalPosition, end: WalPosition, size: int
) -> list[Stretch]:
    """The segments from a position on that the server no longer has, by timeline.

    history: of the server's timeline.
    end:     where the server's WAL ends; its segment counts as there.
    size:    bytes of a segment.

    Raises: ConnectionFailed, ServerError.
    """
    stretches = segments_on_way(history, start, end, size)
    first, last = 0, sum(each.segment_count for each in stretches) - 1
    while first < last:
        middle = (first + last) // 2
        if _is_there(connect, _segment(stretches, middle)):
            last = middle
        else:
            first = middle + 1
    return _beginning(stretches, first)


def describe_stretches(stretches: Sequence[Stretch]) -> str:
    """Names and number of segments."""
    count = sum(each.segment_count for each in stretches)
    names = " and ".join(map(str, stretches))
    return f"WAL segment {names}" if count == 1 else f"WAL segments {names} ({count} segments)"


def segments_on_way(
    history: TimelineHistory, start: WalPosition, end: WalPosition, size: int
) -> list[Stretch]:
    """The segments from start to end; where a timeline was left, the newer one's."""
    found: list[Stretch] = []
    if start not in history or end not in history or start.lsn > end.lsn:
        return found
    for span in history.path(start, end):
        first, last = span.start // size, span.end // size - 1
        if span.timeline == end.timeline:
            last = end.lsn // size
        if first <= last:
            found.append(
                Stretch(Segment(span.timeline, first, size), Segment(span.timeline, last, size))
            )
    return found


def _segment(stretches: Sequence[Stretch], number: int) -> Segment:
    for stretch in stretches:
        if number < stretch.segment_count:
            return Segment(stretch.timeline, stretch.first.number + number, stretch.first.size)
        number -= stretch.segment_count
    raise IndexError(number)


def _beginning(stretches: Sequence[Stretch], count: int) -> list[Stretch]:
    found = []
    for stretch in stretches:
        if count <= 0:
            break
        length = min(count, stretch.segment_count)
        last = Segment(stretch.timeline, stretch.first.number + length - 1, stretch.first.size)
        found.append(Stretch(stretch.first, last))
        count -= length
    return found


def _is_there(connect: Connect, segment: Segment) -> bool:
    taste = _Taste(segment.start)
    with closing(connect()) as transport:
        try:
            WalStream(transport, taste, lambda: taste.write_lsn > segment.start).run(
                WalPosition(segment.timeline, segment.start)
            )
        except WalGap:
            return False
    return True


class _Taste:
    """A WalDestination that keeps nothing, and so reports nothing as flushed."""

    def __init__(self, start: Lsn) -> None:
        self.write_lsn = start
        self.flush_lsn = Lsn(0)

    def write(self, start: Lsn, data: memoryview) -> None:
        self.write_lsn = start + len(data)

    def flush(self) -> None:
        pass
