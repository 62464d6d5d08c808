"""pg_control: what a cluster says about itself.

The struct that servers 13 to 18 write at the start of global/pg_control, on 64-bit little-endian
machines. The server rewrites the file while it runs, so a reader that meets a wrong checksum reads
again before it believes in damage; that loop belongs to the reader of the file.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Self, TypeVar

from pgbackup.errors import CorruptData
from pgbackup.pg.crc32c import crc32c
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition, is_valid_segment_size

FILE_SIZE: Final = 8192  # bytes; pg_control.h, PG_CONTROL_FILE_SIZE: the rest is zeros

# Where the checksum of all bytes before it lies, by pg_control_version.
_CRC_OFFSET: Final = {1300: 288, 1700: 288, 1800: 292}
_OLDEST, _NEWEST = min(_CRC_OFFSET), max(_CRC_OFFSET)

# Fields at the same place in all versions: struct format and offset in bytes.
_FIELDS: Final = {
    "system_identifier": ("Q", 0),
    "control_version": ("I", 8),
    "catalog_version": ("I", 12),
    "state": ("i", 16),
    "time": ("q", 24),
    "checkpoint": ("Q", 32),
    "redo": ("Q", 40),
    "timeline": ("I", 48),
    "previous_timeline": ("I", 52),
    "full_page_writes": ("?", 56),
    "next_xid": ("Q", 64),
    "checkpoint_time": ("q", 104),
    "min_recovery_lsn": ("Q", 136),
    "min_recovery_timeline": ("I", 144),
    "backup_start": ("Q", 152),
    "backup_end": ("Q", 160),
    "backup_end_required": ("?", 168),
    "wal_level": ("i", 172),
    "wal_log_hints": ("?", 176),
    "max_connections": ("i", 180),
    "max_worker_processes": ("i", 184),
    "max_wal_senders": ("i", 188),
    "max_prepared_transactions": ("i", 192),
    "max_locks_per_transaction": ("i", 196),
    "track_commit_timestamp": ("?", 200),
    "alignment": ("I", 204),
    "float_format": ("d", 208),
    "block_size": ("I", 216),
    "relation_segment_blocks": ("I", 220),
    "wal_block_size": ("I", 224),
    "wal_segment_size": ("I", 228),
    "data_checksum_version": ("I", 252),
}
_E = TypeVar("_E", bound=IntEnum)
_ALIGNMENT = 8
_FLOAT = 1234567.0  # pg_control.h, FLOATFORMAT_VALUE


class ClusterState(IntEnum):
    """What the cluster was doing. Source: pg_control.h, DBState."""

    STARTUP = 0
    SHUTDOWNED = 1
    SHUTDOWNED_IN_RECOVERY = 2
    SHUTDOWNING = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


class WalLevel(IntEnum):
    """The setting wal_level."""

    MINIMAL = 0
    REPLICA = 1
    LOGICAL = 2


class ControlFile(NamedTuple):
    """The control data of a cluster.

    time, checkpoint_time:   seconds since 1970.
    checkpoint:              position of the last checkpoint's record.
    redo:                    position, and timeline, from which recovery would start.
    next_xid:                64 bits, with the epoch.
    min_recovery_point:      replay at least to here before the data is consistent; None if unset.
    backup_start:            where a restored backup began, until its end was replayed; else zero.
    backup_end:              where a standby's backup ended; else zero.
    relation_segment_blocks: blocks in all but the last file of a relation.
    data_checksum_version:   0 without data checksums.
    """

    system_identifier: int
    control_version: int
    catalog_version: int
    state: ClusterState
    time: int
    checkpoint: Lsn
    redo: WalPosition
    previous_timeline: Timeline
    full_page_writes: bool
    next_xid: int
    checkpoint_time: int
    min_recovery_point: WalPosition | None
    backup_start: Lsn
    backup_end: Lsn
    backup_end_required: bool
    wal_level: WalLevel
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    block_size: int
    relation_segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    data_checksum_version: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the file's content, or at least its first 296 bytes.

        Raises: CorruptData, also for a version that is not known or another kind of machine.
        Source: controldata_utils.c, get_controlfile_by_exact_path (PostgreSQL 18)
        """
        _check(data)
        fields = {
            name: struct.unpack_from(f"<{kind}", data, at)[0]
            for name, (kind, at) in _FIELDS.items()
        }
        if fields.pop("alignment") != _ALIGNMENT or fields.pop("float_format") != _FLOAT:
            raise _corrupt("it comes from another kind of machine")
        if not is_valid_segment_size(fields["wal_segment_size"]):
            raise _corrupt(f"its WAL segment size is {fields['wal_segment_size']} bytes")
        lsn, timeline = fields.pop("min_recovery_lsn"), fields.pop("min_recovery_timeline")
        fields |= {
            "state": _member(ClusterState, fields["state"]),
            "wal_level": _member(WalLevel, fields["wal_level"]),
            "checkpoint": Lsn(fields["checkpoint"]),
            "redo": WalPosition(Timeline(fields.pop("timeline")), Lsn(fields["redo"])),
            "previous_timeline": Timeline(fields["previous_timeline"]),
            "min_recovery_point": WalPosition(Timeline(timeline), Lsn(lsn)) if lsn else None,
            "backup_start": Lsn(fields["backup_start"]),
            "backup_end": Lsn(fields["backup_end"]),
        }
        return cls(**fields)


def _check(data: bytes) -> None:
    """Check length, version and checksum; the version says where the checksum is."""
    if len(data) < min(_CRC_OFFSET.values()) + 4:
        raise _corrupt(f"{len(data)} bytes are too few")
    (version,) = struct.unpack_from("<I", data, 8)
    if version not in _CRC_OFFSET:
        if version % 65536 == 0 and version:
            raise _corrupt("it comes from a big-endian machine")
        if version < _OLDEST:
            raise _corrupt(f"version {version} is older than PostgreSQL 13")
        raise _corrupt(
            f"version {version} is not known to this version of pgbackup",
            hint="If the server is newer than PostgreSQL 18, look for a newer pgbackup.",
        )
    end = _CRC_OFFSET[version]
    if len(data) < end + 4:
        raise _corrupt(f"{len(data)} bytes are too few")
    (expected,) = struct.unpack_from("<I", data, end)
    if crc32c(data[:end]) != expected:
        raise _corrupt("its checksum does not match")


def _member(kind: type[_E], value: int) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise _corrupt(f"unknown {kind.__name__} {value}") from None


def _corrupt(reason: str, hint: str | None = None) -> CorruptData:
    return CorruptData(f'could not use control file "pg_control": {reason}', hint=hint)
