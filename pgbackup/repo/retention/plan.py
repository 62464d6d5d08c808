"""What a retention policy lets go of, and why each thing stays or goes.

Pure: names, records, histories and the policy in, a plan out. Nothing goes that a backup that
stays needs, nor its timeline, a slot, a running backup, or a backup whose record cannot be read;
what has a name that nobody knows stays too. Arrival times of WAL are the storage's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Timeline, WalFileKind, WalPosition
from pgbackup.repo import layout
from pgbackup.repo.record import BackupRecord
from pgbackup.repo.retention.policy import Choice, Policy, choose, window_start
from pgbackup.repo.retention.walfiles import ListedFile
from pgbackup.repo.retention.walneeds import NeededRange, WalNeeds, named_histories

NOTHING_NEEDS_IT = "nothing needs it"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a cluster has in the repository, and who uses it.

    records:   oldest first.
    files:     of the WAL archive, sorted by name.
    unknown:   objects of other names, in the archive or between the backups.
    histories: of the history files that can be read.
    pinned:    labels and reasons.
    in_use:    labels of backups that are being read or removed.
    damaged:   labels of backups whose records cannot be read.
    running:   labels of backups that are being made.
    slots:     names, and positions from which WAL is held.
    """

    segment_size: int
    records: Sequence[BackupRecord]
    files: Sequence[ListedFile]
    unknown: Sequence[str] = ()
    histories: Mapping[Timeline, TimelineHistory] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    in_use: frozenset[str] = frozenset()
    damaged: Sequence[str] = ()
    running: Sequence[str] = ()
    slots: Mapping[str, WalPosition] = field(default_factory=dict)


class BackupFate(NamedTuple):
    """A backup that stays or goes.

    has_wal_after: it can be recovered along the WAL after it; else it is good for itself alone.
    """

    record: BackupRecord
    stays: bool
    has_wal_after: bool
    reasons: tuple[str, ...]


