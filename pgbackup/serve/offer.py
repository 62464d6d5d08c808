"""What a walsender offers: one cluster of a repository, and what it says of itself.

Reads the repository whenever it is asked, so that backups and WAL which come meanwhile are seen.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from pgbackup.backup.stored import StoredBackup
from pgbackup.errors import ClientError, CorruptData, NotFound, Refused
from pgbackup.pg.lsn import Timeline, WalPosition
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.asked import LABEL, TARGET_LSN, parse_settings
from pgbackup.serve.basebackup.answer import Answer
from pgbackup.serve.basebackup.storedanswer import stored_answer
from pgbackup.serve.basebackup.storedwal import Further
from pgbackup.serve.clonepoint import find_clone_point
from pgbackup.serve.wal.sentwal import SentWal
from pgbackup.serve.wal.tailwal import tail_of
from pgbackup.serve.wal.walsource import WalSource
from pgbackup.wire.basebackup import BaseBackup

LATEST: Final = "latest"

CLONER: Final = "pg_basebackup"
"""What clients that stream WAL beside a base backup call themselves, unless they are told to."""

_DEFAULT_MODE = 0o700


class Offer:
    """The cluster, as all clients of a server see it, or one that asked for a moment of it.

    major:          that the server announces; it decides about the grammar and the protocol.
    server_version: as 15.18.
    end:            of all WAL, for a client that wants the cluster as of there.
    """

    def __init__(
        self,
        cluster: ClusterRepository,
        label: str = LATEST,
        end: WalPosition | None = None,
        *,
        is_for_clone: bool = False,
    ) -> None:
        """Look at what is there.

        label:        of the backup that BASE_BACKUP sends.
        is_for_clone: streams no WAL behind the end of that. A client learns where that is when it
                      has got the backup, and until then would take what there is, years maybe.

        Raises: NotFound if there is nothing, or no such label; CorruptData, StorageError.
        """
        facts = cluster.facts()
        if facts is None:
            raise NotFound(
                f"could not serve cluster {cluster.system}: nothing of it is in the repository",
                hint="Take a backup first: pgbackup backup -B REPO",
            )
        self.cluster = cluster
        self.segment_size = facts.wal_segment_size
        self.major = facts.major
        self.end = end
        self._label = label
        self._is_for_clone = is_for_clone
        if label != LATEST:
            cluster.catalog.resolve(label)
        record = self.usable_record()
        self._set_version(facts.major * 10000 if record is None else record.server_version)

    def asked_for(self, settings: Mapping[str, str]) -> "Offer":
        """What a client gets that sets these at its start-up. Raises: ClientError, StorageError."""
        asked = parse_settings(settings)
        is_for_clone = settings.get("application_name") == CLONER
        if asked.label is None and asked.target is None and not is_for_clone:
            return self
        label, end = find_clone_point(self.cluster, asked, self._label)
        return Offer(self.cluster, label, end, is_for_clone=is_for_clone)

    def record(self) -> BackupRecord | None:
        """The record of the backup that is sent now; None if there is none.

        Raises: NotFound for a label that is not there, CorruptData, StorageError.
        """
        if self._label == LATEST and not self.cluster.catalog.labels():
            return None
        try:
            return self.cluster.catalog.get(self._label)
        except NotFound:
            if self._label == LATEST:
                return None
            raise

    def usable_record(self) -> BackupRecord | None:
        """As record, but None if it is gone or damaged: to have WAL nobody needs it.

        Raises: StorageError.
        """
        try:
            return self.record()
        except (CorruptData, NotFound, Refused):
            return None

    def backup(self) -> StoredBackup:
        """The backup that is sent now. Raises: ClientError if there is none."""
        record = self.record()
        if record is None:
            raise ClientError("there is no base backup in this repository", sqlstate="58P01")
        return StoredBackup(self.cluster.storage, record)

    def answer(self, command: BaseBackup) -> AbstractContextManager[Answer]:
        """What is sent for a BASE_BACKUP. Raises: ClientError, Locked, PgbackupError."""
        end = self.end
        further = None if end is None else Further(self.wal(end.timeline), end)
        return stored_answer(self.cluster, self.backup(), further, command)

    def wal(self, timeline: Timeline | None = None) -> SentWal:
        """The WAL of a timeline, or of the newest. Raises: as WalSource."""
        record, end = self.usable_record(), self.end
        if record is None:
            return WalSource(self.cluster, timeline, end)
        if end is None and self._is_for_clone:
            end = WalPosition(record.stop_timeline, record.stop_lsn)
        tail = tail_of(StoredBackup(self.cluster.storage, record))
        return WalSource(self.cluster, timeline, end, tail)

    def position(self) -> WalPosition:
        """The newest timeline, and behind the last WAL that is there of it."""
        source = self.wal()
        return WalPosition(source.timeline, source.flushed)

    def history(self, timeline: Timeline) -> bytes:
        """A history file. Raises: ClientError if there is none."""
        try:
            return self.cluster.archive.read(timeline.history_name)
        except NotFound as error:
            raise ClientError(
                f'could not open file "pg_wal/{timeline.history_name}": No such file or directory',
                sqlstate="58P01",
            ) from error

    def settings(self) -> dict[str, str]:
        """What SHOW tells, by name."""
        record = self.usable_record()
        mode = _DEFAULT_MODE if record is None else record.data_directory_mode
        label = self._label if record is None else record.label
        return {
            "archive_mode": "off",
            "block_size": "8192",
            "cluster_name": "",
            "data_checksums": "on",
            "data_directory_mode": f"{mode:04o}",
            "default_transaction_read_only": "on",
            "hot_standby": "on",
            "in_hot_standby": "on",
            "integer_datetimes": "on",
            "max_connections": "100",
            LABEL: label,
            TARGET_LSN: "" if self.end is None else str(self.end.lsn),
            "server_encoding": "SQL_ASCII",
            "server_version": self.server_version,
            "server_version_num": str(self.server_version_num),
            "transaction_read_only": "on",
            "wal_block_size": "8192",
            "wal_level": "replica",
            "wal_segment_size": size_with_unit(self.segment_size),
        }

    def _set_version(self, number: int) -> None:
        """number: as server_version_num."""
        self.server_version = f"{number // 10000}.{number % 10000}"
        self.server_version_num = number


def size_with_unit(size: int) -> str:
    """A size of whole megabytes as settings show it."""
    megabytes = size >> 20
    return f"{megabytes >> 10}GB" if megabytes % 1024 == 0 else f"{megabytes}MB"
