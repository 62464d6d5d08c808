"""Up to where enough of our clients have WAL: what a receiver may report as flushed or applied.

A primary that waits for our receiver waits for them as well. What was reached once stays reached,
whoever leaves afterwards, until another timeline begins: there it has to be reached anew.

Source: syncrep.c, SyncRepReleaseWaiters (PostgreSQL 18).
"""

import os

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.replication.walreceiver import Confirmed
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.clientstatus import ClientStatus
from pgbackup.serve.standbys.standbynames import StandbyNames
from pgbackup.serve.standbys.syncrep import Acknowledged, Standby, synchronous_position

_NOTHING = Confirmed(Lsn(0), Lsn(0))


class Quorum:
    """The clients that synchronous_standby_names asks for."""

    def __init__(self, names: StandbyNames, clients: Clients) -> None:
        self._names = names
        self._clients = clients
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timeline: Timeline | None = None
        self._reached = _NOTHING
        clients.acknowledged = self._note

    def fileno(self) -> int:
        """A descriptor that can be read from when clients may have more."""
        return self._event

    def limit(self, timeline: Timeline) -> Confirmed:
        """Up to where enough clients have a timeline; 0 if there never were enough.

        For one thread.
        """
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            if timeline == self._timeline:
                return self._reached
        if timeline != self._timeline:
            self._timeline, self._reached = timeline, _NOTHING
        reached = synchronous_position(self._names, self._standbys())
        if reached is not None:
            self._reached = Confirmed(
                max(self._reached.flush, reached.flush), max(self._reached.apply, reached.apply)
            )
        return self._reached

    def close(self) -> None:
        """Forget the clients."""
        self._clients.acknowledged = None
        os.close(self._event)

    def _note(self) -> None:
        """A client has acknowledged something; on that client's thread."""
        os.eventfd_write(self._event, 1)

    def _standbys(self) -> list[Standby]:
        statuses = self._clients.statuses()
        return [standby(self._names, each, self._timeline) for each in statuses]


def standby(
    names: StandbyNames | None, status: ClientStatus, timeline: Timeline | None = None
) -> Standby:
    """A client as synchronous replication sees it.

    timeline: the only one whose clients count.
    """
    return Standby(
        0 if names is None else names.priority(status.application_name),
        status.is_streaming and timeline in (None, status.timeline),
        Acknowledged(status.write_lsn, status.flush_lsn, status.replay_lsn),
    )
