"""The server whose data directory is served: asked by SQL where its WAL is, while it runs.

One for all clients; it keeps a session for that, and opens it again when it was lost.

Source: walsender.c, GetFlushRecPtr and GetStandbyFlushRecPtr (PostgreSQL 18).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgbackup.backup.pgdata.datadir import DataDirectory, source_errors
from pgbackup.backup.pgdata.served import check_served
from pgbackup.backup.pgdata.session import BackupSession
from pgbackup.backup.pgdata.stopped import consistent_position
from pgbackup.backup.pgdata.walmembers import PG_WAL
from pgbackup.errors import ConnectionFailed, ServerError
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication import client
from pgbackup.replication.transport import Transport
from pgbackup.wire.queries import SelectFlushed

Connect = Callable[[], Transport]


class LiveServer:
    """A data directory, and the server that runs in it or does not.

    path:    of the directory.
    connect: opens an ordinary session.
    """

    def __init__(self, path: str, connect: Connect) -> None:
        self.path = path
        self.connect = connect
        self._lock = threading.Lock()
        self._session: Transport | None = None

    def directory(self) -> DataDirectory:
        """As it is now. Raises: NotFound, Refused, CorruptData, PgbackupError."""
        return DataDirectory.open(self.path)

    def system(self) -> int:
        """The system identifier. Raises: as directory."""
        return self.directory().control.system_identifier

    def position(self) -> WalPosition:
        """Up to where WAL may be sent. Raises: ServerError, PgbackupError."""
        data = self.directory()
        if data.is_shut_down:
            return consistent_position(data)
        with self._lock, told():
            try:
                row = client.query(self._connected(data), SelectFlushed(), 3)
            except ConnectionFailed:  # it may have been started again meanwhile
                self._end()
                row = client.query(self._connected(data), SelectFlushed(), 3)
        timeline, lsn = Timeline(client.number(row[0])), client.lsn(row[1])
        is_standby = client.text(row[2]) == "t"
        return WalPosition(self._followed(timeline, lsn) if is_standby else timeline, lsn)

    def history(self, timeline: Timeline) -> TimelineHistory:
        """Of a timeline, as pg_wal has it; without ancestors if it has none.

        Raises: CorruptData, PgbackupError.
        """
        path = self._history_path(timeline)
        with source_errors("read file", str(path)):
            try:
                return TimelineHistory.parse(timeline, path.read_bytes())
            except FileNotFoundError:
                return TimelineHistory(timeline)

    def _followed(self, timeline: Timeline, lsn: Lsn) -> Timeline:
        """The timeline that a standby is on, which its control file learns only at a restartpoint.

        It has the history of each timeline that it follows.
        """
        newest = timeline
        while self._history_path(Timeline(newest + 1)).exists():
            newest = Timeline(newest + 1)
        history = self.history(newest)
        switches = {entry.timeline: entry.switch for entry in history.entries}
        is_left = timeline in switches and lsn > switches[timeline]
        return history.timeline_of(Lsn(lsn - 1)) if is_left else timeline

    def _history_path(self, timeline: Timeline) -> Path:
        return Path(self.path, PG_WAL, timeline.history_name)

    def version(self) -> int:
        """As server_version_num; of a stopped server without its minor release.

        Raises: ServerError, WrongSystem, PgbackupError.
        """
        data = self.directory()
        if data.is_shut_down:
            return data.major * 10000
        with self._lock, told():
            return self._connected(data).server_version

    def close(self) -> None:
        """End the session."""
        with self._lock:
            self._end()

    def _connected(self, data: DataDirectory) -> Transport:
        if self._session is None:
            session = self.connect()
            try:
                check_served(data, session)
            except BaseException:
                session.disconnect()
                raise
            self._session = session
        return self._session

    def _end(self) -> None:
        if self._session is not None:
            self._session.disconnect()
            self._session = None


class ToldSession:
    """A session of a backup; that the server is lost is an error of its client's command."""

    def __init__(self, session: BackupSession) -> None:
        self._session = session

    @property
    def start(self) -> WalPosition:
        return self._session.start

    @property
    def label(self) -> bytes | None:
        return self._session.label

    def begin(self) -> None:
        with told():
            self._session.begin()

    def check(self) -> None:
        with told():
            self._session.check()

    def end(self) -> WalPosition:
        with told():
            return self._session.end()


@contextmanager
def told() -> Iterator[None]:
    """Tell a lost server from a lost client. Raises: ServerError."""
    try:
        yield
    except ConnectionFailed as error:
        lost = ServerError(
            f"could not ask the server of the data directory: {error.message}",
            sqlstate=error.sqlstate,
            hint=error.hint,
        )
        lost.exit_code = error.exit_code
        raise lost from error
