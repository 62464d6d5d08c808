"""Which WAL stays: the segments that each thing needs, as ranges of their numbers by timeline.

Pure. A range says why it is there; of several that overlap, the one that begins first does.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import MAX_LSN, Lsn, Segment, Timeline, WalPosition
from pgbackup.repo.record import BackupRecord


class NeededRange(NamedTuple):
    """Segments of one timeline from number `first` to before `end`, and why they stay."""

    first: int
    end: int
    reason: str


class WalNeeds:
    """Collects needs.

    histories:    of every timeline that is known of, without ancestors where no file tells them.
    segment_size: bytes.
    """

    def __init__(self, histories: Mapping[Timeline, TimelineHistory], segment_size: int) -> None:
        self._histories = histories
        self._size = segment_size
        self._ranges: dict[Timeline, list[NeededRange]] = {}

    @property
    def infinity(self) -> int:
        """A segment number above all."""
        return MAX_LSN // self._size + 1

    def ranges(self, timeline: Timeline) -> list[NeededRange]:
        """What is needed of a timeline, in order and without overlap."""
        merged: list[NeededRange] = []
        done = 0
        for each in sorted(self._ranges.get(timeline, ())):
            if each.end > done:
                merged.append(each._replace(first=max(each.first, done)))
                done = each.end
        return merged

    def timelines(self) -> Collection[Timeline]:
        """The timelines of which something is needed."""
        return self._ranges.keys()

    def add_whole(self, timeline: Timeline, reason: str) -> None:
        """All of a timeline."""
        self._add(timeline, 0, self.infinity, reason)

    def add_from(self, timeline: Timeline, first: int, reason: str) -> None:
        """A timeline from a segment on, given by number."""
        self._add(timeline, first, self.infinity, reason)

    def add_own(self, record: BackupRecord) -> None:
        """From the start of a backup to its stop."""
        for each in record.wal:
            first, last = each.check(record.wal_segment_size)
            self._add(first.timeline, first.number, last.number + 1, f"of {record.label} itself")

    def add_after(self, records: Iterable[BackupRecord]) -> None:
        """From the start of backups on, on every timeline that they can be recovered along."""
        records = list(records)
        for history in self._histories.values():
            starts = [
                (record.start_lsn, record.timeline, record.label)
                for record in records
                if WalPosition(record.stop_timeline, record.stop_lsn) in history
                and WalPosition(record.timeline, record.start_lsn) in history
            ]
            if starts:
                lsn, began, label = min(starts)
                self._add_path(history, WalPosition(began, lsn), f"{label} and after it")

    def add_slot(self, name: str, position: WalPosition) -> None:
        """What a slot holds: everything from its position on."""
        reason = f"slot {name} holds it"
        for history in self._histories.values():
            if position in history:
                self._add_path(history, position, reason)
        if position.timeline not in self._histories:
            number = Segment.containing(position.timeline, position.lsn, self._size).number
            self.add_from(position.timeline, number, reason)

    def _add_path(self, history: TimelineHistory, start: WalPosition, reason: str) -> None:
        end = WalPosition(history.timeline, Lsn(MAX_LSN))
        for span in history.path(start, end):
            self._add(span.timeline, span.start // self._size, -(-span.end // self._size), reason)

    def _add(self, timeline: Timeline, first: int, end: int, reason: str) -> None:
        self._ranges.setdefault(timeline, []).append(NeededRange(first, end, reason))


def named_histories(
    staying: Iterable[Timeline], histories: Mapping[Timeline, TimelineHistory]
) -> Iterator[Timeline]:
    """The timelines whose history files are needed for these, ancestors included."""
    for timeline in staying:
        yield timeline
        if timeline in histories:
            yield from (entry.timeline for entry in histories[timeline].entries)
