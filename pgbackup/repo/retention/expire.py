"""Carries a retention policy out.

Backups go oldest first, each by its record; then, when they are gone, WAL is judged anew by what
is left, and goes oldest first, its histories last. So a run that is killed leaves whole backups
with all that they need, and the next run goes on. One run at a time; a backup that is being read,
made or was just pinned stays, and so does all WAL once a new backup begins, or a new slot.

Never removes what it did not list, nor anything of another cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbackup.errors import CorruptData, Locked, NotFound, Refused, UsageError
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Timeline, WalFileKind, WalPosition
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.repo.retention.plan import Holdings, RetentionPlan, plan_retention, stored_size
from pgbackup.repo.retention.policy import Policy
from pgbackup.repo.retention.walfiles import ListedFile, sort_out
from pgbackup.repo.slots import held_positions

WAL_BATCH = 64
"""Files that go between two looks at whether a backup has begun."""


@dataclass(frozen=True, slots=True)
class ExpireOutcome:
    """What was done.

    plan:         what was decided before anything went.
    backups:      labels that are gone.
    files:        files of the WAL archive that are gone.
    size:         bytes freed.
    leftovers:    names of temporary files and unfinished backups of killed commands that are gone.
    notes:        what somebody should look at, the plan's own included.
    """

    plan: RetentionPlan
    backups: tuple[str, ...]
    files: tuple[ListedFile, ...]
    size: int
    leftovers: tuple[str, ...]
    notes: tuple[str, ...]


def check_policy(policy: Policy) -> None:
    """Raises: UsageError if nothing says what is to be kept."""
    if policy.is_empty:
        raise UsageError(
            "could not expire backups: nothing says which of them to keep",
            hint="Say it with --keep-full 7, --keep-days 30, --keep 7d,4w,12m or --pitr-days 7;"
            " with --dry-run nothing is removed.",
        )


def plan_expire(cluster: ClusterRepository, policy: Policy, now: datetime) -> RetentionPlan:
    """Say what would go; changes nothing.

    Raises: UsageError, NotFound, CorruptData, StorageError.
    """
    check_policy(policy)
    return plan_retention(policy, read_holdings(cluster), now)


def run_expire(cluster: ClusterRepository, policy: Policy, now: datetime) -> ExpireOutcome:
    """Remove what the policy does not keep.

    Raises: Locked if another run is under way; as plan_expire.
    """
    check_policy(policy)
    lock = layout.expire_lock(cluster.system)
    with cluster.storage.lock(lock, {"command": "expire"}):
        return _Expiry(cluster, policy, now).run()


def read_holdings(cluster: ClusterRepository, *, all_in_use: bool = False) -> Holdings:
    """Read what there is. Raises: NotFound, CorruptData, StorageError.

    all_in_use: judge WAL alone: no backup goes.
    """
    facts = cluster.facts()
    if facts is None:
        raise NotFound(f"could not expire backups of system {cluster.system}: there is nothing")
    catalog = cluster.catalog
    # The order matters: what is archived or begun later is not in the listing, or is looked at.
    folder = layout.wal_folder(cluster.system)
    files, unknown = sort_out(cluster.storage.list(folder), folder, facts.wal_segment_size)
    running = catalog.under_way()
    records, damaged = catalog.read_all()
    labels = [record.label for record in records]
    return Holdings(
        facts.wal_segment_size,
        records,
        files,
        [*unknown, *catalog.unknown()],
        _histories(cluster, files),
        {label: pin.reason for label, pin in catalog.pins().items()},
        frozenset(label for label in labels if all_in_use or catalog.is_in_use(label)),
        [each.label for each in damaged],
        running,
        held_positions(cluster),
    )


def _histories(
    cluster: ClusterRepository, files: Sequence[ListedFile]
) -> dict[Timeline, TimelineHistory]:
    """The histories that can be read; without the others, their timelines stay whole."""
    found = {}
    for file in files:
        if file.kind is WalFileKind.HISTORY and file.timeline not in found:
            try:
                data = cluster.archive.read(file.timeline.history_name)
                found[file.timeline] = TimelineHistory.parse(file.timeline, data)
            except CorruptData:
                continue
    return found


def _holds_more(now: Mapping[str, WalPosition], before: Mapping[str, WalPosition]) -> bool:
    """Tell whether a slot is new, or holds what it did not hold before."""
    return any(
        name not in before
        or position.lsn < before[name].lsn
        or position.timeline < before[name].timeline
        for name, position in now.items()
    )


class _Expiry:
    """One run."""

    def __init__(self, cluster: ClusterRepository, policy: Policy, now: datetime) -> None:
        self._cluster = cluster
        self._catalog = cluster.catalog
        self._policy = policy
        self._now = now
        self._notes: list[str] = []

    def run(self) -> ExpireOutcome:
        leftovers = [*self._cluster.storage.reap(layout.system_folder(self._cluster.system))]
        leftovers += [f"unfinished backup {each}" for each in self._catalog.clean_unfinished()]
        plan = plan_expire(self._cluster, self._policy, self._now)
        sizes = {record.label: stored_size(record) for record in plan.going_backups()}
        backups = [label for label in sizes if self._remove_backup(label)]
        files = self._remove_wal()
        return ExpireOutcome(
            plan,
            tuple(backups),
            tuple(files),
            sum(sizes[label] for label in backups) + sum(file.size for file in files),
            tuple(leftovers),
            (*plan.notes, *self._notes),
        )

    def _remove_backup(self, label: str) -> bool:
        try:
            self._catalog.remove(label)
        except (Locked, Refused, NotFound) as error:
            self._notes.append(error.message)
            return False
        return True

    def _remove_wal(self) -> list[ListedFile]:
        """Remove the WAL that what is there now does not need."""
        known = set(self._catalog.labels())
        there = read_holdings(self._cluster, all_in_use=True)
        plan = plan_retention(self._policy, there, self._now)
        for label in plan.left_alone():
            self._catalog.mark_alone(label)
        files = plan.going_files()
        for begin in range(0, len(files), WAL_BATCH):
            if not set(self._catalog.labels()) <= known:
                self._notes.append("a backup has begun, so the rest of the WAL stays this time")
                return files[:begin]
            if not set(there.running) <= set(self._catalog.under_way()):
                self._notes.append("a backup has ended, so the rest of the WAL stays this time")
                return files[:begin]
            if _holds_more(held_positions(self._cluster), there.slots):
                self._notes.append("a slot has begun, so the rest of the WAL stays this time")
                return files[:begin]
            batch = files[begin : begin + WAL_BATCH]
            self._cluster.storage.delete(*(file.name for file in batch))
        return files