class WalFate(NamedTuple):
    """Consecutive files of the archive with one fate. size: bytes."""

    stays: bool
    reason: str
    files: tuple[ListedFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What stays and what goes.

    wal:   sorted by name, which is oldest first on every path; histories at the end.
    notes: what somebody should look at, a sentence each.
    """

    backups: tuple[BackupFate, ...]
    wal: tuple[WalFate, ...]
    notes: tuple[str, ...]

    def going_backups(self) -> list[BackupRecord]:
        """Oldest first."""
        return [each.record for each in self.backups if not each.stays]

    def going_files(self) -> list[ListedFile]:
        """In the order of removal: oldest first, histories last."""
        return [file for each in self.wal if not each.stays for file in each.files]

    def left_alone(self) -> list[str]:
        """Labels of backups that stay while WAL after them goes."""
        last: dict[Timeline, int] = {}
        for file in self.going_files():
            if file.kind is WalFileKind.SEGMENT:
                last[file.timeline] = max(file.number, last.get(file.timeline, 0))
        return [
            each.record.label
            for each in self.backups
            if each.stays
            and last.get(each.record.stop_timeline, 0) * each.record.wal_segment_size
            >= each.record.stop_lsn
        ]

    def going_size(self) -> int:
        """Bytes of all that goes."""
        backups = sum(stored_size(record) for record in self.going_backups())
        return backups + sum(each.size for each in self.wal if not each.stays)


def stored_size(record: BackupRecord) -> int:
    """Bytes of all objects of a backup but its record."""
    return record.stored_size + sum(each.size for each in record.objects)


def plan_retention(policy: Policy, there: Holdings, now: datetime) -> RetentionPlan:
    """Decide. now: with a time zone."""
    histories = _all_histories(there)
    since = window_start(policy, now).timestamp()
    active = _active(there, since)
    chosen = choose(
        policy,
        there.records,
        [history for timeline, history in histories.items() if timeline in active],
        there.pinned,
        now,
    )
    backups = [_backup_fate(record, chosen, there.in_use) for record in there.records]
    needs = _needs(there, histories, backups)
    wal = tuple(_wal_fates(there, needs, histories, backups))
    return RetentionPlan(tuple(backups), wal, tuple(_notes(there)))


def _all_histories(there: Holdings) -> dict[Timeline, TimelineHistory]:
    """A history for every timeline that anything is of."""
    timelines = {file.timeline for file in there.files} | set(there.histories)
    for record in there.records:
        timelines |= {record.timeline, record.stop_timeline}
    return {
        timeline: there.histories.get(timeline, TimelineHistory(timeline))
        for timeline in sorted(timelines)
    }


def _active(there: Holdings, since: float) -> set[Timeline]:
    """The timelines of which something came since a time, in seconds since 1970."""
    active = {file.timeline for file in there.files if file.modified >= since}
    for record in there.records:
        if record.stop_time.timestamp() >= since:
            active.add(record.stop_timeline)
    return active


def _backup_fate(
    record: BackupRecord, chosen: Mapping[str, Choice], in_use: frozenset[str]
) -> BackupFate:
    choice = chosen.get(record.label)
    if choice is not None:
        return BackupFate(record, True, choice.has_wal_after, choice.reasons)
    if record.label in in_use:
        return BackupFate(record, True, True, ("in use: it goes next time",))
    return BackupFate(record, False, False, ("the policy does not keep it",))


def _needs(
    there: Holdings,
    histories: Mapping[Timeline, TimelineHistory],
    backups: Iterable[BackupFate],
) -> WalNeeds:
    needs = WalNeeds(histories, there.segment_size)
    staying = [each for each in backups if each.stays]
    needs.add_after(each.record for each in staying if each.has_wal_after)
    for each in staying:
        needs.add_own(each.record)
    for name, position in there.slots.items():
        needs.add_slot(name, position)
    for timeline in histories:
        if timeline > 1 and timeline not in there.histories:
            needs.add_whole(timeline, "its history is missing")
        elif not staying:
            needs.add_whole(timeline, "there is no backup without it")
    for label in there.running:
        _add_since(needs, there.files, label, f"{label} is being made")
    for label in there.damaged:
        _add_since(needs, there.files, label, f"{label} may need it")
    return needs


def _add_since(needs: WalNeeds, files: Sequence[ListedFile], label: str, reason: str) -> None:
    """What had come last when a backup was begun, and all after it."""
    began = layout.label_time(label).replace(tzinfo=UTC).timestamp()
    segments = (file for file in files if file.kind is WalFileKind.SEGMENT)
    for timeline, group in groupby(segments, key=lambda file: file.timeline):
        before = None
        for file in group:
            if before is not None and file.modified >= began:
                break
            before = file
        if before is not None:
            needs.add_from(timeline, before.number, reason)


def _wal_fates(
    there: Holdings,
    needs: WalNeeds,
    histories: Mapping[Timeline, TimelineHistory],
    backups: Iterable[BackupFate],
) -> Iterator[WalFate]:
    segments = [file for file in there.files if file.kind is not WalFileKind.HISTORY]
    judged: list[tuple[Timeline, list[tuple[str | None, ListedFile]]]] = [
        (timeline, list(_judge(list(group), needs.ranges(timeline))))
        for timeline, group in groupby(segments, key=lambda file: file.timeline)
    ]
    kept = {timeline for timeline, files in judged if any(reason for reason, _ in files)}
    kept |= {position.timeline for position in there.slots.values()}
    for each in backups:
        if each.stays:
            kept |= {each.record.timeline, each.record.stop_timeline}
    for _, files in judged:
        for reason, run in groupby(files, key=lambda pair: pair[0]):
            yield _fate(reason, [file for _, file in run])
    named = set(named_histories(kept, histories))
    for file in there.files:
        if file.kind is WalFileKind.HISTORY:
            yield _fate(_history_reason(file.timeline, kept, named, there.histories), [file])


def _fate(reason: str | None, files: list[ListedFile]) -> WalFate:
    return WalFate(reason is not None, reason or NOTHING_NEEDS_IT, tuple(files))


def _judge(
    files: Sequence[ListedFile], ranges: Sequence[NeededRange]
) -> Iterator[tuple[str | None, ListedFile]]:
    """Each file of one timeline, with the reason why it stays; None if it goes.

    The unfinished segment that is the newest of its timeline is where a receiver goes on.
    """
    newest = max(file.number for file in files)
    left = iter(ranges)
    current = next(left, None)
    for file in files:
        while current is not None and current.end <= file.number:
            current = next(left, None)
        if current is not None and current.first <= file.number:
            yield current.reason, file
        elif file.kind is WalFileKind.PARTIAL and file.number == newest:
            yield "a receiver goes on with it", file
        else:
            yield None, file


def _history_reason(
    timeline: Timeline,
    kept: set[Timeline],
    named: set[Timeline],
    readable: Mapping[Timeline, TimelineHistory],
) -> str | None:
    """Why a history file stays, or None.

    A server looks for its newest timeline by trying one number after the other until a file is
    missing, so that none may be missing above the oldest timeline that anything is kept of.
    Source: timeline.c, findNewestTimeLine (PostgreSQL 18)
    """
    if timeline not in readable:
        return "it cannot be read"
    if timeline in named:
        return "what is kept names it"
    if not kept or timeline > min(kept):
        return "servers look for timelines one after the other"
    return None


def _notes(there: Holdings) -> Iterator[str]:
    for label in there.damaged:
        yield (
            f"backup {label}: its record cannot be read, so it stays, with all WAL since then;"
            f' look at it with "pgbackup verify {label}"'
        )
    for name in there.unknown:
        yield f'object "{name}": nobody knows what it is, so it stays'
    with_file = {file.timeline for file in there.files if file.kind is WalFileKind.HISTORY}
    for timeline in sorted({file.timeline for file in there.files}):
        if timeline > 1 and timeline not in there.histories:
            state = "cannot be read" if timeline in with_file else "is missing"
            yield f"timeline {timeline}: its history {state}, so all of its WAL stays"
