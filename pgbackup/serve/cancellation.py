"""The wish that a command ends: of its client, by another connection, or of the whole server.

Source: procsignal.c, SendCancelRequest; postgres.c, ProcessInterrupts (PostgreSQL 18).
"""

import hmac
import secrets
import threading
from typing import Final

from pgbackup.errors import ClientError
from pgbackup.serve.basebackup.copyout import Outgoing
from pgbackup.storage.api import Bytes

KEY_LENGTH: Final = 4
"""Bytes; all that protocol 3.0 has."""


class Terminated(ClientError):
    """The connection has to end with its command."""

    def __init__(self) -> None:
        super().__init__("terminating connection due to administrator command", sqlstate="57P01")


class Cancellation:
    """Of one connection. Asked for by any thread, and found by the one that does the command.

    key: what a request has to say.
    """

    def __init__(self) -> None:
        self.key = secrets.token_bytes(KEY_LENGTH)
        self._asked = threading.Event()
        self._is_terminated = False

    def terminate(self) -> None:
        """Have the connection end, whatever it does."""
        self._is_terminated = True
        self._asked.set()

    def ask(self, key: bytes) -> None:
        """Have the command end that is being done, if the key is right."""
        if hmac.compare_digest(key, self.key):
            self._asked.set()

    def forget(self) -> None:
        """A command begins; what was asked for before was not about it."""
        self._asked.clear()

    def check(self) -> None:
        """Raises: ClientError if the command has to end; Terminated if the connection has."""
        self.check_termination()
        if self._asked.is_set():
            self._asked.clear()
            raise ClientError("canceling statement due to user request", sqlstate="57014")

    def check_termination(self) -> None:
        """Raises: Terminated, also where no command is done."""
        if self._is_terminated:
            raise Terminated

    def pause(self, seconds: float) -> None:
        """Do nothing for a while. Raises: as check, as soon as that would."""
        self.check()
        self._asked.wait(seconds)
        self.check()


class Cancellable:
    """Sends to a client what it shall get, until the command has to end."""

    def __init__(self, client: Outgoing, cancellation: Cancellation) -> None:
        self._client = client
        self._cancellation = cancellation

    def send(self, *parts: Bytes) -> None:
        """Send whole messages. Raises: ClientError, ConnectionFailed."""
        self._cancellation.check()
        self._client.send(*parts)

    def pause(self, seconds: float) -> None:
        """Send nothing for a while. Raises: ClientError."""
        self._cancellation.pause(seconds)
