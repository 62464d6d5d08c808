"""The receiver's slot on the servers that it does not stream from.

While WAL is received, each of them is visited at intervals, and its slot of the same name let go
of what is stored here; where there is none, it is made. So whichever server is promoted still has
what the receiver lacks. No slot is ever moved beyond what is flushed here, on a line of timelines
that leads through it; and no failure of a server stops the receiving.
"""

from collections.abc import Callable, Sequence

from pgbackup.archiving.receiver.startpoint import server_history
from pgbackup.errors import PgbackupError
from pgbackup.pg.lsn import Lsn, WalPosition
from pgbackup.replication import client
from pgbackup.replication.client import SystemIdentity
from pgbackup.replication.slotstate import advance_slot, closing, read_slot_state
from pgbackup.replication.transport import Host, ServerAddress, Transport

PATIENCE = 5.0
"""Seconds of silence after which a server counts as gone."""


class ShadowSlots:
    """Slots of one name on several servers.

    hosts: all of them; connections must run SQL.
    tell:  is given a sentence when the fate of a host's slot changes.
    """

    def __init__(
        self, name: str, system: int, hosts: Sequence[Host], tell: Callable[[str], None]
    ) -> None:
        self._name = name
        self._system = system
        self._hosts = hosts
        self._tell = tell
        self._troubles: dict[str, str] = {}

    def advance(self, flushed: WalPosition, streamed: ServerAddress) -> None:
        """Visit every host but the one that is streamed from.

        flushed: everything before this is durable here.
        """
        for host in self._hosts:
            try:
                with closing(host.connect()) as transport:
                    trouble = ""
                    if transport.address != streamed:
                        trouble = self._advance(host.name, transport, flushed)
            except PgbackupError as error:
                trouble = error.message
            self._note(host.name, trouble)

    def _note(self, host: str, trouble: str) -> None:
        before = self._troubles.get(host, "")
        if trouble and trouble != before:
            self._tell(f'warning: slot "{self._name}" on {host} stays where it is: {trouble}')
        elif before and not trouble:
            self._tell(f'slot "{self._name}" on {host} follows again')
        self._troubles[host] = trouble

    def _advance(self, host: str, transport: Transport, flushed: WalPosition) -> str:
        """Let one server go of what is flushed. Return why not, if so."""
        identity = client.identify_system(transport, PATIENCE)
        if identity.system_identifier != self._system:
            return f"the server is of system {identity.system_identifier}"
        limit = _limit(transport, identity, flushed)
        if limit is None:
            return (
                f"the server is on timeline {identity.flushed.timeline}, which does not come from"
                f" timeline {flushed.timeline}"
            )
        state = read_slot_state(transport, self._name, PATIENCE)
        if state is not None and state.is_active:
            return "somebody uses it"
        if state is None or state.restart is None or state.is_lost:
            if state is not None:
                client.drop_slot(transport, self._name)
            client.create_slot(transport, self._name, reserve_wal=True)
            self._tell(f'slot "{self._name}" made on {host}')
        elif state.restart < limit:
            advance_slot(transport, self._name, limit, PATIENCE)
        return ""


def _limit(transport: Transport, identity: SystemIdentity, flushed: WalPosition) -> Lsn | None:
    """Up to where a server's own WAL is what is flushed here; None if it went another way."""
    timeline = identity.flushed.timeline
    if timeline == flushed.timeline:
        return flushed.lsn
    history = server_history(transport, timeline)
    for entry in history.entries:
        if entry.timeline == flushed.timeline:
            return min(flushed.lsn, entry.switch)
    return None
