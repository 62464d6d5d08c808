"""Positions in the write-ahead log, and every name and number made from them.

Log sequence numbers, timelines, segments and the names of the files in pg_wal. All arithmetic on
positions is done here. The segment size is always an argument: it belongs to the cluster.
Values that cannot exist raise CorruptData, since they come from something that was read; a caller
with text typed by a user turns that into a usage error.

The WAL hooks load this module once per segment: no dataclasses, and no pattern compiled before it
is needed, which together would take longer than all the rest.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, Self

from pgbackup.errors import CorruptData

MAX_LSN = 2**64 - 1
MAX_TIMELINE = 2**32 - 1
MIN_SEGMENT_SIZE = 1 << 20  # bytes; xlog_internal.h, WalSegMinSize
MAX_SEGMENT_SIZE = 1 << 30  # bytes; xlog_internal.h, WalSegMaxSize

_XLOGID_SIZE = 1 << 32  # bytes of WAL for which the middle part of a segment name stays the same

_LSN = r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})"
_TIMELINE = r"[0-9A-Fa-f]{8}"
_SEGMENT = r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})"
_WAL_FILE = (
    r"(?P<timeline>[0-9A-F]{8})"
    r"(?:(?P<history>\.history)"
    r"|(?P<log>[0-9A-F]{8})(?P<low>[0-9A-F]{8})"
    r"(?:(?P<partial>\.partial)|\.(?P<offset>[0-9A-F]{8})\.backup)?)"
)


class _Value:
    """A value whose fields never change: those of __slots__, in the order of __init__."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, *values: object) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} never changes")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = zip(self.__slots__, self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()


class Lsn(int):
    """A log sequence number: a byte position in the WAL.

    Always: 0 <= lsn < 2**64. Zero is PostgreSQL's "no position" (InvalidXLogRecPtr).
    `lsn + n` is an Lsn, `lsn - x` is a plain int. Text is "%X/%X", as PostgreSQL prints it.
    """

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 0 <= value <= MAX_LSN:
            raise CorruptData(f'could not use WAL position "{value:#x}": not a 64-bit number')
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "%X/%X", either case, leading zeros allowed.

        Raises: CorruptData.
        Source: pg_lsn.c, pg_lsn_in_internal (PostgreSQL 18)
        """
        match = re.fullmatch(_LSN, text)
        if match is None:
            raise CorruptData(
                f'could not parse WAL position "{text}": '
                'not two hexadecimal numbers of up to 8 digits with "/" between'
            )
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __add__(self, other: int) -> "Lsn":
        return Lsn(int(self) + other)

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"


class Timeline(int):
    """A timeline number, 1 to 2**32 - 1. Decimal in text, hexadecimal in file names."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 1 <= value <= MAX_TIMELINE:
            raise CorruptData(f'could not use timeline "{value}": not from 1 to {MAX_TIMELINE}')
        return super().__new__(cls, value)

    @classmethod
    def parse_hex(cls, text: str) -> Self:
        """Read the 8 hexadecimal digits that file names begin with.

        Raises: CorruptData.
        """
        if re.fullmatch(_TIMELINE, text) is None:
            raise CorruptData(f'could not parse timeline "{text}": not 8 hexadecimal digits')
        return cls(int(text, 16))

    @property
    def hex(self) -> str:
        """The 8 upper-case digits used in file names."""
        return f"{self:08X}"

    @property
    def history_name(self) -> str:
        """The name of the file with this timeline's history. Timeline 1 has none."""
        return f"{self.hex}.history"


class WalPosition(_Value):
    """A position on one timeline. Not ordered: what comes later depends on the history."""

    __slots__ = ("timeline", "lsn")  # noqa: RUF023 - their order

    timeline: Timeline
    lsn: Lsn

    def __init__(self, timeline: Timeline, lsn: Lsn) -> None:
        super().__init__(timeline, lsn)

    def __str__(self) -> str:
        return f"{self.lsn} on timeline {self.timeline}"


def is_valid_segment_size(size: int) -> bool:
    """Tell whether a WAL segment may have this many bytes: a power of two, 1 MiB to 1 GiB.

    Source: xlog_internal.h, IsValidWalSegSize (PostgreSQL 18)
    """
    return MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE and size & (size - 1) == 0


def _check_segment_size(size: int) -> None:
    if not is_valid_segment_size(size):
        raise CorruptData(
            f'could not use WAL segment size "{size}": not a power of two from 1 MiB to 1 GiB'
        )


class Segment(_Value):
    """One WAL segment: `size` bytes of WAL from `start`, written on `timeline`.

    Always: the size is valid and `end` is a position, so the very last segment of the 64-bit
    address space, whose end would not be one, is refused.

    number: `start` divided by `size`.
    size:   bytes.
    """

    __slots__ = ("timeline", "number", "size")  # noqa: RUF023 - their order

    timeline: Timeline
    number: int
    size: int

    def __init__(self, timeline: Timeline, number: int, size: int) -> None:
        _check_segment_size(size)
        if not 0 <= number < MAX_LSN // size:
            raise CorruptData(
                f'could not use WAL segment number "{number}": no such segment of {size} bytes'
            )
        super().__init__(timeline, number, size)

    @classmethod
    def containing(cls, timeline: Timeline, lsn: Lsn, size: int) -> Self:
        """The segment that holds the byte at `lsn`."""
        _check_segment_size(size)
        return cls(timeline, lsn // size, size)

    @classmethod
    def ending_at(cls, timeline: Timeline, lsn: Lsn, size: int) -> Self:
        """The segment that holds the byte before `lsn`: a boundary belongs to what it ends.

        Raises: CorruptData for position zero, before which there is nothing.
        """
        return cls.containing(timeline, Lsn(lsn - 1), size)

    @classmethod
    def parse(cls, name: str, size: int) -> Self:
        """Read the 24 digits of a segment's name.

        Raises: CorruptData, also for a name that no segment of this size has.
        """
        match = re.fullmatch(_SEGMENT, name)
        if match is None:
            raise CorruptData(
                f'could not parse WAL segment name "{name}": not 24 upper-case hexadecimal digits'
            )
        timeline, log, low = (int(part, 16) for part in match.groups())
        return cls._of_parts(Timeline(timeline), log, low, size, name)

    @classmethod
    def _of_parts(cls, timeline: Timeline, log: int, low: int, size: int, name: str) -> Self:
        _check_segment_size(size)
        per_log = _XLOGID_SIZE // size
        if low >= per_log:
            raise CorruptData(
                f'could not parse WAL segment name "{name}": '
                f"no segment of {size} bytes has this name"
            )
        return cls(timeline, log * per_log + low, size)

    @property
    def name(self) -> str:
        """The file name: timeline, then the number in two parts, 8 digits each.

        Source: xlog_internal.h, XLogFileName (PostgreSQL 18)
        """
        log, low = divmod(self.number, _XLOGID_SIZE // self.size)
        return f"{self.timeline:08X}{log:08X}{low:08X}"

    @property
    def start(self) -> Lsn:
        """The position of the first byte."""
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        """The position behind the last byte: the start of the next segment."""
        return Lsn((self.number + 1) * self.size)

    def next(self) -> "Segment":
        """The following segment on the same timeline."""
        return Segment(self.timeline, self.number + 1, self.size)

    def __str__(self) -> str:
        return self.name


def segments_between(timeline: Timeline, start: Lsn, stop: Lsn, size: int) -> Iterator[Segment]:
    """Yield, in order, every segment that holds a byte of [start, stop)."""
    if start >= stop:
        return
    segment = Segment.containing(timeline, start, size)
    last = Segment.ending_at(timeline, stop, size)
    yield segment
    while segment.number < last.number:
        segment = segment.next()
        yield segment


class WalFileKind(Enum):
    """What a name in pg_wal, or in a WAL archive, says the file is."""

    SEGMENT = "segment"
    PARTIAL = "partial"  # the last, incomplete segment of a timeline, or one being received
    HISTORY = "history"  # timeline history
    BACKUP = "backup"  # backup history: which WAL a base backup needs
    OTHER = "other"


class WalFileName(_Value):
    """The name of a file of a WAL archive, taken apart once.

    text:     the whole name.
    timeline: None only for OTHER.
    log, low: the two parts of the segment number; None for HISTORY and OTHER.
    offset:   bytes from the start of the segment to the start of the backup; BACKUP only.
    """

    __slots__ = ("text", "kind", "timeline", "log", "low", "offset")  # noqa: RUF023 - their order

    text: str
    kind: WalFileKind
    timeline: Timeline | None
    log: int | None
    low: int | None
    offset: int | None

    def __init__(
        self,
        text: str,
        kind: WalFileKind,
        timeline: Timeline | None = None,
        log: int | None = None,
        low: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(text, kind, timeline, log, low, offset)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take any name apart. What PostgreSQL would not write is OTHER, never an error."""
        match = re.fullmatch(_WAL_FILE, text)
        if match is None or int(match["timeline"], 16) == 0:
            return cls(text, WalFileKind.OTHER)
        timeline = Timeline(int(match["timeline"], 16))
        if match["history"]:
            return cls(text, WalFileKind.HISTORY, timeline)
        log, low = int(match["log"], 16), int(match["low"], 16)
        if match["partial"]:
            return cls(text, WalFileKind.PARTIAL, timeline, log, low)
        if match["offset"]:
            offset = int(match["offset"], 16)
            return cls(text, WalFileKind.BACKUP, timeline, log, low, offset)
        return cls(text, WalFileKind.SEGMENT, timeline, log, low)

    @property
    def segment_name(self) -> str | None:
        """The name of the complete segment: the first 24 digits; None if it names no segment."""
        return None if self.log is None else self.text[:24]

    def segment(self, size: int) -> Segment:
        """The segment that is named, of `size` bytes.

        Raises: CorruptData if none is named, or none of that size has this name.
        """
        if self.timeline is None or self.log is None or self.low is None:
            raise CorruptData(f'could not parse WAL file name "{self.text}": it names no segment')
        return Segment._of_parts(self.timeline, self.log, self.low, size, self.text)

    def __str__(self) -> str:
        return self.text


def backup_history_name(segment: Segment, start: Lsn) -> str:
    """The name of the backup history file of a backup that starts at `start` in `segment`.

    Source: xlog_internal.h, BackupHistoryFileName (PostgreSQL 18)
    """
    return f"{segment.name}.{start - segment.start:08X}.backup"
