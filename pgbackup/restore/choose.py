"""Which backup, and which way from there, leads to a target; or why none does, and what is nearest.

Decides from records, histories, the names of archived files, and records of WAL that it is shown.
Nothing is written, and a refusal comes before anything is copied: with an option that works.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.walrecord import EventKind, from_datetime
from pgbackup.repo.catalog import BackupRecord
from pgbackup.restore.recoverytarget import (
    CURRENT_TIMELINE,
    LATEST_TIMELINE,
    RecoveryTarget,
    TargetKind,
)
from pgbackup.restore.stoppoint import StopPoint, first_stop, passes
from pgbackup.restore.timelinepath import Route, WalMap
from pgbackup.restore.unreachable import Search, Unreachable
from pgbackup.restore.walsearch import Passes

_CHECKPOINT_DOUBT = timedelta(seconds=2)
"""A checkpoint notes its time in whole seconds, a moment before the backup's WAL begins."""


_CHECKPOINTS = (EventKind.CHECKPOINT_ONLINE, EventKind.CHECKPOINT_SHUTDOWN)


class Choice(NamedTuple):
    """A way to the target.

    stop:    the record at which recovery stops; None where it goes by no record.
    reached: up to where WAL is replayed; of what is unfinished at the end, its beginning.
    """

    route: Route
    stop: StopPoint | None
    reached: Lsn


class Chooser:
    """Finds the way to one target.

    label: of the backup that the user wants; None leaves that to us.
    goal:  the timeline: a number, "latest", "current", or None for what is usual.
    """

    def __init__(
        self,
        wal: WalMap,
        target: RecoveryTarget,
        search: Search,
        *,
        label: str | None = None,
        goal: str | Timeline | None = None,
    ) -> None:
        self._wal = wal
        self._target = target
        self._search = search
        self._label = label
        self._goal = goal
        self._unreachable = Unreachable(wal, target, search, goal)

    def choose(self) -> Choice:
        """Find the way. Raises: WalGap if there is none, CorruptData, StorageError."""
        routes = self._routes()
        kind = self._target.kind
        if kind in (TargetKind.IMMEDIATE, TargetKind.END_OF_BACKUP):
            return Choice(routes[0], None, routes[0].consistent)
        if kind is TargetKind.END_OF_WAL:
            if routes[0].missing is not None:
                raise self._unreachable.behind_gap(routes[0])
            return Choice(routes[0], None, routes[0].end)
        return self._choose_by_record(routes)

    def choose_position(self) -> Choice:
        """Find the way to everything before a position, whether a record begins there or not.

        Raises: WalGap if there is none, CorruptData, StorageError.
        """
        assert self._target.lsn is not None
        routes = self._routes()
        for route in routes:
            if not self._begins_too_late(route):
                end = route.end if route.unfinished is None else route.unfinished.end
                if self._target.lsn > end:
                    raise self._unreachable.too_late(route)
                return Choice(route, None, self._target.lsn)
        raise self._unreachable.too_early(routes[-1])

    def _choose_by_record(self, routes: Sequence[Route]) -> Choice:
        too_new = None
        for route in routes:
            if self._begins_too_late(route):
                too_new = route
                continue
            stop = self._find(route)
            if stop is None:
                if self._target.kind in (TargetKind.XID, TargetKind.NAME):
                    continue  # it may be before this backup
                raise self._unreachable.too_late(route)
            if stop.reached >= route.consistent:
                return Choice(route, stop, stop.reached)
            too_new = route
        if too_new is not None:
            raise self._unreachable.too_early(too_new)
        raise self._unreachable.never(routes)

    def _routes(self) -> list[Route]:
        """Newest backup first; at least one."""
        if self._label is not None:
            record = next(each for each in self._wal.records if each.label == self._label)
            history = self._history(record)
            route = self._wal.route(record, history)
            if route is None:
                raise self._unreachable.elsewhere(record, history)
            return [route]
        if self._goal == CURRENT_TIMELINE:
            records = list(reversed(self._wal.records))
            found = [self._wal.route(each, self._history(each)) for each in records]
            routes = [route for route in found if route is not None and route.window.is_reachable]
        else:
            routes = self._wal.routes(self._history(None))
        if not routes:
            raise self._unreachable.no_backup()
        return routes

    def _history(self, record: BackupRecord | None) -> TimelineHistory:
        if isinstance(self._goal, Timeline):
            return self._wal.history(self._goal)
        at_backup = self._target.kind in (TargetKind.IMMEDIATE, TargetKind.END_OF_BACKUP)
        if record is not None and (
            self._goal == CURRENT_TIMELINE or (self._goal is None and at_backup)
        ):
            return self._wal.history(record.stop_timeline)
        assert self._goal in (None, LATEST_TIMELINE)
        return self._wal.history(self._wal.newest_timeline)

    def _begins_too_late(self, route: Route) -> bool:
        """Tell that a target is before a backup, where no record behind its start says so."""
        if self._target.kind is TargetKind.LSN:
            assert self._target.lsn is not None
            return self._target.lsn < route.consistent
        return self._target.kind is TargetKind.TIME and not self._is_past_start(route)

    def _is_past_start(self, route: Route) -> bool:
        """Tell whether what was committed before the backup began is not after the target time.

        Times of commits ascend but for moments: one behind the start that is not after the target
        proves it, and so does the checkpoint that the backup began with.
        """
        assert self._target.time is not None
        limit = from_datetime(self._target.time)
        doubt = _CHECKPOINT_DOUBT // timedelta(microseconds=1)
        has_checkpoint = has_transaction = False
        for seen in self._search.records(route, route.start, _without_transactions(route)):
            if seen.transaction is not None and not has_transaction:
                if seen.transaction.time <= limit:
                    return True
                has_transaction = True
            if seen.event is not None and seen.event.kind in _CHECKPOINTS and not has_checkpoint:
                if seen.event.time + doubt <= limit:
                    return True
                has_checkpoint = True
            if has_transaction and has_checkpoint:
                break
        return False

    def _find(self, route: Route) -> StopPoint | None:
        target = self._target
        start = route.start
        if target.kind is TargetKind.LSN and target.lsn is not None:
            start = max(start, target.lsn)
        records = self._search.records(route, start, passes(target, self._wal.index))
        return first_stop(records, target)


def _without_transactions(route: Route) -> Passes:
    """Tells the segments behind a backup in which no transaction ends."""
    return lambda segment, notes: segment.start >= route.consistent and not notes.ends
