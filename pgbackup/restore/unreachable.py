"""Why a target cannot be reached, and the option that leads to what is nearest to it.

Makes errors, and raises none of its own. Every option that a hint names was found to work: it names
a record that was seen, a backup that is there, or the end of the archive.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pgbackup.errors import WalGap
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.walrecord import to_datetime
from pgbackup.repo.catalog import BackupRecord
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.restore.stoppoint import XID_MASK, name_of
from pgbackup.restore.timelinepath import Route, WalMap
from pgbackup.restore.walsearch import Passes, Seen, nothing_passes


class Search(Protocol):
    """What a WalSearch can do."""

    def records(
        self, route: Route, start: Lsn, passes: Passes = nothing_passes
    ) -> Iterator[Seen]: ...

    def last_record(self, route: Route) -> Lsn | None: ...


class Unreachable:
    """Errors about one target.

    goal: the timeline that the user named, if one was named.
    """

    def __init__(
        self, wal: WalMap, target: RecoveryTarget, search: Search, goal: str | Timeline | None
    ) -> None:
        self._wal = wal
        self._target = target
        self._search = search
        self._timeline = "" if goal is None else f" --target-timeline {goal}"

    def too_early(self, route: Route) -> WalGap:
        """The target is before the end of a backup, and no older one leads there."""
        return WalGap(
            f"could not reach {self._target}: it is before the end of backup"
            f' "{route.record.label}", at {route.consistent}',
            hint=f"The earliest point is the end of that backup; type:"
            f" {self._at_backup(route.record)}",
        )

    def too_late(self, route: Route) -> WalGap:
        """No WAL of the archive goes as far as the target."""
        if route.missing is not None:
            return self.behind_gap(route)
        return WalGap(
            f"could not reach {self._target}: the WAL that leads on from backup"
            f' "{route.record.label}" on timeline {route.timeline} {self._ends(route)}',
            hint=f"Type --target-latest{self._timeline} to recover all of it.",
        )

    def behind_gap(self, route: Route) -> WalGap:
        """WAL is missing before the target."""
        last = self._search.last_record(route)
        if last is not None and last >= route.consistent:
            nearest = f"--target-lsn {last}{self._timeline}"
        else:
            nearest = self._at_backup(route.record)
        return WalGap(
            f"could not reach {self._target}: WAL segment"
            f' "{route.missing}" is not in the archive, and later WAL is',
            hint=f'Get it with "pgbackup wal fill", or recover up to there; type: {nearest}',
        )

    def never(self, routes: Sequence[Route]) -> WalGap:
        """No transaction, no restore point of this name ends on the way."""
        oldest = routes[-1]
        if oldest.missing is not None:
            return self.behind_gap(oldest)
        nearest = self._nearest_seen(oldest)
        return WalGap(
            f"could not reach {self._target}: it is not in the WAL from backup"
            f' "{oldest.record.label}" on, on the way to timeline {oldest.timeline}',
            hint=f"{nearest} --target-latest{self._timeline} recovers all WAL.".strip(),
        )

    def elsewhere(self, record: BackupRecord, history: TimelineHistory) -> WalGap:
        """The timeline does not come by the backup that the user wants."""
        return WalGap(
            f'could not go from backup "{record.label}" to timeline {history.timeline}: that left'
            f" timeline {record.stop_timeline} before the backup ends, or never was on it",
            hint=f"Type --target-timeline {record.stop_timeline} to stay on the backup's timeline,"
            " or leave out the label.",
        )

    def no_backup(self) -> WalGap:
        """No backup leads to the timeline."""
        newest = self._wal.records[-1] if self._wal.records else None
        hint = 'Take a backup with "pgbackup backup".'
        if newest is not None:
            hint = f"Type --target-timeline {newest.stop_timeline}, which the newest backup is of."
        return WalGap(f"could not reach {self._target}: no backup is on the way there", hint=hint)

    def _at_backup(self, record: BackupRecord) -> str:
        return f"{record.label} --target-immediate"

    def _ends(self, route: Route) -> str:
        if self._target.kind is not TargetKind.TIME:
            last = self._search.last_record(route)
            return f"ends at {route.end}" if last is None else f"ends with the record at {last}"
        time = None
        size = route.record.wal_segment_size
        for seen in self._search.records(route, Lsn(max(route.start, route.end - size))):
            if seen.transaction is not None:
                time = seen.transaction.time
        if time is None:
            return f"ends at {route.end}"
        return f"ends with a transaction of {to_datetime(time):%Y-%m-%d %H:%M:%S.%f} UTC"

    def _nearest_seen(self, route: Route) -> str:
        """A transaction or a restore point on a route that can be a target, as an option."""
        if self._target.kind is TargetKind.NAME:
            names = [
                name
                for seen in self._search.records(route, route.consistent)
                if (name := name_of(seen)) is not None
            ]
            if not names:
                return "There is no restore point there."
            return f'The last restore point is --target-name "{names[-1]}"{self._timeline};'
        wanted = (self._target.xid or 0) & XID_MASK
        xids = [
            seen.transaction.xid
            for seen in self._search.records(route, route.consistent)
            if seen.transaction is not None and seen.transaction.xid
        ]
        if not xids:
            return "No transaction ends there."
        nearest = min(xids, key=lambda xid: abs(xid - wanted))
        return f"The nearest transaction is --target-xid {nearest}{self._timeline};"
