"""An online backup by SQL: the server is told that files are being copied, and when that is over.

The session must stay open from `begin_online_backup` to `end`; if it is lost, the server forgets
the backup. The server tells backup_label at the end, but archives begin with it: so it is written
here, from what the control file says right after the start, and compared in the end.

Never looks at a file: whoever copies sees to it that the files are those of this server.

Source: xlogfuncs.c, pg_backup_start; xlog.c, do_pg_backup_start (PostgreSQL 18).
"""

from dataclasses import dataclass, replace

from pgbackup.errors import (
    CorruptData,
    PgbackupError,
    ProtocolViolation,
    Refused,
    ServerError,
)
from pgbackup.pg.label import BackupLabel, check_label
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication import client
from pgbackup.replication.transport import Transport
from pgbackup.wire.queries import (
    BACKUP_FUNCTIONS_SINCE,
    PrepareSession,
    SelectControl,
    StartBackup,
    StopBackup,
)

MASTER_UNTIL = 13
"""The last major that calls a primary "master" in a backup_label."""

Row = tuple[bytes | None, ...]

_ATTEMPTS = 5
_NOT_ALLOWED = "42501"


@dataclass(frozen=True, slots=True)
class ControlView:
    """What a server says of its control file by SQL."""

    system_identifier: int
    is_in_recovery: bool
    checkpoint: Lsn


@dataclass(frozen=True, slots=True)
class OnlineStop:
    """The end of an online backup.

    stop:           WAL up to here is needed.
    label:          backup_label in the server's words.
    tablespace_map: as the server wrote it at the start.
    """

    stop: WalPosition
    label: bytes
    tablespace_map: bytes


class OnlineBackup:
    """A backup that the server knows of.

    label:      for the copy.
    is_standby: whether the server was in recovery when it began.
    """

    def __init__(self, transport: Transport, label: BackupLabel, is_standby: bool) -> None:
        self._transport = transport
        self.label = label
        self.is_standby = is_standby

    @property
    def start(self) -> WalPosition:
        """Where WAL is needed from."""
        return self.label.start

    def check(self) -> None:
        """Make sure that what was copied so far is of use. Raises: Refused, ConnectionFailed."""
        if read_control_view(self._transport).is_in_recovery is not self.is_standby:
            raise Refused(
                "could not go on with the backup: the standby was promoted meanwhile",
                hint="Take the backup again.",
            )

    def end(self) -> OnlineStop:
        """End it; the server waits for no archiver.

        Raises: ServerError (also when a standby was promoted), ConnectionFailed, Refused.
        """
        (lsn, label, tablespace_map), (recovered, timeline) = _stop(self._transport)
        self._compare(_content(label))
        stop = self._position(client.lsn(lsn), client.lsn(recovered), client.number(timeline))
        return OnlineStop(stop, _content(label), _content(tablespace_map))

    def _position(self, lsn: Lsn, recovered: Lsn, timeline: int) -> WalPosition:
        """Put a timeline to the stop position: a standby can be led to another one meanwhile."""
        if not self.is_standby or timeline == self.start.timeline:
            return WalPosition(self.start.timeline, lsn)
        if recovered != lsn:
            raise Refused(
                "could not finish the backup: the standby went over to timeline"
                f" {timeline} in this very moment",
                hint="Take the backup again.",
            )
        return WalPosition(Timeline(timeline), lsn)

    def _compare(self, content: bytes) -> None:
        """Make sure that the label of the copy is the server's. Raises: ProtocolViolation."""
        try:
            found = BackupLabel.parse(content)
        except CorruptData as error:
            raise ProtocolViolation(f"the server sent no backup_label: {error.message}") from error
        if replace(found, start_time=self.label.start_time) != self.label:
            raise ProtocolViolation(
                f"the server ended another backup than it began: {found.start} instead of"
                f" {self.start}",
                detail=f"Its label is {content!r}, ours {self.label.encode()!r}.",
                hint="Connect to the server directly, without a connection pooler.",
            )


def begin_online_backup(
    transport: Transport, label: str, *, fast: bool, segment_size: int
) -> OnlineBackup:
    """Tell the server that files are going to be copied; returns after its checkpoint.

    transport:    an ordinary session, or a walsender's that runs SQL; nobody else may use it.
    fast:         whether the checkpoint hurries.
    segment_size: bytes of a WAL segment.

    Raises: UsageError (label), ServerError, ConnectionFailed, ProtocolViolation, PgbackupError.
    """
    check_label(label)
    client.query(transport, PrepareSession(), 1)
    for _ in range(_ATTEMPTS):
        backup = _begin(transport, label, fast, segment_size)
        if backup is not None:
            return backup
        _stop(transport)
    raise PgbackupError(
        f"could not start a backup: {_ATTEMPTS} times another checkpoint came right after its own",
        hint="Try again; look at checkpoint_timeout and max_wal_size of the server.",
    )


def read_control_view(transport: Transport) -> ControlView:
    """Ask the server for its control file. Raises: ServerError, ConnectionFailed."""
    identifier, recovery, checkpoint = client.query(transport, SelectControl(), 3)[:3]
    return ControlView(client.number(identifier), recovery == b"t", client.lsn(checkpoint))


def _begin(transport: Transport, label: str, fast: bool, segment_size: int) -> OnlineBackup | None:
    """None if another checkpoint has come in between, of which nothing is known then."""
    transport.send(StartBackup(label, fast))
    try:
        start = client.lsn(client.expect_result(transport, 1).rows[0][0])
    except ServerError as error:
        raise _with_hint(error, transport.server_major) from error
    row = client.expect_result(transport, 5).rows[0]
    client.expect_end(transport)
    if client.lsn(row[1]) != start:
        return None
    is_standby = row[3] == b"t"
    position = WalPosition(Timeline(client.number(row[2])), start)
    primary = "master" if transport.server_major <= MASTER_UNTIL else "primary"
    return OnlineBackup(
        transport,
        BackupLabel(
            start=position,
            segment_name=Segment.containing(position.timeline, start, segment_size).name,
            checkpoint=client.lsn(row[0]),
            start_time=client.text(row[4]),
            label=label,
            source="standby" if is_standby else primary,
        ),
        is_standby,
    )


def _stop(transport: Transport) -> tuple[Row, Row]:
    transport.send(StopBackup())
    end = client.expect_result(transport, 3).rows[0]
    recovery = client.expect_result(transport, 2).rows[0]
    client.expect_end(transport)
    return end[:3], recovery[:2]


def _content(value: bytes | None) -> bytes:
    return client.text(value).encode("utf-8", "surrogateescape")


def _with_hint(error: ServerError, major: int) -> ServerError:
    hint = error.hint
    if error.sqlstate == _NOT_ALLOWED:
        start, stop = (
            ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
            if major >= BACKUP_FUNCTIONS_SINCE
            else (
                "pg_start_backup(text, boolean, boolean)",
                "pg_stop_backup(boolean, boolean)",
            )
        )
        hint = f"Run in this database: GRANT EXECUTE ON FUNCTION {start}, {stop} TO ROLE;"
    return ServerError(error.message, sqlstate=error.sqlstate, detail=error.detail, hint=hint)
