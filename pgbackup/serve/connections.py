"""All connections of a server: how many there may be, which gives way, and which is cancelled.

Who is not known yet gives way to others that are not: of the address that has most of them the one
that came first, so that no number of silent connections keeps a client out. Who is known stays.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pgbackup.errors import ClientError, ConnectionFailed
from pgbackup.interrupts import held_back
from pgbackup.serve.cancellation import Cancellation
from pgbackup.serve.entry.connection import Connection
from pgbackup.serve.entry.session import Client
from pgbackup.wire import backend
from pgbackup.wire.startup import CancelRequest

LAST_WORDS: Final = 5.0
"""Seconds in which a client that took too long can be told so."""

STRANGERS: Final = 128
"""Connections that are being asked who they are. A legal one is that for milliseconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """clients:        known ones at a time.
    authentication: seconds that the beginning of a connection may take, however much comes in them.
    """

    clients: int = 100
    authentication: float = 60.0


STANDARD: Final = Limits()


class Guest:
    """One connection, from its first byte to its end.

    pid: what its client knows it by; None before.
    """

    def __init__(self, connection: Connection, client: Client) -> None:
        self.connection = connection
        self.client = client
        self.cancellation = Cancellation()
        self.pid: int | None = None
        self.thread: threading.Thread | None = None
        self.is_turned_away = False


class Connections:
    """Always: those that are not known and not turned away are at most STRANGERS."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._guests: list[Guest] = []  # in the order in which they came

    def begin(self, guest: Guest, serve: Callable[[Guest], object]) -> None:
        """Have a thread serve a guest; it is over when that returns.

        Raises: ConnectionFailed if there are no threads to be had.
        """

        def run() -> None:
            try:
                serve(guest)
            finally:
                self._end(guest)

        guest.thread = threading.Thread(target=run, name="client")
        self._make_room()
        with self._lock:
            self._guests.append(guest)
        try:
            with held_back():
                guest.thread.start()
        except RuntimeError as error:
            self._end(guest)
            raise ConnectionFailed(f"could not serve a client: {error}") from error

    def admit(self, guest: Guest, pid: int) -> None:
        """It is known who it is. Raises: ClientError if there are too many."""
        with self._lock:
            if sum(each.pid is not None for each in self._guests) >= self._limits.clients:
                raise too_many()
            guest.pid = pid

    def cancel(self, request: CancelRequest) -> None:
        """End the command of a connection, if there is one and the key is its key."""
        with self._lock:
            for guest in self._guests:
                if guest.pid == request.pid:
                    guest.cancellation.ask(request.key)

    def finish(self, deadline: float) -> int:
        """Wait for those who are known, up to a time of time.monotonic(); end the others' commands.

        Who does not even take the error is cut off.

        Returns: how many took longer.
        """
        with self._lock:
            for guest in self._guests:
                if guest.pid is None:
                    guest.connection.cut_off()
        self._join(deadline)
        with self._lock:
            late = len(self._guests)
            for guest in self._guests:
                guest.cancellation.terminate()
        self._join(time.monotonic() + LAST_WORDS)
        with self._lock:
            for guest in self._guests:
                guest.connection.cut_off()
        for thread in self._threads():
            thread.join()
        return late

    def _join(self, deadline: float) -> None:
        for thread in self._threads():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _end(self, guest: Guest) -> None:
        with self._lock:
            self._guests.remove(guest)
            guest.connection.close()

    def _threads(self) -> list[threading.Thread]:
        with self._lock:
            return [guest.thread for guest in self._guests if guest.thread is not None]

    def _make_room(self) -> None:
        """Turn somebody away if there are too many strangers, and let those go out first."""
        with self._lock:
            strangers = [each for each in self._guests if each.pid is None]
            waiting = [each for each in strangers if not each.is_turned_away]
            if len(waiting) >= STRANGERS:
                counts = Counter(each.client.address for each in waiting)
                most = max(counts.values())
                victim = next(each for each in waiting if counts[each.client.address] == most)
                victim.is_turned_away = True
                victim.connection.cut_off(backend.error_response(too_many(), fatal=True))
            leaving = [each.thread for each in strangers if each.is_turned_away]
        if len(leaving) > STRANGERS and leaving[0] is not None:
            leaving[0].join()


def too_many() -> ClientError:
    """What a client is told that cannot be served now."""
    return ClientError("sorry, too many clients already", sqlstate="53300")
