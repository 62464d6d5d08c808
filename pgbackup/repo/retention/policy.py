"""Which backups a retention policy keeps, and why.

Pure. A full backup counts, and what was taken on top of it goes its way. A backup in which the
server found damaged pages takes up nobody's place: it never lets an older, sound one go.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from pgbackup.errors import UsageError
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import WalPosition
from pgbackup.repo.record import BackupRecord

MAX_COUNT = 36500  # days of a century; datetime knows little more

_TIER = r"([1-9][0-9]{0,4})([dwmy])"
_PERIODS: dict[str, tuple[str, Callable[[datetime], tuple[int, ...]]]] = {
    "d": ("day", lambda time: (time.year, time.month, time.day)),
    "w": ("week", lambda time: time.isocalendar()[:2]),
    "m": ("month", lambda time: (time.year, time.month)),
    "y": ("year", lambda time: (time.year,)),
}
"""What a unit of --keep is called, and which period of it a time belongs to."""


class Tier(NamedTuple):
    """The newest backup of each of the last periods that have one; unit: d, w, m or y."""

    periods: int
    unit: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep; a backup stays if any part keeps it. None is a part that was not given.

    pitr_days: reach every moment of so many days; then WAL before that serves no other part.
    """

    keep_full: int | None = None
    keep_days: int | None = None
    tiers: tuple[Tier, ...] = ()
    pitr_days: int | None = None

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing was said, which is not the wish to remove everything."""
        return self == Policy()


class Choice(NamedTuple):
    """A backup that stays.

    has_wal_after: the WAL after it stays as well.
    """

    reasons: tuple[str, ...]
    has_wal_after: bool


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """Read "7d,4w,12m,2y". Raises: UsageError."""
    tiers = []
    for word in text.split(","):
        match = re.fullmatch(_TIER, word.strip())
        if match is None:
            raise UsageError(
                f'could not use --keep "{text}": "{word}" is not a number and one of d, w, m, y',
                hint="Write it like 7d,4w,12m,2y: days, weeks, months and years.",
            )
        tiers.append(Tier(int(match[1]), match[2]))
    units = [tier.unit for tier in tiers]
    if len(set(units)) < len(units):
        raise UsageError(f'could not use --keep "{text}": a unit is there twice')
    return tuple(tiers)


def choose(
    policy: Policy,
    records: Sequence[BackupRecord],
    histories: Iterable[TimelineHistory],
    pinned: Mapping[str, str],
    now: datetime,
) -> dict[str, Choice]:
    """The backups that stay, by label.

    records:   oldest first.
    histories: of the timelines that had WAL since the beginning of what pitr_days wants.
    pinned:    the reason of each pin.
    """
    chosen = _Chosen()
    fulls = [record for record in records if record.kind == "full"]
    sound = [record for record in fulls if not record.checksum_failures.is_damaged]
    for newest in (fulls[-1:], sound[-1:]):
        chosen.add(newest, "the newest", has_wal_after=True)
    is_alone = policy.pitr_days is not None
    if policy.keep_full is not None:
        kept = [*fulls[-policy.keep_full :], *sound[-policy.keep_full :]]
        chosen.add(kept, f"one of {policy.keep_full} full", has_wal_after=not is_alone)
    if policy.keep_days is not None:
        kept = _since(fulls, now, policy.keep_days)
        chosen.add(kept, f"of the last {policy.keep_days} days", has_wal_after=not is_alone)
    for tier in policy.tiers:
        chosen.add(_of_periods(sound or fulls, tier), f"last of a {_PERIODS[tier.unit][0]}")
    if policy.pitr_days is not None:
        days = f"{policy.pitr_days} days"
        kept = _since(fulls, now, policy.pitr_days)
        chosen.add(kept, f"within the {days} of --pitr-days", has_wal_after=True)
        start = window_start(policy, now)
        for history in histories:
            base = _base(sound, history, start) or _base(fulls, history, start)
            chosen.add(base, f"where the {days} of --pitr-days begin", has_wal_after=True)
    for record in records:
        if record.label in pinned:
            reason = pinned[record.label]
            chosen.add([record], f"pinned: {reason}" if reason else "pinned")
    return chosen.with_chains(records)


def window_start(policy: Policy, now: datetime) -> datetime:
    """The first moment that has to stay reachable."""
    return now - timedelta(days=policy.pitr_days or 0)


class _Chosen:
    def __init__(self) -> None:
        self._reasons: dict[str, list[str]] = {}
        self._with_wal: set[str] = set()

    def add(
        self, records: Iterable[BackupRecord], reason: str, *, has_wal_after: bool = False
    ) -> None:
        for record in records:
            reasons = self._reasons.setdefault(record.label, [])
            if reason not in reasons:
                reasons.append(reason)
            if has_wal_after:
                self._with_wal.add(record.label)

    def with_chains(self, records: Sequence[BackupRecord]) -> dict[str, Choice]:
        """What is chosen, completed by the rest of each full backup and what is on top of it."""
        for chain in _chains(records):
            members = [record.label for record in chain]
            if any(label in self._reasons for label in members):
                chosen = {label for label in members if label in self._with_wal}
                head = chain[0].label
                for record in chain:
                    if record.label not in self._reasons:
                        self.add([record], f"goes with {head}", has_wal_after=bool(chosen))
            elif chain[0].kind != "full":
                self.add(chain, "the full backup below it is not known", has_wal_after=True)
        return {
            label: Choice(tuple(reasons), label in self._with_wal)
            for label, reasons in self._reasons.items()
        }


def _chains(records: Sequence[BackupRecord]) -> list[list[BackupRecord]]:
    """Each full backup with the incremental ones up to the next full one."""
    chains: list[list[BackupRecord]] = []
    for record in records:
        if record.kind == "full" or not chains:
            chains.append([])
        chains[-1].append(record)
    return chains


def _since(fulls: Sequence[BackupRecord], now: datetime, days: int) -> list[BackupRecord]:
    return [record for record in fulls if record.stop_time >= now - timedelta(days=days)]


def _of_periods(records: Sequence[BackupRecord], tier: Tier) -> list[BackupRecord]:
    """The newest backup of each of the newest periods."""
    _, period = _PERIODS[tier.unit]
    newest = {period(record.start_time): record for record in records}
    return [newest[key] for key in sorted(newest, reverse=True)[: tier.periods]]


def _base(
    records: Sequence[BackupRecord], history: TimelineHistory, start: datetime
) -> list[BackupRecord]:
    """The backup from which every moment of a timeline since `start` can be reached.

    It is the last one on the way that was finished by then, or the first of all.
    """
    on_the_way = [
        record
        for record in records
        if WalPosition(record.stop_timeline, record.stop_lsn) in history
        and WalPosition(record.timeline, record.start_lsn) in history
    ]
    if not on_the_way:
        return []
    early = [record for record in on_the_way if record.stop_time <= start]
    if early:
        return [max(early, key=lambda record: (record.stop_lsn, record.label))]
    return [min(on_the_way, key=lambda record: (record.start_lsn, record.label))]
