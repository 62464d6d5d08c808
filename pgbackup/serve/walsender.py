"""START_REPLICATION: WAL to one client, and what the client says meanwhile.

WAL is read ahead by a thread of its own; this one waits for either, sends what is ready and takes
what came. It ends when the client ends the copy, at the end of a timeline that was left, or with
the server, which first sees everything acknowledged.

Source: walsender.c, StartReplication, WalSndLoop (PostgreSQL 18)
"""

import select
import threading
import time
from collections.abc import Sequence
from typing import Final

from pgbackup.errors import ClientError, ConnectionFailed
from pgbackup.pg.lsn import Lsn, WalPosition
from pgbackup.serve.cancellation import Cancellation
from pgbackup.serve.entry.connection import Connection
from pgbackup.serve.offer import Offer
from pgbackup.serve.slots import HeldSlot, Slots
from pgbackup.serve.standbys.clients import Attendance
from pgbackup.serve.wal.sentwal import SentWal
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.serve.wal.walstream import BUFFERS, WalPiece, WalStream
from pgbackup.storage.api import Bytes
from pgbackup.stream.buffers import release_all
from pgbackup.wire import backend, frontend, results
from pgbackup.wire.commands import StartPhysicalReplication
from pgbackup.wire.messages import (
    HotStandbyFeedback,
    StandbyStatus,
    keepalive,
    parse_standby_message,
    xlog_data_header,
)

TIMEOUT: Final = 60.0
"""Seconds without a word after which a client is given up; half of it asks for one."""

BATCH: Final = BUFFERS // 2
"""Pieces that are sent in one call; as many can be filled meanwhile."""

LOOK_INTERVAL: Final = 0.2  # seconds between two looks whether the server ends


