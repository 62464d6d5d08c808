"""What a receiver does about WAL that it did not get: named, recorded, and passed by if wanted.

Made once per run. A gap ends the run unless gaps are accepted; a slot over its cap is released and
ends it always. Either way the archive knows of the hole before the server may remove more.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from pgbackup.archiving.receiver.heldslot import HeldSlot
from pgbackup.archiving.receiver.serverhole import describe_stretches, find_hole, segments_on_way
from pgbackup.archiving.receiver.slotguard import megabytes
from pgbackup.archiving.receiver.startpoint import server_history, start_position
from pgbackup.errors import StorageError, WalGap, WrongSystem
from pgbackup.pg.lsn import Lsn, WalPosition
from pgbackup.replication import client
from pgbackup.replication.client import SystemIdentity
from pgbackup.replication.slotstate import closing
from pgbackup.replication.transport import Transport
from pgbackup.replication.waldir import WalDirectory
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.knownholes import KnownHole, put_known_holes, read_known_holes
from pgbackup.repo.repository import ClusterRepository


class ServerGaps:
    """The gaps of one run.

    slot:    that the receiver uses.
    tell:    is given sentences for people.
    accepts: go on behind WAL that the server no longer has.
    """

    def __init__(
        self,
        connect: Callable[[], Transport],
        cluster: ClusterRepository,
        directory: WalDirectory,
        slot: HeldSlot | None,
        tell: Callable[[str], None],
        *,
        accepts: bool,
    ) -> None:
        self._connect = connect
        self._cluster = cluster
        self._directory = directory
        self._slot = slot
        self._tell = tell
        self._accepts = accepts
        self._segment_size = directory.segment.size

    def start_position(self, transport: Transport, identity: SystemIdentity) -> WalPosition:
        """Where to begin, behind the gaps that were accepted. Raises: as startpoint's."""
        known = read_known_holes(self._cluster, self._segment_size)
        given_up = [each.stretch for each in known if each.is_accepted]
        slot = None if self._slot is None else self._slot.name
        return start_position(transport, identity, self._directory, slot, given_up)

    def pass_by(self, gap: WalGap) -> None:
        """Record what the server no longer has; go on behind it, and with another slot if lost.

        Raises: WalGap, unless gaps are accepted or nothing is missing but the slot.
        """
        lost = self._slot if self._slot is not None and self._slot.guard.is_lost else None
        with self._connected() as (transport, identity):
            if lost is not None and self._accepts:
                lost.renew(transport)  # before looking: from then on nothing more is removed
            start = self.start_position(transport, identity)
            history = server_history(transport, identity.flushed.timeline)
            hole = find_hole(self._connect, history, start, identity.flushed, self._segment_size)
            if not hole and lost is None:
                raise gap
            reason = "the server has removed it" if lost is None else f"{lost} was lost"
            self._record(hole, reason, is_accepted=self._accepts)
            if hole and not self._accepts:
                raise _gap_error(start, hole, reason)
            if lost is not None and not self._accepts:
                lost.renew(transport)
        if hole:
            self._tell(f"going on behind a gap: {describe_stretches(hole)} ({reason})")

    def settle_slot(self) -> bool:
        """Do what the state of the slot demands; tell whether to go on receiving.

        Raises: WalGap when the slot is lost or released.
        """
        slot = self._slot
        if slot is None or not slot.guard.must_stop:
            return False
        if slot.guard.is_lost:
            self.pass_by(WalGap(f"could not use {slot}: the server has invalidated it"))
            return True
        slot.guard.look()
        if slot.guard.must_release:
            self._release(slot)
        return True

    def _release(self, slot: HeldSlot) -> None:
        """Raises: WalGap when it is done."""
        reason = f"{slot} was released when it retained {megabytes(slot.guard.retained)}"
        with self._connected() as (transport, identity):
            start = self.start_position(transport, identity)
            history = server_history(transport, identity.flushed.timeline)
            last = max(start.lsn, Lsn(identity.flushed.lsn - 1))  # of a boundary: what it ends
            end = WalPosition(identity.flushed.timeline, last)
            hole = segments_on_way(history, start, end, self._segment_size)
            try:
                self._record(hole, reason, is_accepted=False)
            except StorageError as error:  # the server's disk is what the cap is there for
                self._tell(f"warning: the gap could not be recorded: {error.message}")
            slot.release(transport)
        raise WalGap(
            f"could not go on receiving WAL from {start}: {reason} of WAL, over its cap",
            hint="Receive again with -C (--create-slot) before the server removes the WAL; if it"
            " has, add --accept-gap and take a new backup.",
        )

    def _record(self, hole: Sequence[Stretch], reason: str, *, is_accepted: bool) -> None:
        now = datetime.now(UTC)
        known = [KnownHole(each, reason, now, is_accepted) for each in hole]
        put_known_holes(self._cluster, known)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Transport, SystemIdentity]]:
        with closing(self._connect()) as transport:
            identity = client.identify_system(transport)
            expect_system(identity.system_identifier, self._cluster.system)
            yield transport, identity


def expect_system(found: int, wanted: int) -> None:
    """Raises: WrongSystem if a server is not of the system that is received."""
    if found != wanted:
        raise WrongSystem(
            f"could not receive WAL: the server is of system {found}, not {wanted}",
            hint="Check -h, -p and -d; every system gets a receiver of its own.",
        )


def _gap_error(start: WalPosition, hole: Sequence[Stretch], reason: str) -> WalGap:
    return WalGap(
        f"could not receive WAL from {start}: {describe_stretches(hole)}: already been removed from"
        f" the server ({reason})",
        hint="Type pgbackup wal fill with other hosts that may have them; or go on behind them with"
        " --accept-gap, and take a new backup.",
    )
