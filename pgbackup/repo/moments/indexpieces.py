"""How the notes of segments are stored: immutable pieces, each of one timeline.

An object is named by the checksum of its content, so one that is damaged, or not whole, is known
at once, and two that write the same write one. Everything here can be made again from the WAL: an
object may vanish at any time, and what makes no sense counts as not there.
"""

import hashlib
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple, Self

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.walrecord import EventKind, WalEvent
from pgbackup.repo import layout
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.moments.walindex import WIDTH, SegmentNotes
from pgbackup.repo.repository import ClusterRepository

ROW = WIDTH * 8
"""Bytes of the notes of one segment."""

_MAGIC = b"PGBWIX1\n"
_HEADER = struct.Struct("<8sQIIQ")  # magic, segment size, timeline, columns, rows
_EVENT = struct.Struct("<QBqIIB")  # position, kind, time, timeline, previous, length of the name
_LIMIT = 1 << 30  # bytes; a million segments take a tenth of it
_ATTEMPTS = 5  # to read all of a set that others replace meanwhile


class Piece(NamedTuple):
    """Notes of one timeline.

    name: of the object; "" if there is none.
    rows: as TimelineIndex takes them.
    """

    name: str
    timeline: Timeline
    rows: bytes
    events: Sequence[WalEvent]

    @classmethod
    def of_notes(
        cls, timeline: Timeline, notes: Iterable[SegmentNotes], events: Sequence[WalEvent]
    ) -> Self:
        """One that is not stored. notes: ascending by number."""
        return cls("", timeline, array("q", chain.from_iterable(notes)).tobytes(), events)

    @property
    def numbers(self) -> "array[int]":
        """The numbers of its segments, ascending."""
        return array("q", memoryview(self.rows).cast("q")[::WIDTH].tobytes())

    def __bool__(self) -> bool:
        return bool(self.rows)

    def within(self, stretches: Iterable[Stretch]) -> "Piece":
        """What of it is about segments that are there."""
        numbers = self.numbers
        parts: list[bytes] = []
        events: list[WalEvent] = []
        for each in stretches:
            first = bisect_left(numbers, each.first.number)
            end = bisect_left(numbers, each.last.number + 1)
            parts.append(self.rows[first * ROW : end * ROW])
            low = bisect_left(self.events, each.start, key=lambda event: event.lsn)
            high = bisect_left(self.events, each.end, key=lambda event: event.lsn)
            events += self.events[low:high]
        return self._replace(rows=b"".join(parts), events=events)


def joined(timeline: Timeline, pieces: Iterable[Piece]) -> Piece:
    """All of them as one that is not stored; of a segment that is in several, one counts."""
    ordered = sorted((each for each in pieces if each), key=lambda each: each.numbers[0])
    overlap = any(before.numbers[-1] >= after.numbers[0] for before, after in pairwise(ordered))
    if not overlap:
        rows = b"".join(each.rows for each in ordered)
    else:
        by_number = {
            number: each.rows[at * ROW : (at + 1) * ROW]
            for each in ordered
            for at, number in enumerate(each.numbers)
        }
        rows = b"".join(by_number[number] for number in sorted(by_number))
    events = {event.lsn: event for each in ordered for event in each.events}
    return Piece("", timeline, rows, [events[lsn] for lsn in sorted(events)])


def read_pieces(cluster: ClusterRepository, segment_size: int) -> list[Piece]:
    """All that are stored; a damaged one as one of nothing. Raises: StorageError."""
    found: list[Piece] = []
    for _ in range(_ATTEMPTS):
        found = []
        names = [
            each.name
            for each in cluster.storage.list(layout.wal_index_folder(cluster.system))
            if layout.is_wal_index_object(cluster.system, each.name)
        ]
        for name in names:
            try:
                found.append(_read(cluster, name, segment_size))
            except NotFound:
                break
        else:
            break
    return found


def put_piece(cluster: ClusterRepository, piece: Piece, segment_size: int) -> Piece:
    """Store one; return it with its name. Raises: StorageError."""
    data = _encode(piece, segment_size)
    digest = hashlib.sha256(data).hexdigest()[:32]
    name = layout.wal_index_object(cluster.system, piece.timeline.hex, digest)
    with cluster.storage.writer(name) as writer:
        writer.write(data)
        writer.commit(replace=True)  # of the same content, or a damaged one
    return piece._replace(name=name)


def _read(cluster: ClusterRepository, name: str, segment_size: int) -> Piece:
    timeline, _, digest = name.rpartition("/")[2].partition("-")
    nothing = Piece(name, Timeline.parse_hex(timeline), b"", ())
    try:
        data = cluster.storage.read(name, _LIMIT)
        if hashlib.sha256(data).hexdigest()[:32] != digest:
            return nothing
        piece = _decode(name, data, segment_size)
    except (CorruptData, struct.error, ValueError):
        return nothing
    return piece if piece.timeline == nothing.timeline else nothing


def _encode(piece: Piece, segment_size: int) -> bytes:
    count = len(piece.rows) // ROW
    parts = [_HEADER.pack(_MAGIC, segment_size, piece.timeline, WIDTH, count), _native(piece.rows)]
    for event in piece.events:
        name = event.name.encode("utf-8", "surrogateescape")
        parts.append(
            _EVENT.pack(
                event.lsn, event.kind, event.time, event.timeline, event.previous, len(name)
            )
        )
        parts.append(name)
    return b"".join(parts)


def _decode(name: str, data: bytes, segment_size: int) -> Piece:
    """Raises: ValueError, struct.error, CorruptData."""
    magic, size, timeline, width, count = _HEADER.unpack_from(data)
    at = _HEADER.size + count * ROW
    if (magic, size, width) != (_MAGIC, segment_size, WIDTH) or at > len(data):
        raise ValueError
    rows = _native(data[_HEADER.size : at])
    events = []
    while at < len(data):
        lsn, kind, time, current, previous, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        text = data[at : at + length].decode("utf-8", "surrogateescape")
        events.append(WalEvent(Lsn(lsn), EventKind(kind), time, text, current, previous))
        at += length
    return Piece(name, Timeline(timeline), rows, events)


def _native(rows: bytes) -> bytes:
    """Rows with their numbers little-endian, as stored, or back."""
    if sys.byteorder == "little":
        return rows
    numbers = array("q", rows)
    numbers.byteswap()
    return numbers.tobytes()