class WalSender:
    """One START_REPLICATION.

    Always: nothing is sent twice, and nothing beyond what the source says is flushed.
    """

    def __init__(
        self,
        connection: Connection,
        offer: Offer,
        slots: Slots,
        attendance: Attendance,
        news: WalNews,
        cancellation: Cancellation,
        stopping: threading.Event,
    ) -> None:
        self._connection = connection
        self._offer = offer
        self._slots = slots
        self._attendance = attendance
        self._news = news
        self._cancellation = cancellation
        self._stopping = stopping
        self._poll = select.poll()
        self._slot: HeldSlot | None = None
        self._sent = Lsn(0)
        self._status = StandbyStatus(Lsn(0), Lsn(0), Lsn(0), 0, reply_requested=False)
        self._heard = self._asked = time.monotonic()
        self._has_asked = False
        self._is_done = False
        self._last: int | None = None

    def run(self, command: StartPhysicalReplication) -> bool:
        """Stream; return whether another command may come, False if the server ends.

        Raises: ClientError, ConnectionFailed, CorruptData, StorageError.
        """
        if command.slot is None:
            return self._run(command)
        with self._slots.acquire(command.slot) as self._slot:
            return self._run(command)

    def _run(self, command: StartPhysicalReplication) -> bool:
        source = self._offer.wal(command.timeline)
        self._timeline = source.timeline
        source.check_start(command.start)
        if source.is_over(command.start):
            self._end(source)
            return True
        self._connection.send(backend.copy_both_response())
        source.check_reached(command.start)
        self._sent, self._heard = command.start, time.monotonic()
        self._attendance.begin_stream(self._timeline, self._sent)
        with WalStream(source, command.start, self._news) as stream:
            self._poll.register(self._connection, select.POLLIN)
            self._poll.register(stream, select.POLLIN)
            ends_with_server = self._stream(stream)
        if ends_with_server:
            return False
        self._end(source)
        return True

    def _stream(self, stream: WalStream) -> bool:
        """Send and listen until the end; return whether it is the server's."""
        while True:
            self._listen()
            self._cancellation.check()
            if self._is_done:
                self._connection.send(backend.copy_done())
                return False
            pieces = stream.take(BATCH)
            if pieces:
                self._send(pieces, stream.source.flushed)
            elif stream.is_over:
                self._connection.send(backend.copy_done())
                self._await_copy_done()
                return False
            elif self._stopping.is_set() and self._may_end(stream):
                self._say_good_bye()
                return True
            else:
                if stream.has_all():
                    self._attendance.note_caught_up()
                self._watch_client()
                self._poll.poll(LOOK_INTERVAL * 1000)

    def _may_end(self, stream: WalStream) -> bool:
        """Tell whether all that is there has been sent, and nobody needs it for a base backup."""
        if self._last is None:
            self._last = self._news.announce()
        return stream.has_all(self._last) and not self._attendance.clients.take_backups

    def _send(self, pieces: Sequence[WalPiece], end: Lsn) -> None:
        parts: list[Bytes] = []
        for piece in pieces:
            header = xlog_data_header(piece.start, end)
            message = backend.copy_data_header(len(header) + len(piece.data))
            parts += (message + header, piece.data)
        try:
            self._connection.send(*parts)
            self._sent = Lsn(pieces[-1].start + len(pieces[-1].data))
            self._attendance.note_sent(self._sent, end)
        finally:
            release_all([piece.buffer for piece in pieces])

    def _listen(self, timeout: float = 0) -> None:
        """Take all that the client has said. Raises: ClientError, ConnectionFailed."""
        while (message := self._connection.message(timeout)) is not None:
            timeout = 0
            self._heard, self._has_asked = time.monotonic(), False
            if message.kind == frontend.COPY_DATA:
                self._take(message.body)
            elif message.kind == frontend.COPY_DONE:
                self._is_done = True
                return
            elif message.kind == frontend.TERMINATE:
                raise ConnectionFailed("the client ended the connection")
            else:
                error = ClientError(
                    f'invalid standby message type "{chr(message.kind)}"', sqlstate="08P01"
                )
                self._connection.send(backend.error_response(error, fatal=True))
                raise ConnectionFailed(error.message)

    def _take(self, payload: bytes) -> None:
        said = parse_standby_message(payload)
        if isinstance(said, HotStandbyFeedback):
            return
        self._status = said
        self._attendance.note_reply(said)
        if self._slot is not None and said.flush:
            self._slot.confirm(WalPosition(self._timeline, said.flush))
        if said.reply_requested:
            self._keepalive()

    def _keepalive(self, *, reply: bool = False) -> None:
        payload = keepalive(self._sent, reply=reply)
        self._connection.send(backend.copy_data_header(len(payload)), payload)
        if reply:
            self._has_asked, self._asked = True, time.monotonic()

    def _watch_client(self) -> None:
        """Ask a client that has been silent for long; it may have nothing to say until it is asked.

        Raises: ConnectionFailed if it has not answered.
        """
        now = time.monotonic()
        if not self._has_asked:
            if now - self._heard > TIMEOUT / 2:
                self._keepalive(reply=True)
        elif now - self._asked > TIMEOUT / 2:
            raise ConnectionFailed(f"the client said nothing for {now - self._heard:.0f} s")

    def _await_copy_done(self) -> None:
        while not self._is_done:
            self._cancellation.check()
            self._listen(LOOK_INTERVAL)
            self._watch_client()

    def _say_good_bye(self) -> None:
        """Have what was sent acknowledged, then end as a server that is shut down does."""
        self._attendance.begin_stopping()
        self._has_asked = False
        while not self._is_acknowledged and not self._is_done:
            self._cancellation.check()
            if not self._has_asked:
                self._keepalive(reply=True)
            self._listen(LOOK_INTERVAL)
        self._connection.send(backend.command_complete("COPY 0"))

    @property
    def _is_acknowledged(self) -> bool:
        """Source: walsender.c, WalSndDone (PostgreSQL 18)"""
        return (self._status.flush or self._status.write) == self._sent

    def _end(self, source: SentWal) -> None:
        """Say that it has ended; of a timeline that was left, where that goes on."""
        if source.next_timeline is not None and source.switch is not None:
            self._connection.send(results.next_timeline(source.next_timeline, source.switch))
        else:
            self._connection.send(backend.command_complete("START_STREAMING"))
        self._connection.send(backend.command_complete("START_REPLICATION"))
