"""One function per replication command that needs an answer of a certain shape.

They send, read to the end of the command, and return values. Streaming commands (BASE_BACKUP,
START_REPLICATION) have their own loops in `backup.receive` and `replication.walreceiver`.
"""

from dataclasses import dataclass

from pgbackup.errors import (
    Conflict,
    ConnectionFailed,
    CorruptData,
    Locked,
    NotFound,
    ProtocolViolation,
    ServerError,
)
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.transport import CommandComplete, Event, Ready, ResultSet, Transport
from pgbackup.wire.commands import (
    READ_SLOT_SINCE,
    Command,
    CreatePhysicalSlot,
    DropSlot,
    IdentifySystem,
    ReadSlot,
    Show,
    TimelineHistory,
)

UNDEFINED_FILE = "58P01"
UNDEFINED_OBJECT = "42704"
DUPLICATE_OBJECT = "42710"
NOT_IN_STATE = "55000"
OBJECT_IN_USE = "55006"

ANSWER_LIMIT = 60.0
"""Seconds until a server that does not answer a short command counts as gone."""

MAX_DIGITS = 20
"""Of a number of 64 bits."""

_UNITS = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3}


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """What IDENTIFY_SYSTEM answers. flushed: position that is durable on the server."""

    system_identifier: int
    flushed: WalPosition


@dataclass(frozen=True, slots=True)
class SlotPosition:
    """What READ_REPLICATION_SLOT answers.

    restart: where the WAL begins that the slot holds; None while it holds none.
    """

    kind: str
    restart: WalPosition | None


def expect_event(transport: Transport, timeout: float | None = None) -> Event:
    """The next event; by default however long it takes.

    timeout: seconds. Raises: ConnectionFailed when they pass in silence.
    """
    event = transport.receive(timeout)
    if event is None:
        raise ConnectionFailed(f"the server has not answered for {timeout:.0f} seconds")
    return event


def expect_result(transport: Transport, columns: int, timeout: float | None = None) -> ResultSet:
    """The next event, which must be a result of at least one row and so many columns."""
    event = expect_event(transport, timeout)
    if not isinstance(event, ResultSet) or len(event.columns) < columns or not event.rows:
        raise ProtocolViolation(f"the server answered {_name(event)} where a row was due")
    return event


def expect_end(transport: Transport, timeout: float | None = None) -> None:
    """Read command tags until the command is over."""
    while True:
        event = expect_event(transport, timeout)
        if isinstance(event, Ready):
            return
        if not isinstance(event, CommandComplete):
            raise ProtocolViolation(f"the server answered {_name(event)} after its result")


def query(
    transport: Transport, command: Command, columns: int, timeout: float | None = None
) -> tuple[bytes | None, ...]:
    """Send a command that answers with one row, and return that row.

    timeout: seconds of silence after which the server counts as gone; None is ANSWER_LIMIT.
    """
    timeout = ANSWER_LIMIT if timeout is None else timeout
    transport.send(command)
    result = expect_result(transport, columns, timeout)
    expect_end(transport, timeout)
    return result.rows[0]


def identify_system(transport: Transport, timeout: float | None = None) -> SystemIdentity:
    """Which cluster this is, and where it is. timeout: as for `query`."""
    row = query(transport, IdentifySystem(), 3, timeout)
    return SystemIdentity(number(row[0]), position(row[2], row[1]))


def show(transport: Transport, name: str) -> str:
    """The value of one setting, as text."""
    return text(query(transport, Show(name), 1)[0])


def wal_segment_size(transport: Transport) -> int:
    """Bytes per WAL segment on this server."""
    value = show(transport, "wal_segment_size")
    digits = value.rstrip("BGMk")
    unit = value[len(digits) :]
    if not digits.isdecimal() or unit not in _UNITS:
        raise ProtocolViolation(f'the server shows a wal_segment_size of "{value}"')
    return int(digits) * _UNITS[unit]


