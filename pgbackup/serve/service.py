"""A run of the walsender: begun when its cluster is known, ended when somebody asks for it.

The caller's thread is free meanwhile, for a receiver whose WAL is sent on. One thread accepts
clients; what goes wrong there ends the run.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from pgbackup.interrupts import held_back
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.entry.listeners import Listeners
from pgbackup.serve.server import Server
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.clientsfile import ClientsFile, ServedClient, served_clients
from pgbackup.serve.standbys.quorum import Quorum
from pgbackup.serve.standbys.standbynames import parse_standby_names
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.stream.buffers import return_freed_buffers


class Stop(Protocol):
    """A request to end, which others may make too."""

    @property
    def is_made(self) -> bool: ...

    def make(self, reason: str) -> None: ...


Build = Callable[[ClusterRepository, WalNews, Clients], tuple[Server, Listeners]]
"""Makes a server, and begins to listen. Raises: PgbackupError."""


class Service:
    """The walsender of one process; a receiver in the same process tells it what is new.

    is_fed: there is such a receiver.
    standby_names: of clients that have to have WAL before that receiver reports it as flushed.
    """

    def __init__(self, build: Build, stop: Stop, *, is_fed: bool, standby_names: str = "") -> None:
        """Begin nothing yet. Raises: ClientError for names that a server would refuse."""
        names = parse_standby_names(standby_names)
        self._names = names
        self._standby_names = standby_names
        self._file: ClientsFile | None = None
        self._clients = Clients()
        self._quorum = None if names is None else Quorum(names, self._clients)
        self._build = build
        self._stop = stop
        self._is_fed = is_fed
        self._news: WalNews | None = None
        self._accepting: _Accepting | None = None

    @property
    def quorum(self) -> Quorum | None:
        """What the receiver has to ask."""
        return self._quorum

    def clients(self) -> list[ServedClient]:
        """Who is served now."""
        return served_clients(self._names, self._clients.statuses())

    def begin(self, cluster: ClusterRepository) -> None:
        """Serve a cluster from now on; once is enough. Raises: PgbackupError."""
        if self._accepting is None:
            return_freed_buffers()
            news = WalNews(cluster, is_fed=self._is_fed)
            if self._file is None:
                file = ClientsFile(cluster, self._clients, self._standby_names)
                self._file = file.__enter__()
            server, listeners = self._build(cluster, news, self._clients)
            with held_back():
                self._news = news.__enter__()
                self._accepting = _Accepting(server, listeners, self._stop)

    def announce(self) -> None:
        """More WAL is there."""
        if self._news is not None:
            self._news.announce()

    def reload(self) -> None:
        """Let in who is to be let in by now; for signal handlers, too."""
        if self._accepting is not None:
            self._accepting.server.reload()

    def end(self, grace: float) -> int:
        """End what is under way; how many clients took longer than so many seconds.

        Raises: what ended it before it was asked to.
        """
        self._stop.make("end")
        try:
            return 0 if self._accepting is None else self._accepting.end(grace)
        finally:
            if self._news is not None:
                self._news.__exit__(None, None, None)
            if self._file is not None:
                self._file.__exit__(None, None, None)
            if self._quorum is not None:
                self._quorum.close()


class _Accepting:
    """The thread that accepts clients."""

    def __init__(self, server: Server, listeners: Listeners, stop: Stop) -> None:
        self.server = server
        self._listeners = listeners
        self._stop = stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="accept")
        self._thread.start()

    def end(self, grace: float) -> int:
        self._thread.join()
        self._listeners.close()
        cut_off = self.server.finish(grace)
        if self._failure is not None:
            raise self._failure
        return cut_off

    def _run(self) -> None:
        try:
            self.server.run(self._listeners, lambda: self._stop.is_made)
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._failure = error
            self._stop.make("failure")
