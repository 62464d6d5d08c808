"""The receive loop of a physical WAL stream, and its feedback.

Started by whoever has a transport and a destination. It streams one timeline: writes what comes
to the destination, reports how far that is written and flushed, and answers at once when the
server asks. It ends when the caller's stop rule says so, at the end of the timeline, or with an
error. It knows no file: where WAL goes, and when it is durable, is the destination's business.

Always: flush <= write in every report, and flush is what the destination calls durable.

Source: walreceiver.c, receivelog.c (PostgreSQL 18).
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pgbackup.errors import ConnectionFailed, ProtocolViolation, ServerError, WalGap
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.client import UNDEFINED_FILE, expect_event, position
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyEnd,
    CopyKind,
    Event,
    Ready,
    ResultSet,
    Transport,
)
from pgbackup.wire.commands import StartPhysicalReplication
from pgbackup.wire.messages import XLogData, parse_stream_message, standby_status

STATUS_INTERVAL = 10.0
"""Seconds between reports; wal_receiver_status_interval's default."""

SILENCE_LIMIT = 60.0
"""Seconds of silence until the server counts as gone; default of wal_receiver_timeout."""

TICK = 0.2
"""Seconds between looks at the stop rule while nothing comes, and between answers without news."""

MAX_UNFLUSHED = 1 << 20
"""Bytes after which a stream that flushes when drained does so while more is coming."""


class WalDestination(Protocol):
    """Where received WAL goes.

    Always: flush_lsn <= write_lsn, and no byte before write_lsn is missing.
    """

    @property
    def write_lsn(self) -> Lsn:
        """Where the next byte is due."""

    @property
    def flush_lsn(self) -> Lsn:
        """Everything before this survives a crash."""

    def write(self, start: Lsn, data: memoryview) -> None:
        """Take bytes that begin at write_lsn; not kept after return."""

    def flush(self) -> None:
        """Make durable what can be made durable now."""


class Confirmed(NamedTuple):
    """Up to where WAL is flushed, and applied; 0 is not known."""

    flush: Lsn
    apply: Lsn


class Quorum(Protocol):
    """Others that have to have WAL too, before it is reported as flushed, and who may apply it."""

    def fileno(self) -> int:
        """A descriptor that can be read from when they may have more."""

    def limit(self, timeline: Timeline) -> Confirmed:
        """Up to where enough of them have a timeline. Quiets the descriptor."""


