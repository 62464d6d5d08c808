"""From what a client asked for to the backup that it gets, and where its WAL ends.

A server that starts from what pg_basebackup makes replays the WAL that it finds in pg_wal, and
stays on the timeline of the backup. So WAL that ends at a position makes a clone as of there.
"""

from typing import NamedTuple

from pgbackup.errors import ClientError, NotFound, UsageError, WalGap
from pgbackup.pg.lsn import WalPosition
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.choose import Choice
from pgbackup.restore.decide import Wishes, read_chooser
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.serve.asked import INVALID_VALUE, LABEL, Asked

_HINT = 'See what can be reached with "pgbackup windows", and all backups with "pgbackup list".'


class ClonePoint(NamedTuple):
    """A backup. end: of all WAL that a client of it gets; None for no end."""

    label: str
    end: WalPosition | None


def find_clone_point(cluster: ClusterRepository, asked: Asked, default: str) -> ClonePoint:
    """Find what a client gets.

    default: label for one that names none; without a target, and only then.

    Raises: ClientError if there is no such thing, CorruptData, StorageError.
    """
    try:
        if asked.target is not None:
            return _before(cluster, asked.label, asked.target)
        label = default if asked.label is None else cluster.catalog.get(asked.label).label
        return ClonePoint(label, None)
    except (NotFound, UsageError) as error:
        if asked.label is None:
            raise ClientError(error.message, sqlstate=error.sqlstate, hint=_HINT) from error
        raise ClientError(
            f'backup "{asked.label}" does not exist',
            sqlstate="42704",
            hint=f'Set {LABEL} to a label that "pgbackup list" shows, to latest or to oldest.',
        ) from error
    except WalGap as error:
        raise ClientError(error.message, sqlstate=INVALID_VALUE, hint=_HINT) from error


def _before(cluster: ClusterRepository, label: str | None, target: RecoveryTarget) -> ClonePoint:
    wishes = Wishes("", label=label, target=target)
    chooser = read_chooser(cluster, wishes)
    is_position = target.kind is TargetKind.LSN
    choice = chooser.choose_position() if is_position else chooser.choose()
    record = choice.route.record
    if _is_beyond(choice, record):
        raise ClientError(
            f"could not reach {target}: it is on timeline {choice.route.timeline}, and the newest"
            f' backup before it, "{record.label}", is on timeline {record.stop_timeline}',
            sqlstate="55000",
            detail="A server that starts from a base backup stays on the timeline of that.",
            hint='Restore it with "pgbackup restore", which writes the settings of a recovery.',
        )
    return ClonePoint(record.label, WalPosition(record.stop_timeline, choice.reached))


def _is_beyond(choice: Choice, record: BackupRecord) -> bool:
    switch = choice.route.history.switch_from(record.stop_timeline)
    return switch is not None and choice.reached > switch
