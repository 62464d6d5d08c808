"""WAL for tests: records that a server would accept the checksums of, spread over pages."""

import random
import struct

from crc32c import crc32c

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.pg.walfile import (
    FIRST_IS_CONTRECORD,
    LONG_HEADER,
    OVERWRITE_CONTRECORD,
    PAGE_MAGIC,
)

PAGE = 8192
MIB = 1 << 20
NOOP, SWITCH = 0x20, 0x40  # of resource manager 0; pg_control.h


def record(payload: bytes, previous: int, info: int = NOOP, manager: int = 0) -> bytes:
    """One record whose block-less data is `payload`. Source: xlogrecord.h (PostgreSQL 18)"""
    start = struct.pack("<IIQBBxx", 24 + len(payload), 7, previous, info, manager)
    return start + struct.pack("<I", crc32c(start, crc32c(payload))) + payload


class WalWriter:
    """Writes records from the start of a segment on."""

    def __init__(self, first: Segment, system: int, major: int = 15) -> None:
        self._first = first
        self._system = system
        self._magic = PAGE_MAGIC[major]
        self._data = bytearray()
        self._overwrites = False
        self.previous = 0

    @property
    def position(self) -> Lsn:
        return Lsn(self._first.start + len(self._data))

    def add(self, payload: bytes, info: int = NOOP, manager: int = 0) -> Lsn:
        """Append a record; return where it begins."""
        self._begin_page(0)
        start = self.position
        left = record(payload, self.previous, info, manager)
        self.previous = start
        while left:
            self._begin_page(len(left))
            room = PAGE - len(self._data) % PAGE
            self._data += left[:room]
            left = left[room:]
        self._data += bytes(-len(self._data) % 8)
        return start

    def give_up(self) -> None:
        """Leave the last record without its last page, as a server that crashed and came back."""
        del self._data[len(self._data) // PAGE * PAGE :]
        self._overwrites = True

    def switch(self) -> Lsn:
        """End the segment as pg_switch_wal does; return the position behind the switch."""
        self.add(b"", SWITCH)
        end = self.position
        self._data += bytes(-len(self._data) % self._first.size)
        return end

    def segments(self) -> dict[Segment, bytes]:
        """All segments begun, the last one filled up with zeros."""
        size = self._first.size
        data = bytes(self._data) + bytes(-len(self._data) % size)
        return {
            Segment(self._first.timeline, self._first.number + at // size, size): data[
                at : at + size
            ]
            for at in range(0, len(data), size)
        }

    def _begin_page(self, remaining: int) -> None:
        at = len(self._data)
        if at % PAGE:
            return
        is_first = at % self._first.size == 0
        is_continued = remaining and self.previous != self.position
        info = (LONG_HEADER if is_first else 0) | (FIRST_IS_CONTRECORD if is_continued else 0)
        if self._overwrites:
            info, self._overwrites = info | OVERWRITE_CONTRECORD, False
        self._data += struct.pack(
            "<HHIQI4x",
            self._magic,
            info,
            self._first.timeline,
            self.position,
            remaining if is_continued else 0,
        )
        if is_first:
            self._data += struct.pack("<QII", self._system, self._first.size, PAGE)


def sample_wal(
    system: int, *, timeline: int = 1, number: int = 2, seed: int = 1, major: int = 15
) -> tuple[dict[Segment, bytes], Lsn, Lsn]:
    """Two segments with records of all lengths; the segments, a start and a stop position."""
    source = random.Random(seed)
    writer = WalWriter(Segment(Timeline(timeline), number, MIB), system, major)
    starts = []
    while writer.position < writer._first.end + MIB // 2:
        starts.append(writer.add(source.randbytes(source.choice([0, 1, 30, 500, 9000, 40_000]))))
    stop = writer.switch()
    return writer.segments(), starts[1], stop
