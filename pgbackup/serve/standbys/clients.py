"""Who is connected to our walsender, and what each of them does.

Written by the thread of each client, read by everybody: a status is a value that is replaced.

Source: walsender.c, InitWalSenderSlot, ProcessStandbyReplyMessage (PostgreSQL 18).
"""

import threading
from collections.abc import Callable
from typing import Self

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.replication.published import now
from pgbackup.serve.standbys.clientstatus import ClientState, ClientStatus
from pgbackup.serve.standbys.lagtracker import LagTracker
from pgbackup.wire.messages import EPOCH_DIFFERENCE, StandbyStatus


class Clients:
    """All clients, in places that they keep while they are here.

    acknowledged: called by a client's thread when what it has flushed or applied, or whether that
                  counts, is another.
    """

    def __init__(self) -> None:
        self.acknowledged: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._places: list[Attendance | None] = []

    def attend(self, status: ClientStatus) -> "Attendance":
        """A place for a client that was admitted; to be left with its with block."""
        with self._lock:
            if None not in self._places:
                self._places.append(None)
            place = self._places.index(None)
            attendance = self._places[place] = Attendance(self, place, status)
            return attendance

    @property
    def take_backups(self) -> bool:
        """Whether one has a base backup under way, or not yet left after one.

        pg_basebackup receives WAL over another connection until it has all of the backup.
        """
        with self._lock:
            return any(each is not None and each.takes_backup for each in self._places)

    def statuses(self) -> list[ClientStatus]:
        """All of them now."""
        with self._lock:
            return [each.status for each in self._places if each is not None]

    def note(self, place: int, before: ClientStatus, after: ClientStatus) -> None:
        """Take a new status of a client."""
        if self.acknowledged is not None and (
            before.flush_lsn != after.flush_lsn
            or before.replay_lsn != after.replay_lsn
            or before.is_streaming != after.is_streaming
        ):
            self.acknowledged()

    def leave(self, place: int) -> None:
        """Forget a client."""
        with self._lock:
            self._places[place] = None


class Attendance:
    """One client while it is connected, for its own thread to write.

    status:       for everybody to read.
    takes_backup: it has asked for a base backup.
    """

    def __init__(self, clients: Clients, place: int, status: ClientStatus) -> None:
        self.status = status
        self.takes_backup = False
        self.clients = clients
        self._place = place
        self._lags = _lag_trackers()
        self._had_all = False

    def begin_backup(self) -> None:
        self.takes_backup = True
        self._change(state=ClientState.BACKUP)

    def end_command(self) -> None:
        """Wait for the next command."""
        self._change(state=ClientState.STARTUP)

    def begin_stream(self, timeline: Timeline, start: Lsn) -> None:
        """What was acknowledged of another stream says nothing of this."""
        self._lags, self._had_all = _lag_trackers(), False
        self._change(
            state=ClientState.CATCHUP,
            timeline=timeline,
            sent_lsn=start,
            write_lsn=Lsn(0),
            flush_lsn=Lsn(0),
            replay_lsn=Lsn(0),
            write_lag=None,
            flush_lag=None,
            replay_lag=None,
        )

    def note_sent(self, sent: Lsn, flushed: Lsn) -> None:
        """flushed: where the timeline ends here."""
        moment = now()
        for each in self._lags:
            each.write(flushed, moment)
        self._change(sent_lsn=sent)

    def note_caught_up(self) -> None:
        """Everything that was there has been sent, for the first time or again."""
        if self.status.state is ClientState.CATCHUP:
            self._change(state=ClientState.STREAMING)

    def begin_stopping(self) -> None:
        self._change(state=ClientState.STOPPING)

    def note_reply(self, said: StandbyStatus) -> None:
        """Take a client's report; what it does not tell of has no lag."""
        moment = now()
        reached = (said.write, said.flush, said.apply)
        lags = [
            each.read(lsn, moment) if lsn else None
            for each, lsn in zip(self._lags, reached, strict=True)
        ]
        has_all = said.apply == self.status.sent_lsn
        is_idle, self._had_all = has_all and self._had_all, has_all
        known = (self.status.write_lag, self.status.flush_lag, self.status.replay_lag)
        shown = [
            new if new is not None or is_idle else old for new, old in zip(lags, known, strict=True)
        ]
        self._change(
            write_lsn=said.write,
            flush_lsn=said.flush,
            replay_lsn=said.apply,
            write_lag=shown[0],
            flush_lag=shown[1],
            replay_lag=shown[2],
            reply_time=said.send_time + EPOCH_DIFFERENCE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.clients.leave(self._place)

    def _change(self, **values: object) -> None:
        before = self.status
        self.status = before._replace(**values)  # type: ignore[arg-type]
        self.clients.note(self._place, before, self.status)


def _lag_trackers() -> list[LagTracker]:
    """Of what is written, flushed and replayed."""
    return [LagTracker() for _ in range(3)]