class WalStream:
    """One timeline's stream.

    should_stop: asked after each message and each TICK.
    flush_every: seconds after which written WAL is flushed and reported; 0 means whenever
                 nothing more is there to read, None leaves it to the destination and the server.
    stop_limit:  seconds of silence after which a server that was told to stop counts as gone.
    quorum:      reported as flushed is what the destination and the quorum both have; as applied
                 what the quorum has, and nothing without one: the destination applies nothing, so
                 commits that wait for remote_apply must not take it for a standby that does.
    """

    def __init__(
        self,
        transport: Transport,
        destination: WalDestination,
        should_stop: Callable[[], bool],
        *,
        slot: str | None = None,
        flush_every: float | None = None,
        stop_limit: float = SILENCE_LIMIT,
        quorum: Quorum | None = None,
    ) -> None:
        self._transport = transport
        self._destination = destination
        self._should_stop = should_stop
        self._slot = slot
        self._flush_every = flush_every
        self._stop_limit = stop_limit
        self._quorum = quorum
        self._wake = None if quorum is None else quorum.fileno()
        self._timeline = Timeline(1)
        self._reported = Confirmed(Lsn(0), Lsn(0))
        self._last_flush = 0.0
        self._last_report = 0.0
        self._last_heard = 0.0
        self._has_pinged = False
        self._is_asked = False
        self.server_end = Lsn(0)

    def run(self, start: WalPosition) -> WalPosition | None:
        """Stream from a segment's start.

        Returns: where the next timeline begins, when this one has ended; None when stopped.
        Raises: WalGap (the server no longer has this WAL), ConnectionFailed, ServerError.
        """
        self._timeline = start.timeline
        self._transport.send(StartPhysicalReplication(start.lsn, start.timeline, self._slot))
        try:
            event = expect_event(self._transport, SILENCE_LIMIT)
            if isinstance(event, ResultSet):
                return self._end_of_timeline(event)
            if event != CopyBegin(CopyKind.BOTH):
                raise ProtocolViolation("the server did not begin to stream WAL")
            return self._receive()
        except ServerError as error:
            if error.sqlstate == UNDEFINED_FILE:
                raise WalGap(
                    f"could not stream WAL from {start}: {error.message}",
                    hint="Take a new backup; keep WAL with a slot or wal_keep_size.",
                ) from error
            raise

    def _receive(self) -> WalPosition | None:
        self._last_heard = self._last_flush = time.monotonic()
        self._report()
        while not self._should_stop():
            event = self._transport.receive(self._patience(), self._wake)
            self._flush_if_due(is_drained=event is None)
            if event is None:
                self._watch_silence()
            elif isinstance(event, memoryview):
                self._take(event)
            elif isinstance(event, CopyDone):
                return self._follow()
            else:
                raise ConnectionFailed("the server ended its WAL stream, it is shutting down")
            if self._is_report_due():
                self._report()
        self._stop()
        return None

    def _patience(self) -> float:
        """Seconds to wait for the next event."""
        return 0.0 if self._flush_every == 0 and self._is_unflushed() else TICK

    def _is_unflushed(self) -> bool:
        return self._destination.flush_lsn < self._destination.write_lsn

    def _flush_if_due(self, *, is_drained: bool) -> None:
        if self._flush_every is None or not self._is_unflushed():
            return
        if self._flush_every == 0:
            unflushed = self._destination.write_lsn - self._destination.flush_lsn
            is_due = is_drained or unflushed >= MAX_UNFLUSHED
        else:
            is_due = time.monotonic() - self._last_flush >= self._flush_every
        if is_due:
            self._destination.flush()
            self._report()
            self._last_flush = time.monotonic()

    def _take(self, payload: memoryview) -> None:
        self._last_heard = time.monotonic()
        self._has_pinged = False
        message = parse_stream_message(payload)
        self.server_end = max(self.server_end, message.server_end)
        if isinstance(message, XLogData):
            if message.start != self._destination.write_lsn:
                raise ProtocolViolation(
                    f"the server sent WAL from {message.start}"
                    f" where {self._destination.write_lsn} was due"
                )
            self._destination.write(message.start, message.data)
        elif message.reply_requested:
            self._destination.flush()
            self._is_asked = True

    def _is_report_due(self) -> bool:
        """Tell whether to report: asked, for news of the quorum, or after a while.

        A server that shuts down asks again at once until all it has sent is flushed, and a quorum
        may be long in that: then it is told every TICK.
        """
        silence = time.monotonic() - self._last_report
        if self._quorum is None:
            return self._is_asked or silence >= STATUS_INTERVAL
        interval = TICK if self._is_asked else STATUS_INTERVAL
        return silence >= interval or self._confirmed() != self._reported

    def _report(self, *, reply: bool = False) -> None:
        confirmed = self._confirmed()
        status = standby_status(self._destination.write_lsn, *confirmed, reply=reply)
        self._transport.send(status)
        self._last_report, self._reported = time.monotonic(), confirmed
        self._is_asked = False

    def _confirmed(self) -> Confirmed:
        """What may be reported as flushed, and as applied."""
        flushed = self._destination.flush_lsn
        if self._quorum is None:
            return Confirmed(flushed, Lsn(0))
        limit = self._quorum.limit(self._timeline)
        return Confirmed(min(flushed, limit.flush), min(flushed, limit.apply))

    def _watch_silence(self) -> None:
        silence = time.monotonic() - self._last_heard
        if silence >= SILENCE_LIMIT:
            raise ConnectionFailed(f"the server has been silent for {silence:.0f} seconds")
        if silence >= SILENCE_LIMIT / 2 and not self._has_pinged:
            self._report(reply=True)
            self._has_pinged = True

    def _stop(self) -> None:
        self._destination.flush()
        self._report()
        self._transport.send(CopyEnd())
        while not isinstance(expect_event(self._transport, self._stop_limit), Ready):
            pass

    def _follow(self) -> WalPosition:
        self._transport.send(CopyEnd())
        event = expect_event(self._transport, SILENCE_LIMIT)
        if isinstance(event, CommandComplete | Ready):
            raise ConnectionFailed("the server ended its WAL stream, it is shutting down")
        return self._end_of_timeline(event)

    def _end_of_timeline(self, event: Event) -> WalPosition:
        if not isinstance(event, ResultSet) or not event.rows or len(event.columns) < 2:
            raise ProtocolViolation("the server ended a timeline without naming the next")
        timeline, lsn = event.rows[0][:2]
        following = position(lsn, timeline)
        while not isinstance(expect_event(self._transport, SILENCE_LIMIT), Ready):
            pass
        return following
