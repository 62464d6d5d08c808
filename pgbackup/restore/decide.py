"""From what the user wants to what is restored: the backup, the way on, and the settings.

Whatever cannot be reached is refused here. Writes nothing but notes of the WAL that it had to read,
and those only if it may.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pgbackup.errors import NotFound, UsageError, WalGap
from pgbackup.pg.lsn import Timeline
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.inventory import read_inventory
from pgbackup.repo.moments.indexing import bring_up_to_date
from pgbackup.repo.moments.walindex import WalIndex
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.choose import Choice, Chooser
from pgbackup.restore.recoverytarget import (
    CURRENT_TIMELINE,
    LATEST_TIMELINE,
    RecoveryTarget,
    TargetAction,
    TargetKind,
)
from pgbackup.restore.settings import Primary, Recovery
from pgbackup.restore.timelinepath import WalMap
from pgbackup.restore.walsearch import WalSearch
from pgbackup.stream.progress import Meter, SilentMeter


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said.

    label:           as typed; None leaves the backup to us.
    timeline:        None is what is usual for the target.
    action:          None is the server's own default.
    restore_command: the user's own, which may lead to any archive.
    own_command:     ours.
    """

    own_command: str
    label: str | None = None
    target: RecoveryTarget = RecoveryTarget()  # noqa: RUF009 - never changes
    timeline: str | Timeline | None = None
    action: TargetAction | None = None
    restore_command: str | None = None
    is_standby: bool = False
    primary: Primary | None = None
    keep_standby_signal: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A backup to restore, and what the server does then.

    choice: how recovery goes on beyond the backup, where we can know that.
    """

    record: BackupRecord
    recovery: Recovery
    choice: Choice | None = None


def restore_command(program: Sequence[str], repository: str) -> str:
    """A restore_command for this repository, with everything quoted for the shell.

    program: the words that start pgbackup, with its absolute path.
    """
    words = [*program, "wal-get", "--partial", "-B", repository]
    return " ".join([*(shlex.quote(word).replace("%", "%%") for word in words), "%f", "%p"])


def decide(
    cluster: ClusterRepository,
    wishes: Wishes,
    meter: Meter | None = None,
    *,
    may_write: bool = True,
) -> Decision:
    """Decide what is restored.

    meter:     told of the WAL that has to be read for that.
    may_write: keep notes of that WAL in the repository.

    Raises: UsageError, NotFound, WalGap if the target cannot be reached, CorruptData, StorageError.
    """
    wishes = _completed(wishes)
    recovery = Recovery(
        wishes.target,
        action=wishes.action or TargetAction.PAUSE,
        restore_command=_command(wishes),
        is_standby=wishes.is_standby,
        primary=wishes.primary,
        keep_standby_signal=wishes.keep_standby_signal,
    )
    recovery.check()
    if recovery.signal is None:
        return Decision(cluster.catalog.get(wishes.label or "latest"), recovery)
    if wishes.restore_command is not None:
        return _unchecked(cluster, wishes, recovery)
    choice = read_chooser(cluster, wishes, meter, may_write=may_write).choose()
    timeline = str(choice.route.timeline)
    if wishes.is_standby and not isinstance(wishes.timeline, Timeline):
        timeline = LATEST_TIMELINE  # that of its primary, whatever it will be
    return Decision(choice.route.record, replace(recovery, timeline=timeline), choice)


def _command(wishes: Wishes) -> str:
    return wishes.own_command if wishes.restore_command is None else wishes.restore_command


def _completed(wishes: Wishes) -> Wishes:
    """A timeline or a restore_command alone means the end of WAL. Raises: UsageError."""
    stays = wishes.target.kind is TargetKind.END_OF_BACKUP and not wishes.is_standby
    if stays and (wishes.timeline is not None or wishes.restore_command is not None):
        wishes = replace(wishes, target=RecoveryTarget(TargetKind.END_OF_WAL))
    if wishes.action is not None and not wishes.target.is_given:
        raise UsageError(
            "could not use --target-action: there is no target to stop at",
            hint="At the end of WAL a server leaves recovery by itself; give a target, or leave"
            " out --target-action.",
        )
    return wishes


def read_chooser(
    cluster: ClusterRepository,
    wishes: Wishes,
    meter: Meter | None = None,
    *,
    may_write: bool = True,
) -> Chooser:
    """What finds the way to a target, with everything that it has to know of the cluster.

    wishes: of which label, target and timeline count.

    Raises: NotFound, CorruptData, StorageError.
    """
    meter = meter or SilentMeter()
    label = None if wishes.label is None else cluster.catalog.get(wishes.label).label
    inventory = read_inventory(cluster)
    records = cluster.catalog.list()
    if not records:
        cluster.catalog.get("latest")  # says that there is none
        raise NotFound("could not find a backup that can be read")
    index = WalIndex({})
    if wishes.target.kind in (TargetKind.TIME, TargetKind.XID, TargetKind.NAME):
        # what is noted of the archive's segments, so that few have to be read
        index = bring_up_to_date(
            cluster,
            inventory.timelines,
            inventory.segment_size,
            meter.begin,
            meter.advance,
            is_stored=may_write,
        ).index
    wal = WalMap(records, inventory.histories, inventory.timelines, index)
    search = WalSearch(cluster.archive, cluster.system, index)
    goal = wishes.timeline
    if wishes.is_standby and goal is None:
        goal = LATEST_TIMELINE
    return Chooser(wal, wishes.target, search, label=label, goal=goal)


def _unchecked(cluster: ClusterRepository, wishes: Wishes, recovery: Recovery) -> Decision:
    """Go by the records alone: the user's own restore_command may have any WAL."""
    record = _record_before(cluster, wishes)
    timeline = wishes.timeline
    if timeline == CURRENT_TIMELINE:
        timeline = record.stop_timeline
    return Decision(record, replace(recovery, timeline=str(timeline or LATEST_TIMELINE)))


def _record_before(cluster: ClusterRepository, wishes: Wishes) -> BackupRecord:
    target = wishes.target
    if wishes.label is not None or target.kind not in (TargetKind.TIME, TargetKind.LSN):
        return cluster.catalog.get(wishes.label or "latest")
    for record in reversed(cluster.catalog.list()):
        if (target.lsn is not None and record.stop_lsn <= target.lsn) or (
            target.time is not None and record.stop_time <= target.time
        ):
            return record
    raise WalGap(
        f"could not reach {target}: no backup ends before it",
        hint="Type: oldest --target-immediate",
    )
