"""A walsender over a stored backup, in this process, and connections to it by real libpq."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.connections import STANDARD, Limits
from pgbackup.serve.entry.addresses import LOOPBACK, Directory, HostPort
from pgbackup.serve.entry.entrance import Entrance
from pgbackup.serve.entry.listener import user_name
from pgbackup.serve.entry.listeners import listen
from pgbackup.serve.entry.session import Gate
from pgbackup.serve.entry.tls import Tls
from pgbackup.serve.entry.users import User
from pgbackup.serve.offer import Offer
from pgbackup.serve.server import Server
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.wal.walnews import WalNews

PORT = 5432
GRACE = 20.0


class Running:
    """A server that runs until the end of a with block; then nobody had to be cut off.

    reports: what it told of its clients.
    grace:   seconds that clients get at the end.
    """

    def __init__(
        self,
        cluster: ClusterRepository,
        *users: User,
        tls: Tls | None = None,
        limits: Limits = STANDARD,
        offer: Offer | None = None,
        grace: float = GRACE,
    ) -> None:
        self.reports: list[str] = []
        self.cut_off: int | None = None
        self._grace = grace
        self._directory = tempfile.TemporaryDirectory(prefix="pgb-serve-")  # a short path
        self.directory = Path(self._directory.name) / "new"
        by_name = {user.name: user for user in users}
        gate = Gate(by_name, user_name(), b"only for this test", tls is not None)
        self.news = WalNews(cluster)
        self.clients = Clients()
        entrance = Entrance(gate, tls)
        self.server = Server(
            offer or Offer(cluster),
            lambda: entrance,
            self.news,
            self.clients,
            self.reports.append,
            limits,
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        places = [Directory(str(self.directory)), HostPort(LOOPBACK, 0)]
        self._listener = listen(places, PORT)
        self.tcp_port = int(self._listener.places[1].split()[-1])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        is_stopped = self.cut_off is not None
        self.stop()
        self._directory.cleanup()
        assert is_stopped or self.cut_off == 0

    def begin_stop(self) -> None:
        """Have it end."""
        self._over.set()

    def stop(self) -> None:
        """Have it end, and wait for that."""
        self.begin_stop()
        self._thread.join()

    def conninfo(self, user: str | None = None) -> str:
        return f"host={self.directory} port={PORT} user={user or user_name()}"

    @contextmanager
    def connected(self, user: str | None = None, settings: str = "") -> Iterator[LibpqTransport]:
        """settings: of the start-up, as in `-c name=value`."""
        transport = LibpqTransport()
        transport.connect(f"{self.conninfo(user)} options='{settings}'", "test")
        try:
            yield transport
        finally:
            transport.disconnect()

    def _run(self) -> None:
        with self.news:
            self.server.run(self._listener, self._over.is_set)
            self._listener.close()
            self.cut_off = self.server.finish(self._grace)
