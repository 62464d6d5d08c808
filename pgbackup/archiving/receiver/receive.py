"""`receive-wal`: the receiver's life.

Started by cron or as a service. It connects, checks whose WAL it will get, takes the cluster's
lock, finds where to begin, and streams timeline after timeline into the archive until it is told
to stop. A lost connection or a full disk is waited out; whatever could harm the archive, and a
gap, ends it. On disk it leaves full segments, the histories, and the .partial of what is going
on. It never reports to the server what would not survive a power cut here.

Source: pg_receivewal.c, receivelog.c (PostgreSQL 18).
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pgbackup.archiving.options import DEFAULT_LEVEL
from pgbackup.archiving.receiver.heldslot import HeldSlot, Servers, SlotOptions
from pgbackup.archiving.receiver.received import ReceivedWal
from pgbackup.archiving.receiver.servergaps import ServerGaps, expect_system
from pgbackup.archiving.receiver.startpoint import fetch_history
from pgbackup.archiving.receiver.stopping import StopRequest
from pgbackup.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    Locked,
    NotFound,
    PgbackupError,
    ProtocolViolation,
    Refused,
    ServerError,
    UsageError,
    WalGap,
    WrongSystem,
)
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication import client
from pgbackup.replication.client import SystemIdentity
from pgbackup.replication.slotstate import closing
from pgbackup.replication.transport import Transport
from pgbackup.replication.walreceiver import Quorum, WalStream
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.api import Lock

FLUSH_EVERY = 5.0
"""Seconds that received WAL may wait for its fsync where no commit waits for it."""

STOP_LIMIT = 5.0
"""Seconds of silence until a server that we are leaving is left without a word."""

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 15.0
"""Seconds between attempts: doubled from the first to the longest."""

LOCK_INTERVAL = 0.2
"""Seconds between looks at a lock that somebody holds."""

Connect = Callable[[], Transport]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """What the command line asks for.

    create_slot: make the slot first; exists_ok: it may be there.
    synchronous: flush and report whenever nothing more is there to read.
    endpos:      stop when everything before it is received.
    once:        stop at the server's position of the start.
    loop:        connect again after a failure.
    level:       of zstd; None keeps segments plain.
    wait:        seconds for another receiver to end.
    system:      the only system identifier to accept.
    accept_gap:  go on behind WAL that the server no longer has.
    """

    slot: SlotOptions | None = None
    create_slot: bool = False
    exists_ok: bool = False
    synchronous: bool = False
    endpos: Lsn | None = None
    once: bool = False
    loop: bool = True
    level: int | None = DEFAULT_LEVEL
    wait: float = 0.0
    system: int | None = None
    accept_gap: bool = False


class Relay(Protocol):
    """What sends received WAL on, in the same process.

    quorum: of those who get it, if the server's commits shall wait for them too.
    """

    @property
    def quorum(self) -> Quorum | None: ...

    def begin(self, cluster: ClusterRepository) -> None:
        """The archive is open; told again for each connection."""

    def announce(self) -> object:
        """More WAL is durable, or the timeline is another."""


class WalReceiver:
    """One run.

    stop:    what ends it in good order, between any two messages.
    tell:    is given sentences for people.
    servers: ways to look after the slot.
    """

    def __init__(
        self,
        connect: Connect,
        repository: Repository,
        options: ReceiveOptions,
        stop: StopRequest,
        tell: Tell,
        servers: Servers,
        relay: Relay | None = None,
    ) -> None:
        if repository.storage.features.local_path is None:
            raise UsageError(
                f'could not receive WAL into "{repository.storage.url}": this needs a repository'
                " on a file system",
                hint="Name a directory with -B, or archive with pgbackup wal-push.",
            )
        self._root = repository.storage.features.local_path
        self._connect = connect
        self._repository = repository
        self._options = options
        self._stop = stop
        self._tell = tell
        self._relay = relay
        self._system = options.system
        self._cluster: ClusterRepository | None = None
        self._target: WalPosition | None = None
        self._wal: ReceivedWal | None = None
        self._slot = None if options.slot is None else HeldSlot(options.slot, servers, tell)
        self._gaps: ServerGaps | None = None
        self._is_proven = False
        self._has_streamed = False

    def run(self) -> None:
        """Receive until the stop rule is met.

        Raises: WrongSystem, WalGap, Conflict, Locked and whatever else no waiting can mend.
        """
        pause = FIRST_PAUSE
        with ExitStack() as stack:
            while not self._stop.is_made:
                began = time.monotonic()
                try:
                    self._receive(stack)
                    if self._wal is not None and not self._stop.is_made:
                        self._wal.finish()
                    return
                except PgbackupError as error:
                    if self._stop.is_made and isinstance(error, ConnectionFailed):
                        return
                    if not self._is_worth_waiting(error):
                        raise
                    is_new = isinstance(error, ConnectionFailed) and self._has_streamed
                    if is_new or time.monotonic() - began > LONGEST_PAUSE:
                        pause = FIRST_PAUSE
                    self._tell(f"{error.message}; trying again")
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _is_worth_waiting(self, error: PgbackupError) -> bool:
        if not self._options.loop or isinstance(error, Locked | WrongSystem):
            return False
        if isinstance(error, ServerError) and error.sqlstate == client.OBJECT_IN_USE:
            return True  # the slot, by a walsender that has not noticed the end of its receiver
        may_pass = (AuthenticationFailed, NotFound, ProtocolViolation, Refused, ServerError)
        return error.retryable or (self._is_proven and isinstance(error, may_pass))

    def _receive(self, stack: ExitStack) -> None:
        """Sessions, with what has to be decided between them."""
        while True:
            try:
                self._session(stack)
            except WalGap as gap:
                if self._gaps is None:
                    raise
                self._gaps.pass_by(gap)
                continue
            if self._stop.is_made or self._gaps is None or not self._gaps.settle_slot():
                return

    def _session(self, stack: ExitStack) -> None:
        """All that happens on one connection."""
        self._has_streamed = False
        with closing(self._connect()) as transport:
            identity = client.identify_system(transport)
            wal = self._open(transport, identity, stack)
            self._make_slot(transport)
            if self._slot is not None:
                self._slot.begin(transport, identity.system_identifier, stack)
                if self._slot.guard.must_stop:
                    return
            assert self._gaps is not None
            start = self._gaps.start_position(transport, identity)
            if self._options.once:
                self._target = identity.flushed
            try:
                self._follow(transport, wal, start)
            except ConnectionFailed:
                wal.flush()
                raise
            finally:
                wal.release()
                if self._slot is not None:
                    self._slot.end()
        if self._slot is not None and self._options.once:
            self._slot.advance_shadows(WalPosition(wal.position.timeline, wal.flush_lsn))

    def _follow(self, transport: Transport, wal: ReceivedWal, start: WalPosition) -> None:
        """Stream from a position to the end of the timeline, and of those after it."""
        position = start
        while True:
            self._archive_history(transport, position.timeline)
            begin = wal.begin(position)
            self._tell(f"receiving WAL of system {self._system} from {begin}")
            stream = WalStream(
                transport,
                wal,
                self._is_done,
                slot=self._slot_name,
                flush_every=0.0 if self._options.synchronous else FLUSH_EVERY,
                stop_limit=STOP_LIMIT,
                quorum=None if self._relay is None else self._relay.quorum,
            )
            wal.follow(partial(getattr, stream, "server_end"))
            following = self._run(stream, begin)
            wal.flush()
            if following is None:
                return
            if following.timeline <= position.timeline or following.lsn > wal.write_lsn:
                raise ProtocolViolation(
                    f"the server ended timeline {position.timeline} at {wal.write_lsn} and goes"
                    f" on from {following}"
                )
            position = following

    def _run(self, stream: WalStream, begin: WalPosition) -> WalPosition | None:
        try:
            following = stream.run(begin)
        except ServerError as error:
            if self._slot is not None and error.sqlstate == client.UNDEFINED_OBJECT:
                raise client.no_slot(self._slot.name) from error
            if self._slot is not None and error.sqlstate == client.NOT_IN_STATE:
                self._slot.guard.is_lost = True
                raise WalGap(f"could not use {self._slot}: {error.message}") from error
            raise
        finally:
            self._has_streamed = self._has_streamed or stream.server_end > 0
            self._is_proven = self._is_proven or self._has_streamed
        return following

    def _is_done(self) -> bool:
        if self._stop.is_made:
            return True
        assert self._wal is not None
        now = self._wal.position
        if self._slot is not None:
            self._slot.note(WalPosition(now.timeline, self._wal.flush_lsn))
            if self._slot.guard.must_stop:
                return True
        if self._options.endpos is not None and now.lsn >= self._options.endpos:
            return True
        target = self._target
        return target is not None and (
            now.timeline > target.timeline
            or (now.timeline == target.timeline and now.lsn >= target.lsn)
        )

    def _archive_history(self, transport: Transport, timeline: Timeline) -> None:
        """Have the history of a timeline before its first segment."""
        if timeline > 1:
            assert self._cluster is not None
            content = fetch_history(transport, timeline)
            TimelineHistory.parse(timeline, content)
            self._cluster.archive.put_history(timeline, content)

    def _open(
        self, transport: Transport, identity: SystemIdentity, stack: ExitStack
    ) -> ReceivedWal:
        """Check whose WAL it is, on each connection; take the lock and open the archive once."""
        segment_size = client.wal_segment_size(transport)
        cluster = self._claim(identity.system_identifier, stack)
        cluster.bind(transport.server_version, segment_size)
        if self._wal is None:
            wal = ReceivedWal(
                cluster,
                self._root,
                segment_size,
                self._options.level,
                self._tell,
                may_run_ahead=not self._options.synchronous,
                moved=None if self._relay is None else self._relay.announce,
            )
            self._wal = stack.enter_context(wal)
            self._gaps = ServerGaps(
                self._connect, cluster, wal.directory, self._slot, self._tell,
                accepts=self._options.accept_gap,
            )  # fmt: skip
        if self._relay is not None:
            self._relay.begin(cluster)
        return self._wal

    def _claim(self, found: int, stack: ExitStack) -> ClusterRepository:
        """Make sure that it is the one cluster, and that nobody else receives its WAL."""
        if self._system is not None:
            expect_system(found, self._system)
        if self._cluster is None:
            cluster = self._repository.cluster(found)
            if self._repository.systems() and cluster.facts() is None:
                self._tell(f"system {found} is new in this repository")
            stack.enter_context(self._lock(cluster))
            self._system, self._cluster = found, cluster
        return self._cluster

    def _lock(self, cluster: ClusterRepository) -> Lock:
        deadline = time.monotonic() + self._options.wait
        name = layout.receiver_lock(cluster.system)
        while True:
            try:
                return cluster.storage.lock(name, {"command": "receive-wal"})
            except Locked:
                if time.monotonic() >= deadline or self._stop.wait(LOCK_INTERVAL):
                    raise

    @property
    def _slot_name(self) -> str | None:
        return None if self._slot is None else self._slot.name

    def _make_slot(self, transport: Transport) -> None:
        slot = self._slot_name
        if slot is None or not self._options.create_slot or self._is_proven:
            return
        client.create_slot(transport, slot, reserve_wal=True, if_not_exists=self._options.exists_ok)
