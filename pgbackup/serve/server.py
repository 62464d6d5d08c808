"""The walsender's daily run: a thread for each client, from its first byte to its last.

The caller's thread accepts; it ends when it is told to, and then waits for the clients: idle ones
are sent away, streams are ended in good order, base backups may be finished.

Source: postmaster.c, ServerLoop; walsender.c (PostgreSQL 18)
"""

import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from pgbackup.errors import ClientError, ConnectionFailed, PgbackupError
from pgbackup.serve.admission import Admission
from pgbackup.serve.connection import Connection
from pgbackup.serve.entrance import Entrance
from pgbackup.serve.handler import Handler
from pgbackup.serve.offer import Offer
from pgbackup.serve.session import Admitted, Client, greeting
from pgbackup.serve.walnews import WalNews
from pgbackup.wire import backend

MAX_CLIENTS: Final = 100
AUTHENTICATION_TIMEOUT: Final = 60.0
"""Seconds that the beginning of a connection may take, however many bytes come in them."""

ACCEPT_INTERVAL: Final = 0.2  # seconds between two looks whether the server ends
KEY_LENGTH: Final = 4

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
        self, offer: Offer, read: Callable[[], Entrance], news: WalNews, report: Report
    ) -> None:
        """Raises: what reading raises."""
        self._read = read
        self._entrance = read()
        self._is_old = False
        self._offer = offer
        self._news = news
        self._report = report
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._clients: dict[threading.Thread, socket.socket] = {}

    def run(self, listener: Accepts, is_over: Callable[[], bool]) -> None:
        """Accept clients until it is over."""
        while not is_over():
            if self._is_old:
                self._reload()
            try:
                accepted = listener.accept(ACCEPT_INTERVAL)
            except ConnectionFailed as error:  # as of too many open files
                self._report(error.message)
                self._stopping.wait(ACCEPT_INTERVAL)
                continue
            if accepted is not None:
                self._begin(*accepted)

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
        deadline = time.monotonic() + grace
        for thread in self._threads():
            thread.join(max(0.0, deadline - time.monotonic()))
        cut_off = 0
        with self._lock:
            for stream in self._clients.values():
                with suppress(OSError):  # it has gone by itself
                    stream.shutdown(socket.SHUT_RDWR)
                cut_off += 1
        for thread in self._threads():
            thread.join()
        return cut_off

    def _threads(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._clients)

    def _begin(self, stream: socket.socket, client: Client) -> None:
        thread = threading.Thread(target=self._serve, args=(stream, client), name="client")
        with self._lock:
            is_full = len(self._clients) >= MAX_CLIENTS
            if not is_full:
                self._clients[thread] = stream
        if is_full:
            error = ClientError("sorry, too many clients already", sqlstate="53300")
            with stream, suppress(OSError):
                stream.setblocking(False)
                stream.send(backend.error_response(error, fatal=True))
            return
        thread.start()

    def _serve(self, stream: socket.socket, client: Client) -> None:
        connection = Connection(stream)
        deadline = time.monotonic() + AUTHENTICATION_TIMEOUT
        try:
            outcome = Admission(connection, client, self._entrance).run(deadline)
            if isinstance(outcome, Admitted):
                self._take_commands(connection, outcome)
        except PgbackupError as error:
            self._report(f"{client.address}: {error.message}")
        finally:
            with self._lock:
                del self._clients[threading.current_thread()]
                connection.close()

    def _take_commands(self, connection: Connection, admitted: Admitted) -> None:
        pid = threading.get_native_id()  # of all processes, so that slots tell who uses them
        try:
            offer = self._offer.asked_for(admitted.startup.settings)
        except PgbackupError as error:
            connection.send(backend.error_response(error, fatal=True))
            raise
        connection.send(
            greeting(
                admitted.startup,
                offer.server_version,
                offer.major,
                pid,
                secrets.token_bytes(KEY_LENGTH),
            )
        )
        Handler(connection, offer, admitted.user, pid, self._news, self._stopping).run()
