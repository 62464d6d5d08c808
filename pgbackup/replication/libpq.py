"""Transport over libpq, through psycopg: the only module that imports psycopg.

libpq reads every connection setting it knows (service and password files, TLS, several hosts,
Kerberos); nothing of that is ours. Waiting is done in poll(2) with the GIL released, because
psycopg's wrapper holds it during a blocking read. The payload of a CopyData stays in libpq's
memory until the caller has copied it once.
"""

import os
import re
import select

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgbackup.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    PgbackupError,
    ProtocolViolation,
    Refused,
    ServerError,
    UsageError,
)
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyEnd,
    CopyKind,
    Event,
    Message,
    Ready,
    ResultSet,
    ServerAddress,
)

OLDEST_MAJOR = 13

_LAST_WORDS = ("FATAL", "PANIC")
"""Severities after which the server closes the connection."""

_HOST_FAILURE = r"\n- host: [^\n]*?, hostaddr: (?:None|'[^'\n]*'): "
"""What psycopg writes before each of several hosts' reasons."""
_PREFIX = r"^connection (?:failed|is bad): "

_AUTHENTICATION_TEXTS = {
    "password authentication failed": "Check the password in ~/.pgpass or PGPASSFILE, or give -W.",
    "no password supplied": "Put the password into ~/.pgpass or PGPASSFILE, or give -W.",
    "no pg_hba.conf entry for replication": "Add a line 'host replication USER ADDRESS"
    " scram-sha-256' to pg_hba.conf and reload the server.",
    "no pg_hba.conf entry": "Add a line 'host DATABASE USER ADDRESS scram-sha-256' to pg_hba.conf"
    " and reload the server.",
    "must be superuser or replication role": "Run: ALTER ROLE {user} REPLICATION;",
    "permission denied to start WAL sender": "Run: ALTER ROLE {user} REPLICATION;",
    "certificate": "Check sslrootcert, sslcert and sslkey here, and the server's certificate.",
    'database "': "Check the database name (-d or PGDATABASE).",
    "does not exist": "Check the user name (-U) and the server (-h, -p).",
    "authentication failed": "Check pg_hba.conf of the server.",
}
_CAPACITY_TEXTS = {
    "max_wal_senders": "Raise max_wal_senders on the server, which needs wal_level = replica;"
    " a backup needs two connections.",
    "too many clients": "Raise max_connections on the server, or try again later.",
    "remaining connection slots": "Raise max_connections on the server, or try again later.",
}
_MISSING_TEXTS = {
    "could not translate host name": "Check the host name (-h or PGHOST).",
    "failed to resolve host": "Check the host name (-h or PGHOST).",
    "Connection refused": "Check that the server runs and listens there (-h, -p).",
    "No such file or directory": "Check that the server runs; name its host or socket"
    " directory with -h and its port with -p.",
    "Permission denied": "Check that this user may enter the directory of the server's socket.",
    "timeout expired": "Check the network, or raise connect_timeout.",
}


def parse_conninfo(text: str) -> dict[str, str]:
    """Split a connection string or URI into its settings. Raises: UsageError."""
    try:
        settings = conninfo_to_dict(text)
    except psycopg.ProgrammingError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"could not read the connection string: {reason}") from error
    except UnicodeEncodeError as error:
        raise _not_utf8() from error
    return {name: str(value) for name, value in settings.items() if value is not None}


def build_conninfo(settings: dict[str, str]) -> str:
    """The reverse of `parse_conninfo`. Raises: UsageError."""
    try:
        return make_conninfo(**settings)
    except UnicodeEncodeError as error:
        raise _not_utf8() from error


