"""backup_label, the backup history file, and tablespace_map.

The two small files that make a copied data directory a base backup: where recovery has to start,
and where tablespaces were. Both are texts that the server reads line by line, so what would break
a line is refused when writing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from pgbackup.errors import CorruptData, UsageError
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition

MAX_LABEL: Final = 1024  # bytes; xlog.c, do_pg_backup_start

_LOCATION = re.compile(r"(\S+) \(file ([0-9A-F]{24})\)", re.ASCII)
_LINE_BREAK = re.compile(rb"[\r\n\0]")
_MAP_ENTRY = re.compile(rb"([0-9]{1,10}) (.+)", re.DOTALL)
# A line and what ends it. In version 13 a backslash means nothing unless a line break follows.
_MAP_LINE = re.compile(rb"((?:[^\\\r\n]|\\.)+)[\r\n]|[\r\n]", re.DOTALL)
_MAP_LINE_13 = re.compile(rb"((?:[^\\\r\n]|\\[\r\n]?+)+)[\r\n]|[\r\n]")


@dataclass(frozen=True, slots=True)
class BackupStop:
    """What only the backup history file of a primary says, once the backup has ended.

    segment_name: of the segment that holds the byte at `position`.
    time:         in the server's log_timezone, as text.
    """

    position: WalPosition
    segment_name: str
    time: str


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """Where recovery of a backup starts, and where the backup came from.

    start:            redo position of the checkpoint.
    segment_name:     of the segment that holds the byte at `start`.
    checkpoint:       position of the checkpoint record.
    method:           "streamed", or "pg_start_backup" for an exclusive backup before 15.
    source:           "primary" ("master" in version 13) or "standby".
    start_time:       in the server's log_timezone, as text.
    incremental_from: start of the backup on which an incremental one builds.
    stop:             None in a backup_label.
    """

    start: WalPosition
    segment_name: str
    checkpoint: Lsn
    start_time: str
    label: str
    method: str = "streamed"
    source: str = "primary"
    incremental_from: WalPosition | None = None
    stop: BackupStop | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a backup_label or a backup history file. Unknown lines are left to newer servers.

        Raises: CorruptData.
        Source: xlogrecovery.c, read_backup_label (PostgreSQL 18)
        """
        fields = _fields(data)
        start, segment_name = _location(fields, "START WAL LOCATION")
        timeline = Timeline.parse_hex(segment_name[:8])
        if _timeline(fields, "START TIMELINE") != timeline:
            raise _corrupt(f"its timeline is not that of its WAL file {segment_name}")
        incremental_from = None
        if "INCREMENTAL FROM LSN" in fields:
            incremental_from = WalPosition(
                _timeline(fields, "INCREMENTAL FROM TLI"), _lsn(fields, "INCREMENTAL FROM LSN")
            )
        return cls(
            start=WalPosition(timeline, start),
            segment_name=segment_name,
            checkpoint=_lsn(fields, "CHECKPOINT LOCATION"),
            start_time=_field(fields, "START TIME"),
            label=_field(fields, "LABEL"),
            method=_field(fields, "BACKUP METHOD"),
            source=_field(fields, "BACKUP FROM"),
            incremental_from=incremental_from,
            stop=_stop(fields),
        )

    def encode(self) -> bytes:
        """Write the lines in the order in which servers write and read them.

        Raises: UsageError for a label that would break its line or is too long.
        Source: xlogbackup.c, build_backup_content (PostgreSQL 18)
        """
        check_label(self.label)
        lines = [f"START WAL LOCATION: {self.start.lsn} (file {self.segment_name})"]
        if self.stop is not None:
            stop = self.stop
            lines.append(f"STOP WAL LOCATION: {stop.position.lsn} (file {stop.segment_name})")
        lines += [
            f"CHECKPOINT LOCATION: {self.checkpoint}",
            f"BACKUP METHOD: {self.method}",
            f"BACKUP FROM: {self.source}",
            f"START TIME: {self.start_time}",
            f"LABEL: {self.label}",
            f"START TIMELINE: {self.start.timeline}",
        ]
        if self.stop is not None:
            lines.append(f"STOP TIME: {self.stop.time}")
            lines.append(f"STOP TIMELINE: {self.stop.position.timeline}")
        if self.incremental_from is not None:
            lines.append(f"INCREMENTAL FROM LSN: {self.incremental_from.lsn}")
            lines.append(f"INCREMENTAL FROM TLI: {self.incremental_from.timeline}")
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def check_label(text: str) -> None:
    """Raises: UsageError for a label that would break its line or is too long."""
    label = text.encode("utf-8", "surrogateescape")
    if len(label) > MAX_LABEL or _LINE_BREAK.search(label):
        raise UsageError(
            f'could not use backup label "{text}": '
            f"it has a line break, a zero byte or more than {MAX_LABEL} bytes"
        )


