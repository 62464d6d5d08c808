"""Every error that pgbackup raises on purpose, with its exit code.

A class says what happened (its name), what the shell sees (`exit_code`), what a client of our
walsender sees (`sqlstate`) and whether the same call may succeed later (`retryable`). An
exception that is not a PgbackupError is a bug in pgbackup.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every verb except the two WAL hooks, whose callers are PostgreSQL."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONNECTION = 3
    REPOSITORY = 4
    NOT_FOUND = 5
    LOCKED = 6
    DAMAGED = 7
    REFUSED = 8
    NOT_REACHABLE = 9
    WARNINGS = 10
    INTERRUPTED = 130


class PgbackupError(Exception):
    """Base of all errors.

    message: `could not <verb> <object> "<name>": <reason>`, lower case, no full stop.
    detail:  a sentence with facts, or None.
    hint:    a sentence that names what to do or type next, or None.
    """

    exit_code = ExitCode.FAILED
    sqlstate = "XX000"
    retryable = False

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint


class UsageError(PgbackupError):
    """The command line or the configuration asks for something that makes no sense."""

    exit_code = ExitCode.USAGE
    sqlstate = "22023"


class ConnectionFailed(PgbackupError):
    """The server could not be reached, or the connection was lost."""

    exit_code = ExitCode.CONNECTION
    sqlstate = "08006"
    retryable = True


class AuthenticationFailed(ConnectionFailed):
    """The server refused the user, the password or the right to replicate."""

    sqlstate = "28000"
    retryable = False


class ServerError(PgbackupError):
    """The server answered a command with an error; `sqlstate` is the server's own."""

    def __init__(
        self, message: str, *, sqlstate: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.sqlstate = sqlstate


class ClientError(PgbackupError):
    """A client of our walsender asked for what it cannot have, or broke the protocol.

    Message, detail, hint and `sqlstate` are PostgreSQL's own wherever it has them.
    """

    def __init__(
        self, message: str, *, sqlstate: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.sqlstate = sqlstate


class ProtocolViolation(PgbackupError):
    """The peer sent something that the replication protocol does not allow here."""

    sqlstate = "08P01"


class StorageError(PgbackupError):
    """The repository is unreachable, unwritable, full, or failed to make data durable."""

    exit_code = ExitCode.REPOSITORY
    sqlstate = "58030"
    retryable = True


class StorageDenied(StorageError):
    """The repository exists but its owner does not let us in."""

    sqlstate = "42501"
    retryable = False


class NotFound(PgbackupError):
    """A named backup, segment, object or directory is not there."""

    exit_code = ExitCode.NOT_FOUND
    sqlstate = "58P01"


class Locked(PgbackupError):
    """Another process holds what this one needs."""

    exit_code = ExitCode.LOCKED
    sqlstate = "55006"
    retryable = True


class Conflict(PgbackupError):
    """A name is already bound to other content; nothing was overwritten."""

    exit_code = ExitCode.LOCKED
    sqlstate = "58P02"


class CorruptData(PgbackupError):
    """Stored or received bytes are not what their format or checksum promises."""

    exit_code = ExitCode.DAMAGED
    sqlstate = "XX001"


class Refused(PgbackupError):
    """Going on could harm data, so nothing was done."""

    exit_code = ExitCode.REFUSED
    sqlstate = "55000"


class WrongSystem(Refused):
    """System identifier, major version or segment size differ from what is stored."""


class WalGap(PgbackupError):
    """WAL that is needed is missing, here or on the server."""

    exit_code = ExitCode.NOT_REACHABLE
    sqlstate = "58P01"


class Interrupted(PgbackupError):
    """The user or the system asked the command to stop."""

    exit_code = ExitCode.INTERRUPTED
    sqlstate = "57014"
