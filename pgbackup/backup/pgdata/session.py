"""What makes a copy of a data directory a backup: a start and a stop, agreed with its server."""

from typing import Protocol

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.served import check_served
from pgbackup.pg.lsn import WalPosition
from pgbackup.replication.onlinebackup import OnlineBackup, begin_online_backup
from pgbackup.replication.transport import Transport


class BackupSession(Protocol):
    """start and label are there once `begin` has returned.

    label: content of backup_label; None if the copy needs none, since nobody writes meanwhile.
    """

    @property
    def start(self) -> WalPosition: ...

    @property
    def label(self) -> bytes | None: ...

    def begin(self) -> None:
        """Start the backup. Raises: ServerError, ConnectionFailed, Refused, WrongSystem."""

    def check(self) -> None:
        """Make sure that what was read so far is of use. Raises: as begin."""

    def end(self) -> WalPosition:
        """Stop it, when all files have been read. Raises: as begin."""


class OnlineSession:
    """A backup of a running server, which ends with the connection at the latest."""

    def __init__(
        self, data: DataDirectory, transport: Transport, comment: str, *, fast: bool
    ) -> None:
        """Prepare. comment: the text for backup_label; fast: the checkpoint hurries."""
        self._data = data
        self._transport = transport
        self._comment = comment
        self._fast = fast
        self._backup: OnlineBackup | None = None

    @property
    def start(self) -> WalPosition:
        assert self._backup is not None
        return self._backup.start

    @property
    def label(self) -> bytes | None:
        assert self._backup is not None
        return self._backup.label.encode()

    def begin(self) -> None:
        self._backup = begin_online_backup(
            self._transport,
            self._comment,
            fast=self._fast,
            segment_size=self._data.control.wal_segment_size,
        )
        check_served(self._data, self._transport)

    def check(self) -> None:
        assert self._backup is not None
        self._backup.check()

    def end(self) -> WalPosition:
        assert self._backup is not None
        return self._backup.end().stop