class LibpqTransport:
    """A Transport of the real kind."""

    def __init__(self) -> None:
        self.server_major = 0
        self.server_version = 0
        self.server_version_text = ""
        self.address = ServerAddress("", "", "")
        self.notices: list[str] = []
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._copy: CopyKind | None = None
        self._pending: Event | None = None

    def connect(
        self,
        conninfo: str,
        application_name: str,
        *,
        runs_sql: bool = False,
        replicates: bool = True,
    ) -> None:
        settings = parse_conninfo(conninfo)
        if not replicates:
            settings["replication"] = "false"
        else:
            settings["replication"] = "database" if runs_sql else "true"
        if (
            replicates and not runs_sql
        ):  # else it would hide the database of PGSERVICE or PGDATABASE
            settings.setdefault("dbname", "replication")
        settings.setdefault("fallback_application_name", application_name)
        try:
            connection = psycopg.connect(build_conninfo(settings), autocommit=True)
        except psycopg.Error as error:
            raise _connect_error(str(error), settings.get("user", "")) from error
        except UnicodeError as error:  # of the host, on its way to the resolver
            raise _connect_error(f"failed to resolve host: {error}", "") from error
        self._connection = connection
        self._copy = self._pending = None
        connection.add_notice_handler(self._note)
        self._pgconn = connection.pgconn
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        self._wake: int | None = None
        self._learn_address()
        self._learn_version()

    def send(self, message: Message) -> None:
        try:
            if isinstance(message, bytes):
                self._pgconn.put_copy_data(message)
                self._pgconn.flush()
            elif isinstance(message, CopyEnd):
                self._pgconn.put_copy_end()
                self._pgconn.flush()
                if self._copy is not None:  # else the server has ended its half before
                    self._copy = CopyKind.FROM_SERVER
            else:
                text = message.text(self.server_major)
                self._pgconn.send_query(text.encode("utf-8", "surrogateescape"))
        except psycopg.Error as error:
            raise self._lost(error) from error

    def receive(self, timeout: float | None = None, wake: int | None = None) -> Event | None:
        try:
            if self._pending is not None:
                event, self._pending = self._pending, None
                return event
            if self._copy is not None:
                return self._receive_copy(timeout, wake)
            return self._receive_result(timeout)
        except psycopg.Error as error:
            raise self._lost(error) from error

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _receive_copy(self, timeout: float | None, wake: int | None) -> Event | None:
        while True:
            length, data = self._pgconn.get_copy_data(1)
            if length > 0:
                return data
            if length < 0:
                return self._end_of_copy()
            if not self._wait(timeout, wake):
                return None

    def _end_of_copy(self) -> Event:
        """Tell a regular end from one by an error or a shutdown: the next result shows it."""
        kind, self._copy = self._copy, None
        while self._pgconn.is_busy():
            self._wait(None)
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.COPY_IN:
            return CopyDone()  # the server has ended its half, ours is open
        event = self._event(result)
        if kind is CopyKind.BOTH:
            return event
        self._pending = event
        return CopyDone()

    def _receive_result(self, timeout: float | None) -> Event | None:
        while self._pgconn.is_busy():
            if not self._wait(timeout):
                return None
        return self._event(self._pgconn.get_result())

    def _event(self, result: pq.abc.PGresult | None) -> Event:
        if result is None:
            if self._pgconn.status == pq.ConnStatus.BAD:
                raise self._lost(None)
            return Ready()
        status = result.status
        if status == pq.ExecStatus.TUPLES_OK:
            return _result_set(result)
        if status == pq.ExecStatus.COMMAND_OK:
            return CommandComplete((result.command_status or b"").decode())
        if status == pq.ExecStatus.COPY_OUT:
            self._copy = CopyKind.FROM_SERVER
            return CopyBegin(CopyKind.FROM_SERVER)
        if status == pq.ExecStatus.COPY_BOTH:
            self._copy = CopyKind.BOTH
            return CopyBegin(CopyKind.BOTH)
        if status == pq.ExecStatus.FATAL_ERROR:
            raise self._server_error(result)
        raise ProtocolViolation(f"the server sent an unexpected result (status {status})")

    def _wait(self, timeout: float | None, wake: int | None = None) -> bool:
        """Wait for bytes and take them in; False when the time is over, or we were woken."""
        milliseconds = None if timeout is None else max(0, round(timeout * 1000))
        ready = [descriptor for descriptor, _ in self._poll_for(wake).poll(milliseconds)]
        if self._pgconn.socket not in ready:
            return False
        self._pgconn.consume_input()
        return True

    def _poll_for(self, wake: int | None) -> select.poll:
        if wake is None:
            return self._poll
        if self._wake != wake:
            self._wake, self._waking_poll = wake, select.poll()
            self._waking_poll.register(self._pgconn.socket, select.POLLIN)
            self._waking_poll.register(wake, select.POLLIN)
        return self._waking_poll

    def _server_error(self, result: pq.abc.PGresult) -> PgbackupError:
        def diagnosis(field: pq.DiagnosticField) -> str | None:
            value = result.error_field(field)
            return None if value is None else value.decode("utf-8", "replace")

        message = diagnosis(pq.DiagnosticField.MESSAGE_PRIMARY)
        if message is None or self._pgconn.status == pq.ConnStatus.BAD:
            return self._lost(result.get_error_message().strip())
        if diagnosis(pq.DiagnosticField.SEVERITY_NONLOCALIZED) in _LAST_WORDS:
            return self._lost(message)
        error = ServerError(
            f"the server reported: {message}",
            sqlstate=diagnosis(pq.DiagnosticField.SQLSTATE) or "XX000",
            detail=diagnosis(pq.DiagnosticField.MESSAGE_DETAIL),
            hint=diagnosis(pq.DiagnosticField.MESSAGE_HINT),
        )
        while self._pgconn.status == pq.ConnStatus.OK and self._pgconn.get_result() is not None:
            pass
        return error

    def _lost(self, reason: object) -> ConnectionFailed:
        # What follows libpq's first line are guesses at the reason, in sentences.
        lines = str(reason or self._pgconn.get_error_message()).strip().splitlines()
        text = lines[0].rstrip(".") if lines else "no reason is known"
        return ConnectionFailed(f"the connection to the server was lost: {text}")

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self.notices.append(f"{diagnostic.severity}: {diagnostic.message_primary}")

    def _learn_address(self) -> None:
        given = (self._pgconn.host, self._pgconn.hostaddr, self._pgconn.port)
        self.address = ServerAddress(*(os.fsdecode(value or b"") for value in given))

    def _learn_version(self) -> None:
        self.server_version = self._pgconn.server_version
        self.server_major = self.server_version // 10000
        text = self._pgconn.parameter_status(b"server_version") or b""
        self.server_version_text = text.decode("utf-8", "replace").split(" ")[0]
        if self.server_major < OLDEST_MAJOR:
            self.disconnect()
            raise Refused(
                f"the server runs PostgreSQL {self.server_version_text}; the oldest supported"
                f" major is {OLDEST_MAJOR}"
            )


