"""Timeline history files: from which timeline a timeline came, and where it left it.

Pure: the text of a file in, answers about positions out. Timeline 1 has no file; its history is
that of no ancestors. PostgreSQL's rule for the points where timelines part: the position of a
switch belongs to the newer timeline.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import MAX_LSN, Lsn, Timeline, WalPosition

_ENTRY = re.compile(r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s+(.*))?", re.ASCII)


class HistoryEntry(NamedTuple):
    """An ancestor, the position from which it no longer counts, and the server's words for why."""

    timeline: Timeline
    switch: Lsn
    reason: str = ""


class WalSpan(NamedTuple):
    """WAL of one timeline: [start, end)."""

    timeline: Timeline
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """A timeline and all its ancestors, oldest first.

    Always: timelines ascend strictly and are less than `timeline`; switches do not descend.
    In files they can: recovery along timeline 2 that stopped before 2 had left 1 still names 2 as
    the parent. Then the later line counts, as it does for the server, and 2 contributes nothing.
    """

    timeline: Timeline
    entries: tuple[HistoryEntry, ...] = ()

    @classmethod
    def parse(cls, timeline: Timeline, data: bytes) -> Self:
        """Read the content of `timeline`'s history file.

        Raises: CorruptData.
        Source: timeline.c, readTimeLineHistory (PostgreSQL 18)
        """
        entries: list[HistoryEntry] = []
        # Only line feeds end lines; the reason may hold whatever a restore point is named.
        for number, line in enumerate(data.split(b"\n"), 1):
            text = line.decode("utf-8", "surrogateescape")
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            match = _ENTRY.fullmatch(text)
            if match is None:
                raise _corrupt(timeline, f"line {number} is not a timeline and a position")
            entry = HistoryEntry(Timeline(int(match[1])), Lsn.parse(match[2]), match[3] or "")
            if entries and entry.timeline <= entries[-1].timeline:
                raise _corrupt(timeline, f"timelines do not ascend in line {number}")
            entries.append(entry)
        if entries and entries[-1].timeline >= timeline:
            raise _corrupt(timeline, f"timeline {entries[-1].timeline} is not older")
        return cls(timeline, tuple(_without_descents(entries)))

    def timeline_of(self, lsn: Lsn) -> Timeline:
        """The timeline on which the byte at `lsn` was written.

        Source: timeline.c, tliOfPointInHistory (PostgreSQL 18)
        """
        for entry in self.entries:
            if lsn < entry.switch:
                return entry.timeline
        return self.timeline

    def switch_from(self, timeline: Timeline) -> Lsn | None:
        """The position at which this history left `timeline`; None for its own timeline.

        Raises: CorruptData if `timeline` is not part of this history.
        """
        if timeline == self.timeline:
            return None
        for entry in self.entries:
            if entry.timeline == timeline:
                return entry.switch
        raise _corrupt(self.timeline, f"timeline {timeline} is not an ancestor")

    def __contains__(self, position: WalPosition) -> bool:
        """Tell whether this history passes through `position`.

        It passes through the position of a switch on both timelines.
        """
        return any(
            span.timeline == position.timeline and span.start <= position.lsn <= span.end
            for span in self._spans()
        )

    def path(self, start: WalPosition, stop: WalPosition) -> list[WalSpan]:
        """The WAL from `start` to `stop`, oldest timeline first.

        Always: the spans join, none is empty, and they cover [start, stop).

        Raises: CorruptData if one of them is not in this history or they are the wrong way round.
        """
        for position in (start, stop):
            if position not in self:
                raise _corrupt(self.timeline, f"it does not lead through {position}")
        if start.lsn > stop.lsn or start.timeline > stop.timeline:
            raise _corrupt(self.timeline, f"{start} is not before {stop}")
        spans = []
        for timeline, begin, end in self._spans():
            first, last = max(start.lsn, begin), min(stop.lsn, end)
            if first < last and start.timeline <= timeline <= stop.timeline:
                spans.append(WalSpan(timeline, first, last))
        return spans

    def _spans(self) -> Iterator[WalSpan]:
        start = Lsn(0)
        for entry in self.entries:
            yield WalSpan(entry.timeline, start, entry.switch)
            start = entry.switch
        yield WalSpan(self.timeline, start, Lsn(MAX_LSN))


def _without_descents(entries: list[HistoryEntry]) -> list[HistoryEntry]:
    """Let no timeline count beyond the position at which a later line leaves its own."""
    limit = Lsn(MAX_LSN)
    limited = []
    for entry in reversed(entries):
        limit = min(limit, entry.switch)
        limited.append(entry._replace(switch=limit))
    return limited[::-1]


def _corrupt(timeline: Timeline, reason: str) -> CorruptData:
    return CorruptData(f'could not use timeline history "{timeline.history_name}": {reason}')
