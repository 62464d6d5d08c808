"""The record of a backup: what it is, what it consists of, what it needs.

Stored as indented JSON whose last line is the SHA-256 of every byte before it, in the manner of
backup_manifest, so that an edited or damaged record is found. Positions are text as PostgreSQL
prints them, times ISO 8601 in UTC, sizes bytes; the system identifier is text, because many JSON
readers round integers of that size.

A key that is not known is passed over. `format` grows when that would be wrong.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from pgbackup.errors import CorruptData, Refused
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.repo.fields import Fields

RECORD_FORMAT = 1

_CHECKSUM_KEY = "record_checksum"

_MAX_RANGE = 1 << 24  # segments: 16 TiB of the smallest; a damaged record must not occupy us


@dataclass(frozen=True, slots=True)
class TablespaceRecord:
    """A tablespace: where it was on the server, and the object that holds it."""

    oid: int
    location: str
    archive: str


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """A tar archive.

    tablespace:  oid; None for the data directory.
    size:        bytes of tar.
    stored_size: bytes of the object.
    crc32c:      of the object, 8 hexadecimal digits.
    """

    tablespace: int | None
    name: str
    size: int
    stored_size: int
    crc32c: str


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """Any other object in the folder.

    size:   bytes.
    crc32c: of the object, 8 hexadecimal digits.
    """

    name: str
    size: int
    crc32c: str


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """A timeline history file of the WAL archive.

    size:   bytes.
    crc32c: of the content, in whatever form the archive has it; 8 hexadecimal digits.
    """

    name: str
    size: int
    crc32c: str


@dataclass(frozen=True, slots=True)
class WalRange:
    """Consecutive segments of one timeline, by the names of the first and the last."""

    timeline: int
    first: str
    last: str

    def check(self, size: int) -> tuple[Segment, Segment]:
        """Return the first and the last.

        size: of a segment, in bytes.

        Raises: CorruptData if the names are not those of a plausible range.
        """
        first, last = Segment.parse(self.first, size), Segment.parse(self.last, size)
        count = last.number - first.number + 1
        if not (first.timeline == last.timeline == self.timeline and 1 <= count <= _MAX_RANGE):
            raise CorruptData(
                f'could not use WAL range "{self.first}" to "{self.last}" '
                f"on timeline {self.timeline}: it makes no sense"
            )
        return first, last

    def segments(self, size: int) -> Iterator[Segment]:
        """Yield all of them. Raises: as check."""
        first, last = self.check(size)
        for number in range(first.number, last.number + 1):
            yield Segment(first.timeline, number, size)


@dataclass(frozen=True, slots=True)
class ChecksumFailures:
    """What the source found wrong with page checksums.

    warnings: in the source's own words; a server tells the number of pages only there.
    """

    is_damaged: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """A complete backup.

    kind:               "full" or "incremental".
    server_version:     as server_version_num, 150018.
    wal_segment_size:   bytes.
    size, stored_size:  bytes of all archives, as tar and as objects.
    checksum_algorithm: of the manifest, as BASE_BACKUP names it.
    compression:        of the archives, in words.
    wal, histories:     the segments and history files from start to stop.
    has_label:          False for a copy of a stopped server's files, which needs no backup_label.
    tail:               the object in the folder that holds the last segment up to the stop
                        position, where the archive could not have it; or None.
    """

    label: str
    kind: str
    system_identifier: int
    server_version: int
    server_version_text: str
    timeline: Timeline
    start_lsn: Lsn
    start_time: datetime
    stop_lsn: Lsn
    stop_timeline: Timeline
    stop_time: datetime
    wal_segment_size: int
    size: int
    stored_size: int
    duration_seconds: float
    checksum_algorithm: str
    compression: str
    data_directory_mode: int
    tablespaces: tuple[TablespaceRecord, ...]
    archives: tuple[ArchiveRecord, ...]
    objects: tuple[ObjectRecord, ...]
    wal: tuple[WalRange, ...]
    histories: tuple[HistoryRecord, ...]
    tail: str | None
    comment: str
    tool_version: str
    checksum_failures: ChecksumFailures = ChecksumFailures()
    has_label: bool = True
    format: int = RECORD_FORMAT

    def segments(self) -> Iterator[Segment]:
        """Yield every segment of the archive that the backup needs."""
        for each in self.wal:
            yield from each.segments(self.wal_segment_size)


def encode_record(record: BackupRecord) -> bytes:
    """The record as it is stored."""
    text = json.dumps(record_values(record), indent=2).removesuffix("\n}")
    body = f"{text},\n".encode()
    digest = hashlib.sha256(body).hexdigest()
    return body + f'"{_CHECKSUM_KEY}": "{digest}"}}\n'.encode()


def record_values(record: BackupRecord) -> dict[str, Any]:
    """The record as plain values for JSON, the format first."""
    values = {field.name: _plain(getattr(record, field.name)) for field in fields(record)}
    values["system_identifier"] = str(record.system_identifier)
    values["data_directory_mode"] = f"{record.data_directory_mode:04o}"
    return {"format": values.pop("format")} | values


def _plain(value: object) -> object:
    match value:
        case Lsn():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case tuple():
            return [_plain(each) for each in value]
        case (
            TablespaceRecord()
            | ArchiveRecord()
            | ObjectRecord()
            | HistoryRecord()
            | WalRange()
            | ChecksumFailures()
        ):
            return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        case bool():
            return value
        case int():
            return int(value)
    return value


def decode_record(data: bytes, name: str) -> BackupRecord:
    """Read a stored record.

    name: for messages.

    Raises: CorruptData for anything but what encode_record writes, Refused for a newer format.
    """
    _check_checksum(data, name)
    top = Fields.parse(data, name)
    _check_format(top)
    return BackupRecord(
        format=top.number("format"),
        label=top.text("label"),
        kind=top.choice("kind", ("full", "incremental")),
        system_identifier=top.system("system_identifier"),
        server_version=top.number("server_version"),
        server_version_text=top.text("server_version_text"),
        timeline=top.timeline("timeline"),
        start_lsn=top.lsn("start_lsn"),
        start_time=top.time("start_time"),
        stop_lsn=top.lsn("stop_lsn"),
        stop_timeline=top.timeline("stop_timeline"),
        stop_time=top.time("stop_time"),
        wal_segment_size=top.segment_size("wal_segment_size"),
        size=top.number("size"),
        stored_size=top.number("stored_size"),
        duration_seconds=top.seconds("duration_seconds"),
        checksum_algorithm=top.text("checksum_algorithm"),
        compression=top.text("compression"),
        data_directory_mode=top.mode("data_directory_mode"),
        tablespaces=tuple(_tablespace(each) for each in top.groups("tablespaces")),
        archives=tuple(_archive(each) for each in top.groups("archives")),
        objects=tuple(_object(each) for each in top.groups("objects")),
        wal=tuple(_wal_range(each, top) for each in top.groups("wal")),
        histories=tuple(_history(each) for each in top.groups("histories")),
        tail=top.object_name("tail") if top.has("tail") else None,
        comment=top.text("comment"),
        tool_version=top.text("tool_version"),
        checksum_failures=_checksum_failures(top.group("checksum_failures")),
        has_label=top.truth("has_label") if top.has("has_label") else True,
    )


def _check_checksum(data: bytes, name: str) -> None:
    end = data.rfind(b"\n", 0, -1) + 1
    digest = hashlib.sha256(data[:end]).hexdigest()
    if data[end:] != f'"{_CHECKSUM_KEY}": "{digest}"}}\n'.encode():
        raise CorruptData(
            f'could not read backup record "{name}": its checksum does not match',
            detail="The record was damaged or edited, or it is incomplete.",
        )


def _check_format(top: Fields) -> None:
    found = top.number("format")
    if found > RECORD_FORMAT:
        raise Refused(
            f'could not read backup record "{top.name}": it has format {found}, '
            f"this version knows {RECORD_FORMAT}",
            hint="Use the version of pgbackup that made the backup, or a newer one.",
        )


def _tablespace(each: Fields) -> TablespaceRecord:
    return TablespaceRecord(each.number("oid"), each.text("location"), each.object_name("archive"))


def _archive(each: Fields) -> ArchiveRecord:
    return ArchiveRecord(
        each.number("tablespace") if each.has("tablespace") else None,
        each.object_name("name"),
        each.number("size"),
        each.number("stored_size"),
        each.crc32c("crc32c"),
    )


def _object(each: Fields) -> ObjectRecord:
    return ObjectRecord(each.object_name("name"), each.number("size"), each.crc32c("crc32c"))


def _history(each: Fields) -> HistoryRecord:
    return HistoryRecord(each.history_name("name"), each.number("size"), each.crc32c("crc32c"))


def _wal_range(each: Fields, top: Fields) -> WalRange:
    found = WalRange(each.timeline("timeline"), each.text("first"), each.text("last"))
    found.check(top.segment_size("wal_segment_size"))
    return found


def _checksum_failures(each: Fields) -> ChecksumFailures:
    return ChecksumFailures(each.truth("is_damaged"), tuple(each.texts("warnings")))