def _not_utf8() -> UsageError:
    return UsageError("could not use the connection settings: one of them is not UTF-8")


def _result_set(result: pq.abc.PGresult) -> ResultSet:
    columns = tuple((result.fname(i) or b"").decode() for i in range(result.nfields))
    rows = tuple(
        tuple(result.get_value(row, column) for column in range(result.nfields))
        for row in range(result.ntuples)
    )
    return ResultSet(columns, rows)


def _plain_reason(text: str) -> str:
    """One reason in one line, without libpq's guess at what is behind it."""
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    return re.sub(_PREFIX, "", " ".join(" ".join(lines).split())).rstrip(".")


def _connect_error(text: str, user: str) -> ConnectionFailed:
    detail: str | None = None
    first, *hosts = re.split(_HOST_FAILURE, text)
    if not hosts:
        first, _, rest = first.partition("DETAIL:")
        detail = " ".join(rest.split()) or None
    reason = "; ".join(map(_plain_reason, hosts or [first]))
    message = f"could not connect to the server: {reason}"
    for fragment, hint in _AUTHENTICATION_TEXTS.items():
        if fragment in reason:
            return AuthenticationFailed(
                message, detail=detail, hint=hint.format(user=user or "USER")
            )
    for fragment, hint in (_CAPACITY_TEXTS | _MISSING_TEXTS).items():
        if fragment in reason:
            return ConnectionFailed(message, detail=detail, hint=hint)
    return ConnectionFailed(message, detail=detail)
