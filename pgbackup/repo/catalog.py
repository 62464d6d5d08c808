"""The backups of one cluster.

A backup exists when its record does: the record is written last and removed first, both durably.
A folder without record is a backup that is being made, if somebody holds its lock, or else what
one left that was killed. Labels tell the order in which backups were begun, whatever the clock
did meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgbackup.errors import CorruptData, Locked, NotFound, PgbackupError, Refused
from pgbackup.repo import layout
from pgbackup.repo.record import (
    ArchiveRecord,
    BackupRecord,
    ChecksumFailures,
    HistoryRecord,
    ObjectRecord,
    TablespaceRecord,
    WalRange,
    decode_record,
    encode_record,
)
from pgbackup.storage.api import Lock, Storage

__all__ = [
    "ArchiveRecord",
    "BackupRecord",
    "Catalog",
    "ChecksumFailures",
    "DamagedBackup",
    "HistoryRecord",
    "ObjectRecord",
    "TablespaceRecord",
    "WalRange",
]

LATEST = "latest"
OLDEST = "oldest"

_RECORD_LIMIT = 256 << 20  # bytes; thousands of tablespaces and warnings stay far below


@dataclass(frozen=True, slots=True)
class DamagedBackup:
    """A backup whose record is there and cannot be used."""

    label: str
    reason: PgbackupError


class Catalog:
    """The backups of the cluster with one system identifier."""

    def __init__(self, storage: Storage, system: int) -> None:
        self._storage = storage
        self._system = system
        self._folder = layout.backups_folder(system)

    def list(self) -> Sequence[BackupRecord]:
        """Every backup whose record can be read, oldest first."""
        return [each for each in self._read_all() if isinstance(each, BackupRecord)]

    def damaged(self) -> Sequence[DamagedBackup]:
        """Every backup whose record cannot be read, oldest first."""
        return [each for each in self._read_all() if isinstance(each, DamagedBackup)]

    def get(self, label: str) -> BackupRecord:
        """One backup, by its label, or "latest" or "oldest".

        Raises: NotFound, UsageError for what is no label, CorruptData; the latest is not some
        older one because the latest is damaged.
        """
        if label in (LATEST, OLDEST):
            complete = self._complete()
            if not complete:
                raise NotFound(
                    f'could not find backup "{label}": there is none of system {self._system}',
                    hint='Take the first with "pgbackup backup".',
                )
            label = complete[-1 if label == LATEST else 0]
        try:
            return self._read(label)
        except NotFound:
            raise NotFound(
                f'could not find backup "{label}": there is no such backup of '
                f"system {self._system}",
                hint='Run "pgbackup list" to see what there is.',
            ) from None

    def new_label(self, kind: str, now: datetime) -> str:
        """A label for a backup begun now, later than that of every other in the catalogue.

        kind: "full" or "incremental", or its letter.
        now:  with a time zone.
        """
        time = now.astimezone(UTC).replace(microsecond=0, tzinfo=None)
        labels = self._labels()
        if labels:
            newest = max(layout.label_time(label) for label in labels)
            time = max(time, newest + timedelta(seconds=1))
        return layout.format_label(kind, time)

    @contextmanager
    def begin(self, kind: str, now: datetime) -> Iterator[str]:
        """Give a new label, whose lock is held for the length of the block."""
        while True:
            label = self.new_label(kind, now)
            try:
                lock = self._lock(label, "backup")
            except Locked:  # somebody else begins in the same second
                now += timedelta(seconds=1)
                continue
            with lock:
                if not list_names(self._storage, layout.backup_folder(self._system, label)):
                    yield label
                    return

    def put(self, record: BackupRecord) -> None:
        """Store a record: from now on the backup exists.

        Everything that the record names is durable already.

        Raises: Conflict, StorageError.
        """
        name = layout.record_object(self._system, record.label)
        self._storage.create(name, encode_record(record))

    def remove(self, label: str) -> None:
        """Remove a backup, its record first.

        Raises: NotFound, Locked, StorageError; called again, or by clean_unfinished, it goes on.
        """
        record = layout.record_object(self._system, label)
        if label not in self._labels():
            raise NotFound(
                f'could not remove backup "{label}": there is no such backup of '
                f"system {self._system}",
                hint='Run "pgbackup list" to see what there is.',
            )
        with self._lock(label, "expire"):
            self._storage.delete(record)
            self._remove_objects(label)

    def unfinished(self) -> Sequence[str]:
        """Labels of folders without a record that nobody is filling."""
        labels = set(self._labels()) - set(self._complete())
        return sorted(label for label in labels if self._is_abandoned(label))

    def clean_unfinished(self) -> Sequence[str]:
        """Remove what killed backups left; return their labels."""
        self._storage.reap(self._folder)
        cleaned = []
        for label in self.unfinished():
            with suppress(Locked), self._lock(label, "clean up"):
                if not self._has_record(label):
                    self._remove_objects(label)
                    cleaned.append(label)
        return cleaned

    def _lock(self, label: str, command: str) -> Lock:
        return self._storage.lock(layout.backup_lock(self._system, label), {"command": command})

    def _is_abandoned(self, label: str) -> bool:
        """Look in the one safe order: whoever has let go of the lock has written the record."""
        lock = layout.backup_lock(self._system, label)
        return not self._storage.is_locked(lock) and not self._has_record(label)

    def _has_record(self, label: str) -> bool:
        return self._storage.exists(layout.record_object(self._system, label))

    def _remove_objects(self, label: str) -> None:
        for found in list_names(self._storage, layout.backup_folder(self._system, label)):
            self._storage.delete(found)

    def _labels(self) -> Sequence[str]:
        """Labels of all folders, with a record or without."""
        return [name for name in self._storage.folders(self._folder) if layout.is_label(name)]

    def _complete(self) -> Sequence[str]:
        return [label for label in self._labels() if self._has_record(label)]

    def _read(self, label: str) -> BackupRecord:
        name = layout.record_object(self._system, label)
        located = self._storage.locate(name)
        record = decode_record(self._storage.read(name, _RECORD_LIMIT), located)
        if (record.label, record.system_identifier) != (label, self._system):
            raise CorruptData(
                f'could not read backup record "{located}": it belongs to another backup',
                detail=f'It is of backup "{record.label}" of system {record.system_identifier}.',
            )
        return record

    def _read_all(self) -> Iterator[BackupRecord | DamagedBackup]:
        for label in self._labels():
            try:
                yield self._read(label)
            except (CorruptData, Refused) as error:
                yield DamagedBackup(label, error)
            except NotFound:
                continue


def list_names(storage: Storage, folder: str) -> list[str]:
    """The names of all objects in a folder now."""
    return [found.name for found in storage.list(folder)]
