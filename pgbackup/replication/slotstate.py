"""What a server says of one of its replication slots.

The whole state is in pg_replication_slots, which any role may read, over a connection that runs
SQL. Without one, PostgreSQL 15 and newer tell the position alone.

Source: slotfuncs.c, pg_get_replication_slots; xlog.c, GetWALAvailability (PostgreSQL 18).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from pgbackup.errors import ConnectionFailed, ProtocolViolation
from pgbackup.pg.lsn import Lsn
from pgbackup.replication import client
from pgbackup.replication.transport import Transport
from pgbackup.wire.queries import AdvanceSlot, SelectSlot

Connect = Callable[[], Transport]


class WalStatus(StrEnum):
    """How safe the WAL is that a slot holds, in the server's words."""

    RESERVED = "reserved"
    EXTENDED = "extended"
    UNRESERVED = "unreserved"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot at one moment.

    kind:       "physical" or "logical".
    is_active:  somebody uses it; None where that is not known.
    restart:    where the WAL begins that it holds; None while it holds none.
    status:     None while it holds none, and where that is not known.
    safe_size:  bytes that may be written until the slot can be lost; None without a limit.
    server_end: where the server's WAL ends.
    """

    name: str
    kind: str
    is_active: bool | None
    restart: Lsn | None
    status: WalStatus | None
    safe_size: int | None
    server_end: Lsn

    @property
    def is_lost(self) -> bool:
        """Whether the server has removed WAL that the slot should have held."""
        return self.status is WalStatus.LOST

    @property
    def retained(self) -> int:
        """Bytes of WAL that the server keeps for it."""
        if self.restart is None or self.is_lost:
            return 0
        return max(0, self.server_end - self.restart)


def look_at_slot(
    connect_for_sql: Connect, connect: Connect, name: str, timeout: float | None = None
) -> SlotState:
    """The state of a slot, over a connection of its own, or what can be known without SQL.

    timeout: as for client.query.

    Raises: NotFound, ConnectionFailed, ServerError, ProtocolViolation.
    """
    try:
        with closing(connect_for_sql()) as transport:
            found = read_slot_state(transport, name, timeout)
    except ConnectionFailed as error:
        with closing(connect()) as transport:
            found = _read_position(transport, name, timeout)
        if found is None:
            raise ConnectionFailed(
                f'could not read replication slot "{name}": before PostgreSQL 15 this needs SQL,'
                f" and that is not to be had: {error.message}",
                hint="Let pg_hba.conf admit the role to a database too, and name it with -d.",
            ) from error
    if found is None:
        raise client.no_slot(name)
    return found


@contextmanager
def closing(transport: Transport) -> Iterator[Transport]:
    """Disconnect at the end of the block."""
    try:
        yield transport
    finally:
        transport.disconnect()


def read_slot_state(
    transport: Transport, name: str, timeout: float | None = None
) -> SlotState | None:
    """The state of a slot, over a connection that runs SQL; None if there is no such slot.

    timeout: as for look_at_slot.

    Raises: ConnectionFailed, ServerError, ProtocolViolation.
    """
    row = client.query(transport, SelectSlot(name), 6, timeout)
    kind, active, restart, status, safe, end = row[:6]
    if kind is None:
        return None
    return SlotState(
        name,
        client.text(kind),
        active == b"t",
        None if restart is None else client.lsn(restart),
        None if status is None else _status(client.text(status)),
        None if safe is None else _signed(safe),
        client.lsn(end),
    )


def advance_slot(
    transport: Transport, name: str, position: Lsn, timeout: float | None = None
) -> Lsn:
    """Let a slot go of the WAL before a position, as far as the server has got itself.

    Returns: where it is now. Raises: ConnectionFailed, ServerError, ProtocolViolation.
    """
    return client.lsn(client.query(transport, AdvanceSlot(name, position), 1, timeout)[0])


def _read_position(transport: Transport, name: str, timeout: float | None) -> SlotState | None:
    found = client.read_slot(transport, name, timeout)
    if found is None:
        return None
    restart = None if found.restart is None else found.restart.lsn
    end = client.identify_system(transport, timeout).flushed.lsn
    return SlotState(name, found.kind, None, restart, None, None, end)


def _signed(value: bytes) -> int:
    size = client.number(value.removeprefix(b"-"))
    return -size if value.startswith(b"-") else size


def _status(value: str) -> WalStatus:
    try:
        return WalStatus(value)
    except ValueError as error:
        raise ProtocolViolation(f'the server sent an unknown wal_status, "{value}"') from error
