"""Records to test with."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.repo.record import (
    ArchiveRecord,
    BackupRecord,
    ChecksumFailures,
    HistoryRecord,
    ObjectRecord,
    TablespaceRecord,
    WalRange,
)

MIB = 1 << 20
SYSTEM = 7412345678901234567
NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def record(label: str = "20261122T120000F", **changes: Any) -> BackupRecord:
    """A record with something in every field."""
    sample = BackupRecord(
        label=label,
        kind="full",
        system_identifier=SYSTEM,
        server_version=150018,
        server_version_text="15.18 (Debian 15.18-1)",
        timeline=Timeline(10),
        start_lsn=Lsn(0x2000028),
        start_time=NOON,
        stop_lsn=Lsn(0x2300000),
        stop_timeline=Timeline(10),
        stop_time=NOON.replace(microsecond=250000),
        wal_segment_size=MIB,
        size=123456789,
        stored_size=23456789,
        duration_seconds=1.25,
        checksum_algorithm="CRC32C",
        compression="zstd",
        data_directory_mode=0o700,
        tablespaces=(TablespaceRecord(16385, "/srv/täblespace\udcff", "16385.tar.zst"),),
        archives=(
            ArchiveRecord(16385, "16385.tar.zst", 1024, 100, "00c0ffee"),
            ArchiveRecord(None, "base.tar.zst", 2048, 200, "deadbeef"),
        ),
        objects=(ObjectRecord("backup_manifest", 300, "01234567"),),
        wal=(WalRange(10, "0000000A0000000000000020", "0000000A0000000000000022"),),
        histories=(HistoryRecord("0000000A.history", 42, "89abcdef"),),
        tail=None,
        comment='a "quoted" comment\nof two lines',
        tool_version="0.1.0",
        checksum_failures=ChecksumFailures(True, ("invalid checksum in base/1/2",)),
    )
    return replace(sample, **changes)
