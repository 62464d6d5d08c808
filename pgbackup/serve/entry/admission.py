"""The beginning of one connection, carried out: what the session says, on a socket, in time."""

import time
from dataclasses import replace

from pgbackup.errors import ConnectionFailed
from pgbackup.serve.entry.connection import Connection
from pgbackup.serve.entry.entrance import Entrance
from pgbackup.serve.entry.session import (
    Admitted,
    BeginTls,
    Cancel,
    Client,
    Ended,
    Event,
    Reply,
    Session,
)


class Admission:
    """From the first byte to somebody who is known, or wants another connection to be cancelled."""

    def __init__(self, connection: Connection, client: Client, entrance: Entrance) -> None:
        self._connection = connection
        self._client = client
        self._entrance = entrance
        self._session = Session(entrance.gate, client)

    def run(self, deadline: float) -> Admitted | Cancel:
        """Go through it.

        deadline: of time.monotonic().

        Raises: ConnectionFailed when the client has gone or takes too long; ClientError,
        ProtocolViolation when it is not let in, which it has been told.
        """
        while True:
            data = self._connection.read(deadline - time.monotonic())
            events = self._session.receive(data) if data else self._session.give_up()
            outcome = self._act(events, deadline)
            if outcome is not None:
                return outcome

    def _act(self, events: list[Event], deadline: float) -> Admitted | Cancel | None:
        for event in events:
            match event:
                case Reply(answer):
                    self._connection.send(answer)
                case BeginTls():
                    behind = self._begin_tls(event, deadline)
                    return self._act(self._session.receive(behind), deadline)
                case Admitted():
                    self._connection.reader = self._session.reader
                    return event
                case Cancel():
                    return event
                case Ended(error):
                    raise error
        return None

    def _begin_tls(self, event: BeginTls, deadline: float) -> bytes:
        """Shake hands; return what has arrived behind that. Raises: as run."""
        assert self._entrance.tls is not None
        stream = self._entrance.tls.begin()
        behind = self._connection.begin_tls(stream, event.received, deadline)
        if event.needs_alpn and not stream.has_alpn:
            raise ConnectionFailed("the client began TLS, but not to talk to PostgreSQL")
        self._session.tls_has_begun(
            replace(
                self._client,
                is_encrypted=True,
                certificate_names=stream.certificate_names,
                binding=self._entrance.tls.binding,
            )
        )
        return behind
