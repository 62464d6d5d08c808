"""What a walsender offers that serves a data directory: a new base backup, and its server's WAL.

Slots are in the repository if there is one; they hold nothing back on the server.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from pgbackup.backup.pgdata.walmembers import PG_WAL
from pgbackup.errors import ClientError
from pgbackup.pg.lsn import Timeline, WalPosition
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.asked import INVALID_VALUE, Asked, parse_settings
from pgbackup.serve.basebackup.answer import Answer
from pgbackup.serve.offer import Offer
from pgbackup.serve.pgdata.liveanswer import live_answer
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.serve.pgdata.livewal import LiveWal
from pgbackup.serve.wal.sentwal import SentWal
from pgbackup.wire.basebackup import BaseBackup


class LiveOffer(Offer):
    """The cluster as its data directory has it now."""

    def __init__(self, cluster: ClusterRepository, server: LiveServer) -> None:
        """cluster: has slots, and WAL that is not in pg_wal any more. Raises: PgbackupError."""
        self._server = server
        data = server.directory()
        cluster.bind(data.major * 10000, data.control.wal_segment_size)
        super().__init__(cluster)
        self._set_version(server.version())

    def asked_for(self, settings: Mapping[str, str]) -> Offer:
        if parse_settings(settings) != Asked():
            raise ClientError(
                "there is no choice of base backups: a data directory is served",
                sqlstate=INVALID_VALUE,
                hint="Ask one who serves a repository, without --pgdata.",
            )
        return self

    def record(self) -> BackupRecord | None:
        return None

    def answer(self, command: BaseBackup) -> AbstractContextManager[Answer]:
        return live_answer(self._server, command)

    def wal(self, timeline: Timeline | None = None) -> SentWal:
        return LiveWal(self._server, self.cluster.archive, self.segment_size, timeline)

    def position(self) -> WalPosition:
        return self._server.position()

    def history(self, timeline: Timeline) -> bytes:
        try:
            return Path(self._server.path, PG_WAL, timeline.history_name).read_bytes()
        except FileNotFoundError:
            return super().history(timeline)

    def settings(self) -> dict[str, str]:
        mode = self._server.directory().directory_mode
        return super().settings() | {"data_directory_mode": f"{mode:04o}"}
