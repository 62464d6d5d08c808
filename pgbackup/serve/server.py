"""The walsender's daily run: a thread for each client, from its first byte to its last.

The caller's thread accepts; it ends when it is told to, and then waits for the clients: idle ones
are sent away, streams are ended in good order, base backups may be finished.

Source: postmaster.c, ServerLoop; walsender.c (PostgreSQL 18)
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from pgbackup.errors import ConnectionFailed, PgbackupError
from pgbackup.replication.published import now
from pgbackup.serve.connections import STANDARD, Connections, Guest, Limits, too_many
from pgbackup.serve.entry.admission import Admission
from pgbackup.serve.entry.connection import Connection
from pgbackup.serve.entry.entrance import Entrance
from pgbackup.serve.entry.session import Admitted, Client, greeting
from pgbackup.serve.handler import Handler
from pgbackup.serve.offer import Offer
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.clientstatus import ClientStatus, clean_name
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.wire import backend

MAX_REASON: Final = 300
"""Characters of what is reported about a client."""

ACCEPT_INTERVAL: Final = 0.2  # seconds between two looks whether the server ends

Report = Callable[[str], object]
"""Takes a sentence about a client, on that client's thread."""


class Accepts(Protocol):
    """Where clients come in."""

    def accept(self, timeout: float) -> tuple[socket.socket, Client] | None: ...


class Server:
    """Serves an offer to all clients that are let in.

    read: how these are known, and by which certificate they know us; for connections that begin.
    """

    def __init__(
        self,
        offer: Offer,
        read: Callable[[], Entrance],
        news: WalNews,
        clients: Clients,
        report: Report,
        limits: Limits = STANDARD,
    ) -> None:
        """Raises: what reading raises."""
        self._read = read
        self._entrance = read()
        self._is_old = False
        self._offer = offer
        self._news = news
        self._clients = clients
        self._report = report
        self._stopping = threading.Event()
        self._limits = limits
        self._connections = Connections(limits)

    def run(self, listener: Accepts, is_over: Callable[[], bool]) -> None:
        """Accept clients until it is over."""
        while not is_over():
            if self._is_old:
                self._reload()
            try:
                accepted = listener.accept(ACCEPT_INTERVAL)
                if accepted is not None:
                    stream, client = accepted
                    self._connections.begin(Guest(Connection(stream), client), self._serve)
            except ConnectionFailed as error:  # as of too many open files
                self._report(error.message)
                self._stopping.wait(ACCEPT_INTERVAL)

    def reload(self) -> None:
        """Have it read anew who is let in, in a moment; for signal handlers, too."""
        self._is_old = True

    def _reload(self) -> None:
        """If that cannot be read, it stays as it was."""
        self._is_old = False
        try:
            self._entrance = self._read()
        except PgbackupError as error:
            self._report(f"users and certificates stay as they were: {error.message}")
        else:
            self._report("users and certificates were read again")

    def finish(self, grace: float) -> int:
        """Have the clients end, and cut off those that take longer; return how many.

        grace: seconds.
        """
        self._stopping.set()
        return self._connections.finish(time.monotonic() + grace)

    def _serve(self, guest: Guest) -> None:
        connection, address = guest.connection, guest.client.address
        deadline = time.monotonic() + self._limits.authentication
        try:
            outcome = Admission(connection, guest.client, self._entrance).run(deadline)
            if isinstance(outcome, Admitted):
                self._take_commands(guest, outcome)
            else:
                self._connections.cancel(outcome.request)
        except PgbackupError as error:
            reason = too_many().message if guest.is_turned_away else error.message
            self._report(f"{address}: {_one_line(reason)}")

    def _take_commands(self, guest: Guest, admitted: Admitted) -> None:
        connection = guest.connection
        pid = threading.get_native_id()  # of all processes, so that slots tell who uses them
        try:
            self._connections.admit(guest, pid)
            offer = self._offer.asked_for(admitted.startup.settings)
        except PgbackupError as error:
            connection.send(backend.error_response(error, fatal=True))
            raise
        key = guest.cancellation.key
        connection.send(greeting(admitted.startup, offer.server_version, offer.major, pid, key))
        with self._clients.attend(_status(pid, guest.client, admitted)) as attendance:
            Handler(
                connection,
                offer,
                admitted.user,
                attendance,
                self._news,
                guest.cancellation,
                self._stopping,
            ).run()


def _status(pid: int, client: Client, admitted: Admitted) -> ClientStatus:
    return ClientStatus(
        pid,
        admitted.startup.user,
        clean_name(admitted.startup.settings.get("application_name", "")),
        None if client.system_user is not None else client.address,
        client.port,
        now(),
    )


def _one_line(text: str) -> str:
    """What may be of a client's making, for a log that people read on terminals."""
    shown = "".join(each if each.isprintable() else "?" for each in text[:MAX_REASON])
    return shown + "..." * (len(text) > MAX_REASON)
