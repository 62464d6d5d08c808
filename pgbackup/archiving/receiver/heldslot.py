"""The slot that keeps WAL for the receiver: watched, shadowed, renewed, released.

Made once per run with -S, told of each connection. Its thread looks at the slot at intervals, and
visits the other servers, over short connections of their own; nothing of that holds up the stream.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from pgbackup.archiving.receiver.rounds import Rounds
from pgbackup.archiving.receiver.shadowslots import PATIENCE, ShadowSlots
from pgbackup.archiving.receiver.slotguard import SlotCap, SlotGuard
from pgbackup.errors import AuthenticationFailed
from pgbackup.pg.lsn import WalPosition
from pgbackup.replication import client
from pgbackup.replication.slotstate import SlotState, look_at_slot
from pgbackup.replication.transport import Host, ServerAddress, Transport


class ConnectTo(Protocol):
    """Opens a short-lived connection to one server, without asking anybody anything."""

    def __call__(self, at: ServerAddress, *, runs_sql: bool) -> Transport: ...


class Servers(NamedTuple):
    """How to reach servers apart from the stream. hosts: all that are named, running SQL."""

    connect_to: ConnectTo
    hosts: Callable[[], Sequence[Host]]


@dataclass(frozen=True, slots=True)
class SlotOptions:
    """What the command line asks for.

    interval:        seconds between looks.
    cap:             of what it may retain.
    is_shadowed:     keep a slot of its name on the other hosts.
    tells_blindness: say if nothing can be learnt of it.
    """

    name: str
    interval: float = 60.0
    cap: SlotCap | None = None
    is_shadowed: bool = False
    tells_blindness: bool = True


class HeldSlot:
    """The slot of one run."""

    def __init__(self, options: SlotOptions, servers: Servers, tell: Callable[[str], None]) -> None:
        self._options = options
        self._servers = servers
        self._tell = tell
        self._address = ServerAddress("", "", "")
        self._flushed: WalPosition | None = None
        self._refusal: AuthenticationFailed | None = None
        self._shadows: ShadowSlots | None = None
        self._rounds: Rounds | None = None
        self.guard = SlotGuard(
            options.name, self._look, options.cap, tell, tells_blindness=options.tells_blindness
        )

    @property
    def name(self) -> str:
        return self._options.name

    def __str__(self) -> str:
        return f'slot "{self.name}"'

    def begin(self, transport: Transport, system: int, stack: ExitStack) -> None:
        """Look at the slot on a new connection; start the thread with the first one.

        stack: ends the thread.
        """
        self._flushed = self._refusal = None
        self._address = transport.address
        self.guard.look()
        if self._rounds is None:
            if self._options.is_shadowed:
                hosts = self._servers.hosts()
                self._shadows = ShadowSlots(self.name, system, hosts, self._tell)
            self._rounds = stack.enter_context(Rounds(self._round, self._options.interval))

    def note(self, flushed: WalPosition) -> None:
        """Learn up to where WAL is durable here."""
        self._flushed = flushed
        if self._rounds is not None:
            self._rounds.check()

    def end(self) -> None:
        """Rest until the next connection."""
        self._flushed = None

    def advance_shadows(self, flushed: WalPosition) -> None:
        """Let the other servers go of what is stored, now."""
        if self._shadows is not None:
            self._shadows.advance(flushed, self._address)

    def renew(self, transport: Transport) -> None:
        """Replace a lost slot by one that holds what the server still has."""
        client.drop_slot(transport, self.name, wait=True)
        client.create_slot(transport, self.name, reserve_wal=True)
        self.guard.is_lost = False
        self._tell(f"{self} was lost; made anew")

    def release(self, transport: Transport) -> None:
        """Let the server remove the WAL."""
        client.drop_slot(transport, self.name, wait=True)

    def _look(self) -> SlotState:
        plain = partial(self._servers.connect_to, self._address, runs_sql=False)
        return look_at_slot(self._connect_for_sql, plain, self.name, PATIENCE)

    def _connect_for_sql(self) -> Transport:
        if self._refusal is not None:  # each attempt would be a line in the server's log
            raise self._refusal
        try:
            return self._servers.connect_to(self._address, runs_sql=True)
        except AuthenticationFailed as error:
            self._refusal = error
            raise

    def _round(self) -> None:
        flushed = self._flushed
        if flushed is not None:
            self.guard.look()
            self.advance_shadows(flushed)
