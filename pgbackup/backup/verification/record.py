"""The record of a backup against what the server wrote: manifest, backup_label, pg_control.

Three files tell the same story as the record; where they differ, one of them was changed.
Pure: values in, sentences out.
"""

from collections.abc import Iterator, Sequence

from pgbackup.errors import CorruptData
from pgbackup.pg.control import ControlFile
from pgbackup.pg.label import BackupLabel
from pgbackup.pg.lsn import WalPosition, segments_between
from pgbackup.pg.manifest import Manifest, WalRange
from pgbackup.repo import layout
from pgbackup.repo.catalog import BackupRecord

NO_COMPRESSION = "none"

_CONTROL_VERSIONS = {13: 1300, 14: 1300, 15: 1300, 16: 1300, 17: 1700, 18: 1800}


def record_problems(record: BackupRecord, manifest: Manifest | None) -> Iterator[str]:
    """Yield what is wrong with the record itself, and against the manifest."""
    for reason in (*_own_problems(record), *_wal_problems(record, manifest)):
        yield f'could not accept backup record "{record.label}": {reason}'
    if manifest is None:
        return
    identifier = manifest.system_identifier
    if identifier not in (None, record.system_identifier):
        yield (
            f'could not accept the manifest of backup "{record.label}": it is of system'
            f" {identifier}, not {record.system_identifier}"
        )
    found = {file.algorithm for file in manifest.files.values()}
    if found - {record.checksum_algorithm}:
        yield (
            f'could not accept the manifest of backup "{record.label}": its checksums are'
            f" {', '.join(sorted(found))}, in the record {record.checksum_algorithm}"
        )


def label_problems(
    record: BackupRecord, label: bytes | None, control: bytes | None
) -> Iterator[str]:
    """Yield what is wrong with backup_label and pg_control; None stands for one not read."""
    if label is not None:
        try:
            start = BackupLabel.parse(label).start
        except CorruptData as error:
            yield error.message
        else:
            if start != WalPosition(record.timeline, record.start_lsn):
                yield (
                    f'could not accept backup_label of backup "{record.label}": it starts at'
                    f" {start}, the record at {record.start_lsn} on timeline {record.timeline}"
                )
    if control is not None:
        try:
            yield from _control_problems(record, ControlFile.parse(control))
        except CorruptData as error:
            yield error.message


def _control_problems(record: BackupRecord, control: ControlFile) -> Iterator[str]:
    compared = (
        ("system identifier", control.system_identifier, record.system_identifier),
        ("WAL segment size", control.wal_segment_size, record.wal_segment_size),
        (
            "version",
            control.control_version,
            _CONTROL_VERSIONS.get(record.server_version // 10000, control.control_version),
        ),
    )
    for what, found, expected in compared:
        if found != expected:
            yield (
                f'could not accept pg_control of backup "{record.label}": its {what} is {found},'
                f" not {expected}"
            )
    start = WalPosition(record.timeline, record.start_lsn)
    if not record.has_label and control.redo != start:
        yield (
            f'could not accept pg_control of backup "{record.label}": its redo position is'
            f" {control.redo}, the record starts at {start}"
        )


def _own_problems(record: BackupRecord) -> Iterator[str]:
    """What a record says twice must be the same."""
    if record.size != sum(archive.size for archive in record.archives):
        yield "its size is not that of its archives"
    if record.stored_size != sum(archive.stored_size for archive in record.archives):
        yield "its stored size is not that of its archives"
    is_plain = record.compression == NO_COMPRESSION
    names = {archive.tablespace: archive.name for archive in record.archives}
    for tablespace, name in names.items():
        if name != layout.archive_name(tablespace, compressed=not is_plain):
            yield f'archive "{name}" is not named for its tablespace and compression'
    for each in record.tablespaces:
        if names.get(each.oid) != each.archive:
            yield f'tablespace {each.oid} is not in archive "{each.archive}"'
    if record.start_lsn > record.stop_lsn or record.timeline > record.stop_timeline:
        yield f"it starts at {record.start_lsn}, behind its stop at {record.stop_lsn}"
    if record.start_time > record.stop_time:
        yield "it starts after it stops"


def _wal_problems(record: BackupRecord, manifest: Manifest | None) -> Iterator[str]:
    """Whether the WAL that is needed is the WAL that the record lists."""
    ranges: Sequence[WalRange]
    if manifest is not None and manifest.wal_ranges:
        ranges = manifest.wal_ranges
        newest, oldest = ranges[0], ranges[-1]
        start = WalPosition(oldest.timeline, oldest.start)
        stop = WalPosition(newest.timeline, newest.end)
        if start != (recorded := WalPosition(record.timeline, record.start_lsn)):
            yield f"it starts at {recorded}, the manifest at {start}"
        if stop != (recorded := WalPosition(record.stop_timeline, record.stop_lsn)):
            yield f"it stops at {recorded}, the manifest at {stop}"
    elif record.timeline == record.stop_timeline and record.start_lsn <= record.stop_lsn:
        ranges = [WalRange(record.timeline, record.start_lsn, record.stop_lsn)]
    else:
        ranges = []
    listed = {segment.name for segment in record.segments()}
    if record.tail is not None:
        listed.add(record.tail.removesuffix(".partial"))
    histories = {history.name for history in record.histories}
    for wal_range in ranges:
        for segment in segments_between(*wal_range, record.wal_segment_size):
            # Where timelines part, the newer one has the whole segment.
            later = {name for name in listed if name[8:] == segment.name[8:]}
            if segment.name not in listed and not later:
                yield f"it does not list WAL segment {segment}"
        if wal_range.timeline > 1 and wal_range.timeline.history_name not in histories:
            yield f"it does not list history file {wal_range.timeline.history_name}"