def timeline_history(transport: Transport, timeline: Timeline) -> bytes | None:
    """The content of a timeline's history file; None for a server that has lost it.

    Timeline 1 never has one.
    """
    try:
        content = query(transport, TimelineHistory(timeline), 2)[1]
    except ServerError as error:
        if error.sqlstate == UNDEFINED_FILE:
            return None
        raise
    return content


def create_temporary_slot(transport: Transport, name: str) -> None:
    """Hold WAL from the last checkpoint's redo point on, as long as the connection lives."""
    query(transport, CreatePhysicalSlot(name, temporary=True, reserve_wal=True), 4)


def create_slot(
    transport: Transport, name: str, *, reserve_wal: bool = False, if_not_exists: bool = False
) -> bool:
    """Create a physical slot that stays until it is dropped.

    reserve_wal:   hold WAL from now on, not only from the first report of a receiver on.
    if_not_exists: a slot of that name is fine.

    Returns: whether it was created. Raises: Conflict, ServerError.
    """
    try:
        query(transport, CreatePhysicalSlot(name, reserve_wal=reserve_wal), 4)
    except ServerError as error:
        if error.sqlstate != DUPLICATE_OBJECT:
            raise
        if not if_not_exists:
            raise Conflict(
                f'could not create replication slot "{name}": it already exists',
                hint="Add --if-not-exists to use it as it is.",
            ) from error
        return False
    return True


def drop_slot(transport: Transport, name: str, *, wait: bool = False) -> None:
    """Drop a slot that nobody uses. Raises: NotFound, Locked, ServerError.

    wait: until nobody uses it.
    """
    transport.send(DropSlot(name, wait))
    try:
        expect_end(transport, ANSWER_LIMIT)
    except ServerError as error:
        if error.sqlstate == UNDEFINED_OBJECT:
            raise NotFound(no_slot(name).message) from error  # who drops it wants none
        if error.sqlstate == OBJECT_IN_USE:
            raise Locked(
                f'could not drop replication slot "{name}": {error.message}',
                hint="Stop the receiver that uses it first.",
            ) from error
        raise


def read_slot(transport: Transport, name: str, timeout: float | None = None) -> SlotPosition | None:
    """The position of a slot; None where the server is too old to tell (13 and 14).

    timeout: as for `query`.

    Raises: NotFound, ServerError (a logical slot).
    """
    if transport.server_major < READ_SLOT_SINCE:
        return None
    kind, restart, timeline = query(transport, ReadSlot(name), 3, timeout)[:3]
    if kind is None:
        raise no_slot(name)
    return SlotPosition(text(kind), None if restart is None else position(restart, timeline))


def no_slot(name: str) -> NotFound:
    """The error for a slot that the server does not have."""
    return NotFound(
        f'could not find replication slot "{name}": the server has none of that name',
        hint=f"Create it with: pgbackup slot create {name}",
    )


def position(location: bytes | None, timeline: bytes | None) -> WalPosition:
    """Read a position from two text columns."""
    try:
        return WalPosition(Timeline(number(timeline)), lsn(location))
    except CorruptData as error:
        raise ProtocolViolation(f"the server sent no position: {error.message}") from error


def lsn(value: bytes | None) -> Lsn:
    """A column that must be a position in the WAL."""
    try:
        return Lsn.parse(text(value))
    except CorruptData as error:
        raise ProtocolViolation(f"the server sent no position: {error.message}") from error


def text(value: bytes | None) -> str:
    """A column that must not be NULL."""
    if value is None:
        raise ProtocolViolation("the server sent NULL where a value was due")
    return value.decode("utf-8", "surrogateescape")


def number(value: bytes | None) -> int:
    """A column that must be an unsigned number."""
    if value is None or not value.isdigit() or len(value) > MAX_DIGITS:
        raise ProtocolViolation("the server sent something else where a number was due")
    return int(value)


def _name(event: Event) -> str:
    return type(event).__name__
