"""A transport that plays what a server once said, or never should say."""

from collections.abc import Iterable

from pgbackup.errors import PgbackupError
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.replication.transport import CopyEnd, Event, Message, ResultSet, ServerAddress

Line = Event | bytes | PgbackupError | None
"""What the server does next: an event, the payload of one CopyData, an error, or nothing at all
(receive then gives up after its time)."""


class TranscriptTransport:
    """Plays lines in order. Asking for more than there are fails the test.

    A payload is overwritten and released at the next `receive`, as Transport's contract has it.
    """

    def __init__(self, lines: Iterable[Line] = (), *, major: int = 18) -> None:
        self.server_major = major
        self.server_version = major * 10000
        self.server_version_text = f"{major}.0"
        self.address = ServerAddress("", "", "")
        self.notices: list[str] = []
        self.sent: list[Message] = []
        self._lines = list(lines)
        self._lent: tuple[bytearray, memoryview] | None = None

    @property
    def is_over(self) -> bool:
        """Whether every line has been played."""
        return not self._lines

    @property
    def commands(self) -> list[str]:
        """The commands sent, as text."""
        return [
            message.text(self.server_major)
            for message in self.sent
            if not isinstance(message, bytes | CopyEnd)
        ]

    @property
    def reports(self) -> list[bytes]:
        """The payloads sent into a COPY."""
        return [message for message in self.sent if isinstance(message, bytes)]

    def connect(
        self,
        conninfo: str,
        application_name: str,
        *,
        runs_sql: bool = False,
        replicates: bool = True,
    ) -> None:
        raise AssertionError("a transcript needs no connection")

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def receive(self, timeout: float | None = None, wake: int | None = None) -> Event | None:
        if self._lent is not None:
            memory, view = self._lent
            memory[:] = b"\xee" * len(memory)
            view.release()
            self._lent = None
        assert self._lines, "asked for more than the server has to say"
        line = self._lines.pop(0)
        if isinstance(line, PgbackupError):
            raise line
        if isinstance(line, bytes):
            memory = bytearray(line)
            self._lent = memory, memoryview(memory)
            return self._lent[1]
        assert line is not None or timeout is not None, "waits for ever for a silent server"
        return line

    def disconnect(self) -> None:
        pass


def row(*values: str | bytes | None) -> ResultSet:
    """A result of one row."""
    return rows(values)


def rows(*values: Iterable[str | bytes | None]) -> ResultSet:
    """A result of several rows."""
    encoded = tuple(
        tuple(value.encode() if isinstance(value, str) else value for value in line)
        for line in values
    )
    width = len(encoded[0]) if encoded else 3
    return ResultSet(tuple(f"column{number}" for number in range(width)), encoded)


def position_row(lsn: Lsn, timeline: Timeline) -> ResultSet:
    """A position as BASE_BACKUP tells it."""
    return row(str(lsn), str(int(timeline)))