def parse_tablespace_map(data: bytes, server_major: int) -> dict[int, str]:
    """Read where each tablespace was: its directory by its OID.

    Raises: CorruptData.
    Source: xlogrecovery.c, read_tablespace_map (PostgreSQL 18); xlog.c (PostgreSQL 13)
    """
    tablespaces: dict[int, str] = {}
    pattern, escape = (
        (_MAP_LINE, rb"\\(.)") if server_major >= 14 else (_MAP_LINE_13, rb"\\([\r\n])")
    )
    at = 0
    while at < len(data):
        line = pattern.match(data, at)
        if line is None:
            raise _corrupt_map(f"no end of line after byte {at}")
        at = line.end()
        if line[1] is None:
            continue
        entry = _MAP_ENTRY.fullmatch(re.sub(escape, rb"\1", line[1], flags=re.DOTALL))
        if entry is None or b"\0" in entry[2]:
            raise _corrupt_map(f"{line[1]!r} is not an OID and a path")
        oid = int(entry[1])
        if not 1 <= oid < 2**32 or oid in tablespaces:
            raise _corrupt_map(f"OID {oid} is impossible or given twice")
        tablespaces[oid] = entry[2].decode("utf-8", "surrogateescape")
    return tablespaces


def encode_tablespace_map(tablespaces: Mapping[int, str], server_major: int) -> bytes:
    """Write one line for each tablespace, in the given order.

    Source: xlog.c, do_pg_backup_start (PostgreSQL 18 and 13)
    """
    escaped = rb"[\\\r\n]" if server_major >= 14 else rb"[\r\n]"
    return b"".join(
        b"%d %s\n" % (oid, re.sub(escaped, rb"\\\g<0>", path.encode("utf-8", "surrogateescape")))
        for oid, path in tablespaces.items()
    )


def _fields(data: bytes) -> dict[str, str]:
    text = data.decode("utf-8", "surrogateescape")
    if not text.endswith("\n"):
        raise _corrupt("it does not end with a line break")
    fields: dict[str, str] = {}
    for line in text[:-1].split("\n"):
        name, colon, value = line.partition(": ")
        if not colon or name in fields:
            raise _corrupt(f'line "{line}" is not a new field')
        fields[name] = value
    return fields


def _field(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise _corrupt(f'no line "{name}"')
    return fields[name]


def _lsn(fields: Mapping[str, str], name: str) -> Lsn:
    return Lsn.parse(_field(fields, name))


def _timeline(fields: Mapping[str, str], name: str) -> Timeline:
    text = _field(fields, name)
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise _corrupt(f'"{text}" in line "{name}" is not a timeline')
    return Timeline(int(text))


def _location(fields: Mapping[str, str], name: str) -> tuple[Lsn, str]:
    match = _LOCATION.fullmatch(_field(fields, name))
    if match is None:
        raise _corrupt(f'line "{name}" has no position and WAL file')
    return Lsn.parse(match[1]), match[2]


def _stop(fields: Mapping[str, str]) -> BackupStop | None:
    if "STOP WAL LOCATION" not in fields:
        return None
    lsn, segment_name = _location(fields, "STOP WAL LOCATION")
    position = WalPosition(_timeline(fields, "STOP TIMELINE"), lsn)
    return BackupStop(position, segment_name, _field(fields, "STOP TIME"))


def _corrupt(reason: str) -> CorruptData:
    return CorruptData(f"could not parse backup label: {reason}")


def _corrupt_map(reason: str) -> CorruptData:
    return CorruptData(f"could not parse tablespace map: {reason}")
