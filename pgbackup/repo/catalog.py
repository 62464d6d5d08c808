"""The backups of one cluster.

A backup exists when its record does: the record is written last and removed first, both durably.
A folder without record is a backup that is being made, if somebody holds its lock, or else what
one left that was killed. Labels tell the order in which backups were begun, whatever the clock
did meanwhile.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgbackup.errors import (
    Conflict,
    CorruptData,
    Locked,
    NotFound,
    PgbackupError,
    Refused,
    StorageDenied,
)
from pgbackup.repo import layout
from pgbackup.repo.pin import Pin, decode_pin, encode_pin
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
    "Pin",
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

    def read_all(self) -> tuple[Sequence[BackupRecord], Sequence[DamagedBackup]]:
        """Every backup whose record can be read, and every other one; oldest first."""
        records, damaged = [], []
        for each in self._read_all():
            if isinstance(each, BackupRecord):
                records.append(each)
            else:
                damaged.append(each)
        return records, damaged

    def list(self) -> Sequence[BackupRecord]:
        """Every backup whose record can be read, oldest first."""
        return self.read_all()[0]

    def damaged(self) -> Sequence[DamagedBackup]:
        """Every backup whose record cannot be read, oldest first."""
        return self.read_all()[1]

    def get(self, label: str) -> BackupRecord:
        """One backup, by its label, or "latest" or "oldest".

        Raises: NotFound, UsageError for what is no label, CorruptData; the latest is not some
        older one because the latest is damaged.
        """
        label = self.resolve(label)
        try:
            return self._read(label)
        except NotFound:
            raise self._no_such("find", label) from None

    def resolve(self, label: str) -> str:
        """The label of a backup that exists, whether its record can be read or not.

        label: or "latest" or "oldest".

        Raises: NotFound, UsageError for what is no label.
        """
        if label in (LATEST, OLDEST):
            complete = self._complete()
            if not complete:
                raise NotFound(
                    f'could not find backup "{label}": there is none of system {self._system}',
                    hint='Take the first with "pgbackup backup".',
                )
            return complete[-1 if label == LATEST else 0]
        if not self._has_record(label):
            raise self._no_such("find", label)
        return label

    @contextmanager
    def reading(self, label: str, command: str) -> Iterator[None]:
        """Keep a backup from being removed for the length of the block.

        Who may not write into the repository reads without: a lock has to be written.

        command: what others are told who find it taken.

        Raises: NotFound, Locked if it is being removed, StorageError.
        """
        self.resolve(label)
        lock: Lock | None = None
        with suppress(StorageDenied):
            lock = self._storage.lock_shared(
                layout.backup_lock(self._system, label), {"command": command}
            )
        try:
            self.resolve(label)
            yield
        finally:
            if lock is not None:
                lock.release()

    def pin(self, label: str, reason: str | None, now: datetime) -> bool:
        """Have a backup stay. Return False if it was pinned just so before.

        reason: None leaves that of an earlier pin.

        Raises: NotFound, Locked if the backup is being removed, StorageError.
        """
        with self.reading(label, "pin"):
            known = self.pin_of(label)
            if known is not None and reason in (None, known.reason):
                return False
            name = layout.pin_object(self._system, label)
            with self._storage.writer(name) as writer:
                writer.write(encode_pin(Pin(reason or "", now)))
                writer.commit(replace=True)
            return True

    def unpin(self, label: str) -> bool:
        """Leave a backup to the retention policy. Return False if it was not pinned.

        Raises: NotFound, Locked if the backup is being removed, StorageError.
        """
        with self.reading(label, "unpin"):
            was_pinned = self.pin_of(label) is not None
            self._storage.delete(layout.pin_object(self._system, label))
            return was_pinned

    def pin_of(self, label: str) -> Pin | None:
        """The pin of a backup, or None. Raises: StorageError."""
        name = layout.pin_object(self._system, label)
        try:
            return decode_pin(self._storage.read(name), self._storage.locate(name))
        except NotFound:
            return None

    def mark_alone(self, label: str) -> None:
        """Note that WAL after a backup goes. Raises: StorageError."""
        with suppress(Conflict):
            self._storage.create(layout.alone_object(self._system, label), b"{}\n")

    def alone(self) -> Set[str]:
        """Labels of the backups after which WAL went. Raises: StorageError."""
        names = {label: layout.alone_object(self._system, label) for label in self._labels()}
        return {label for label, name in names.items() if self._storage.exists(name)}

    def pins(self) -> Mapping[str, Pin]:
        """All pins by label. Raises: StorageError."""
        found = {label: self.pin_of(label) for label in self._labels()}
        return {label: pin for label, pin in found.items() if pin is not None}

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
        """Remove a backup, its record first. Objects that no backup has stay in its folder.

        Raises: NotFound, Refused if it is pinned, Locked, StorageError; called again, or by
        clean_unfinished, it goes on.
        """
        record = layout.record_object(self._system, label)
        if label not in self._labels():
            raise self._no_such("remove", label)
        with self._lock(label, "expire"):
            if self._has_record(label) and self.pin_of(label) is not None:
                raise Refused(
                    f'could not remove backup "{label}": it is pinned',
                    hint=f"Type: pgbackup unpin {label}",
                )
            self._storage.delete(record)
            self._remove_objects(label)

    def under_way(self) -> Sequence[str]:
        """Labels of backups that are being made now."""
        labels = sorted(set(self._labels()) - set(self._complete()))
        locks = {label: layout.backup_lock(self._system, label) for label in labels}
        return [label for label in labels if self._storage.is_locked(locks[label])]

    def is_in_use(self, label: str) -> bool:
        """Tell whether somebody reads or removes a backup now."""
        return self._storage.is_locked(layout.backup_lock(self._system, label))

    def unknown(self) -> Sequence[str]:
        """The names of objects that belong to no backup and that nobody removes."""
        names = list_names(self._storage, self._folder)
        return [name for name in names if not self._is_known(name.removeprefix(self._folder))]

    def labels(self) -> Sequence[str]:
        """Labels of all backups, those that are being made or were left unfinished included."""
        return self._labels()

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
                if not self._has_record(label) and self._remove_objects(label):
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

    def _remove_objects(self, label: str) -> bool:
        """Remove what is named as a part of a backup; tell whether there was anything."""
        folder = layout.backup_folder(self._system, label)
        found = list_names(self._storage, folder)
        parts = [name for name in found if layout.is_backup_object(name.removeprefix(folder))]
        for name in parts:
            self._storage.delete(name)
        return bool(parts)

    def _is_known(self, path: str) -> bool:
        """Tell whether a backup has an object of this name, given within the folder of all."""
        label, _, name = path.partition("/")
        return layout.is_label(label) and layout.is_backup_object(name)

    def _no_such(self, verb: str, label: str) -> NotFound:
        return NotFound(
            f'could not {verb} backup "{label}": there is no such backup of system {self._system}',
            hint='Run "pgbackup list" to see what there is.',
        )

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
