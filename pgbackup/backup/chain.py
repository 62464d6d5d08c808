"""The chain of one backup into a repository, end first, and the record of what it stored."""

from collections.abc import Callable
from datetime import UTC, datetime

import pgbackup
from pgbackup.backup.receive import BackupOutcome
from pgbackup.backup.request import BackupRequest, ServerFacts
from pgbackup.backup.wallink import WalLink
from pgbackup.pg.lsn import Segment
from pgbackup.repo import layout
from pgbackup.repo.catalog import (
    ArchiveRecord,
    BackupRecord,
    ChecksumFailures,
    ObjectRecord,
    TablespaceRecord,
    WalRange,
)
from pgbackup.repo.deposit import Deposit
from pgbackup.repo.repository import ClusterRepository
from pgbackup.stream.checksum import Checksum
from pgbackup.stream.compress import Compress
from pgbackup.stream.index import TarIndex
from pgbackup.stream.progress import Meter, Progress
from pgbackup.stream.sink import Sink, Tablespace

Source = Callable[[Sink], BackupOutcome]
"""Sends a backup into a chain that somebody else cleans up."""


MakeWal = Callable[[Sink, str], WalLink]
"""Makes the link, given its successor and the folder of the backup."""


def now() -> datetime:
    """The time for labels and records."""
    return datetime.now(UTC)


class BackupChain:
    """The chain of one backup into a repository, end first, and the record of what it stored."""

    def __init__(
        self,
        cluster: ClusterRepository,
        label: str,
        facts: ServerFacts,
        request: BackupRequest,
        make_wal: MakeWal,
        meter: Meter,
    ) -> None:
        self._label = label
        self._facts = facts
        self._request = request
        folder = layout.backup_folder(facts.system_identifier, label)
        sink: Sink
        sink = self._deposit = Deposit(cluster.storage, folder)
        sink = self._checksum = Checksum(sink)
        if request.compression is not None:
            sink = Compress(sink, request.compression)
        sink = TarIndex(sink, self._deposit.put_index)
        sink = self._progress = Progress(sink, meter)
        self._sink = self._wal = make_wal(sink, folder)

    def run(self, source: Source) -> BackupOutcome:
        """Let a source send its backup. Raises: whatever the source, or a link, raises."""
        try:
            self._wal.reserve()
            return source(self._sink)
        finally:
            self._sink.cleanup()

    def record(self, outcome: BackupOutcome, start_time: datetime, duration: float) -> BackupRecord:
        """What was stored. duration: seconds since the command began."""
        facts, request = self._facts, self._request
        archives = self._archives(outcome)
        manifest = self._checksum.manifest
        assert manifest is not None
        return BackupRecord(
            label=self._label,
            kind="full",
            comment=request.comment,
            tool_version=pgbackup.__version__,
            system_identifier=facts.system_identifier,
            server_version=facts.version,
            server_version_text=facts.version_text,
            wal_segment_size=facts.segment_size,
            data_directory_mode=facts.data_directory_mode,
            timeline=outcome.start.timeline,
            start_lsn=outcome.start.lsn,
            start_time=start_time,
            stop_timeline=outcome.stop.timeline,
            stop_lsn=outcome.stop.lsn,
            stop_time=now(),
            duration_seconds=round(duration, 3),
            size=sum(archive.size for archive in archives),
            stored_size=sum(archive.stored_size for archive in archives),
            compression="none" if request.compression is None else "zstd",
            checksum_algorithm=request.checksums,
            tablespaces=tuple(
                TablespaceRecord(t.oid, t.location, self._stored_name(t))
                for t in outcome.tablespaces
                if t.oid is not None
            ),
            archives=archives,
            objects=(
                *self._deposit.indexes,
                ObjectRecord(layout.MANIFEST, manifest.size, f"{manifest.crc32c:08x}"),
                *(() if self._wal.tail is None else (self._wal.tail,)),
            ),
            wal=_ranges([s for s in self._wal.segments if s.start < outcome.stop.lsn]),
            histories=tuple(self._wal.histories),
            tail=None if self._wal.tail is None else self._wal.tail.name,
            checksum_failures=ChecksumFailures(outcome.is_damaged, outcome.warnings),
            has_label=outcome.has_label,
        )

    def _archives(self, outcome: BackupOutcome) -> tuple[ArchiveRecord, ...]:
        records = []
        for tablespace in outcome.tablespaces:
            name = self._stored_name(tablespace)
            stored = self._checksum.archives[name]
            records.append(
                ArchiveRecord(
                    tablespace.oid,
                    name,
                    self._progress.archive_sizes[tablespace.archive_name],
                    stored.size,
                    f"{stored.crc32c:08x}",
                )
            )
        return tuple(records)

    def _stored_name(self, tablespace: Tablespace) -> str:
        """The object that an archive becomes."""
        is_plain = self._request.compression is None
        return tablespace.archive_name + ("" if is_plain else layout.COMPRESSED_SUFFIX)


def _ranges(segments: list[Segment]) -> tuple[WalRange, ...]:
    """Consecutive segments of one timeline, told by the first and the last."""
    ranges: list[WalRange] = []
    previous: Segment | None = None
    for segment in segments:
        if previous is not None and segment == previous.next():
            ranges[-1] = WalRange(segment.timeline, ranges[-1].first, segment.name)
        else:
            ranges.append(WalRange(segment.timeline, segment.name, segment.name))
        previous = segment
    return tuple(ranges)
