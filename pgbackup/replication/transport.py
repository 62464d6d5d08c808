"""Transport: a conversation with a walsender, in four functions.

Commands go out as values of `wire.commands`, answers come in as the events below; a new command
never adds a method. Errors of the server are raised as ServerError by `receive`; the command is
then over and the connection can be used again.

Source: walreceiver.h, WalReceiverFunctionsType (PostgreSQL 18), reduced to four.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from pgbackup.wire.commands import Command


class CopyKind(Enum):
    """Which way a COPY flows, seen from us."""

    FROM_SERVER = "out"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class ResultSet:
    """Rows of a result, as text; None is NULL."""

    columns: tuple[str, ...]
    rows: tuple[tuple[bytes | None, ...], ...]


@dataclass(frozen=True, slots=True)
class CommandComplete:
    """One command tag; a command can end with several."""

    tag: str


@dataclass(frozen=True, slots=True)
class CopyBegin:
    """CopyData follow as memoryviews."""

    kind: CopyKind


@dataclass(frozen=True, slots=True)
class CopyDone:
    """The server sends no more CopyData."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The command is over; the next may be sent."""


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """A message to the server: we send no more CopyData."""


Event = ResultSet | CommandComplete | CopyBegin | CopyDone | Ready | memoryview
"""What `receive` returns; a memoryview is the payload of one CopyData."""

Message = Command | bytes | CopyEnd
"""What `send` takes; bytes are the payload of one CopyData."""


class ServerAddress(NamedTuple):
    """Which of several servers a connection has reached, in libpq's settings; "" is not set."""

    host: str
    hostaddr: str
    port: str


class Transport(Protocol):
    """Always: between `send(command)` and its Ready, no other command is sent.

    server_major:    13 and up; known after connect.
    server_version:  PostgreSQL's number, e.g. 150018.
    address:         of the server that was reached.
    notices:         warnings of the server since the list was last emptied.
    """

    server_major: int
    server_version: int
    server_version_text: str
    address: ServerAddress
    notices: list[str]

    def connect(
        self,
        conninfo: str,
        application_name: str,
        *,
        runs_sql: bool = False,
        replicates: bool = True,
    ) -> None:
        """Open a physical replication connection.

        runs_sql:   to the database of the connection string, where SQL is understood as well.
        replicates: False for an ordinary session, where nothing but SQL is understood; who may
                    not replicate can have it, and it takes no walsender.

        Raises: ConnectionFailed, AuthenticationFailed, Refused (server too old).
        """

    def send(self, message: Message) -> None:
        """Send a command, or a message into the running COPY. Raises: ConnectionFailed."""

    def receive(self, timeout: float | None = None, wake: int | None = None) -> Event | None:
        """Return the next event; None after `timeout` seconds without one.

        wake: a descriptor that ends the waiting within a COPY as soon as it can be read from.

        A memoryview is valid until the next call. Raises: ServerError, ConnectionFailed.
        """

    def disconnect(self) -> None:
        """Close the connection. Twice is once."""


class Host(NamedTuple):
    """One server of a connection string that may name several."""

    name: str
    connect: Callable[[], Transport]
