"""Retention against an oracle that simulates restores, and by single cases that people can follow.

PGBACKUP_RETENTION_CASES sets the number of random histories, PGBACKUP_RETENTION_SEED the first.
"""

import os
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pgbackup.errors import UsageError
from pgbackup.pg.history import HistoryEntry, TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalFileKind, WalPosition
from pgbackup.repo import layout
from pgbackup.repo.record import BackupRecord, ChecksumFailures, WalRange
from pgbackup.repo.retention.plan import Holdings, RetentionPlan, plan_retention
from pgbackup.repo.retention.policy import Policy, Tier, parse_tiers
from pgbackup.repo.retention.walfiles import sort_out
from pgbackup.storage.api import ObjectStat
from tests.repo.retention.retention_oracle import (
    DAY,
    Backup,
    Line,
    Wish,
    World,
    ancestry,
    kept_backups,
    needed_histories,
    needed_wal,
)
from tests.repo.samples import MIB, SYSTEM, record

CASES = int(os.environ.get("PGBACKUP_RETENTION_CASES", "300"))
SEED = int(os.environ.get("PGBACKUP_RETENTION_SEED", "0"))
BATCH = 100
START = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
FOLDER = layout.wal_folder(SYSTEM)


def random_world(chance: random.Random) -> World:
    """A cluster's life: WAL comes, backups are taken, standbys are promoted, old lines go on."""
    world = World(MIB, START, {1: Line(1, None, 0)}, [], [], [])
    ends = {1: chance.randrange(3) * MIB}
    for _ in range(chance.randrange(3, 25)):
        world.now += chance.choice([600.0, 7200.0, DAY / 2, DAY, 3 * DAY])
        line = chance.choice([max(world.lines), *world.lines])
        event = chance.random()
        if event < 0.45:
            advance(world, ends, line, chance)
        elif event < 0.85:
            take_backup(world, ends, line, chance)
        elif len(world.lines) < 6:
            promote(world, ends, line, chance)
    for number, line_ in world.lines.items():
        if chance.random() < 0.4:
            line_.partial, line_.partial_arrived = ends[number] // MIB, world.now
        line_.has_history = number == 1 or chance.random() < 0.95
    finish(world, ends, chance)
    return world


def advance(world: World, ends: dict[int, int], line: int, chance: random.Random) -> None:
    """Some WAL is written; whole segments arrive, now and then one is lost or late."""
    first = ends[line] // MIB
    ends[line] += chance.choice([MIB // 3, MIB, 3 * MIB, 5 * MIB])
    for number in range(first, ends[line] // MIB):
        if chance.random() < 0.97:
            late = DAY if chance.random() < 0.03 else 0
            world.lines[line].arrived[number] = world.now + late


def take_backup(world: World, ends: dict[int, int], line: int, chance: random.Random) -> None:
    began = world.now
    start = ends[line] + 40
    ends[line] = start
    advance(world, ends, line, chance)
    stop = ends[line]
    world.now += chance.choice([60.0, 3600.0])
    ends[line] = -(-stop // MIB) * MIB  # the stop of a backup ends its segment
    for number in range(start // MIB, ends[line] // MIB):
        world.lines[line].arrived.setdefault(number, world.now)
    label = layout.format_label("full", datetime.fromtimestamp(began, UTC))
    world.backups.append(
        Backup(label, line, start, stop, began, world.now, sound=chance.random() < 0.9)
    )


def promote(world: World, ends: dict[int, int], line: int, chance: random.Random) -> None:
    number = max(world.lines) + chance.choice([1, 1, 2])
    fork = max(8, ends[line] - chance.choice([0, 100, MIB, 4 * MIB]))
    world.lines[number] = Line(number, line, fork)
    ends[number] = fork


def finish(world: World, ends: dict[int, int], chance: random.Random) -> None:
    for each in world.backups:
        each.pinned = chance.random() < 0.08
        each.in_use = chance.random() < 0.08
        each.damaged = chance.random() < 0.03
    if chance.random() < 0.3:
        line = chance.choice(list(world.lines))
        world.slots.append((line, chance.randrange(ends[line] + 1)))
    if chance.random() < 0.15:
        world.now += 60
        world.running.append(float(int(world.now)))
        world.now += chance.choice([60.0, DAY])


def random_wish(chance: random.Random) -> Wish:
    def maybe(*values: int) -> int | None:
        return chance.choice(values) if chance.random() < 0.4 else None

    return Wish(maybe(1, 2, 5), maybe(1, 3, 10), maybe(1, 3, 7), maybe(1, 4), maybe(1, 3, 7, 100))


def policy_of(wish: Wish) -> Policy:
    tiers = [Tier(n, u) for n, u in ((wish.days, "d"), (wish.weeks, "w")) if n is not None]
    return Policy(wish.keep_full, wish.keep_days, tuple(tiers), wish.pitr_days)


def when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def record_of(backup: Backup) -> BackupRecord:
    line = Timeline(backup.line)
    first = Segment.containing(line, Lsn(backup.start), MIB)
    last = Segment.ending_at(line, Lsn(backup.stop), MIB)
    return record(
        backup.label,
        timeline=line,
        stop_timeline=line,
        start_lsn=Lsn(backup.start),
        stop_lsn=Lsn(backup.stop),
        start_time=when(backup.began),
        stop_time=when(backup.finished),
        wal=(WalRange(line, first.name, last.name),),
        histories=(),
        checksum_failures=ChecksumFailures(not backup.sound),
    )


def history_of(world: World, number: int) -> TimelineHistory:
    """As PostgreSQL's file would tell it."""
    _, *older = ancestry(world, number)
    entries = [
        HistoryEntry(Timeline(name), Lsn(end))
        for name, _, end in reversed(older)
        if end is not None
    ]
    return TimelineHistory(Timeline(number), tuple(entries))


def holdings_of(world: World) -> Holdings:
    stats = []
    for number, line in world.lines.items():
        for segment, arrived in line.arrived.items():
            name = Segment(Timeline(number), segment, MIB).name
            suffix = ".zst" if segment % 3 else ""
            stats.append(ObjectStat(f"{FOLDER}{name}{suffix}", 100, arrived))
        if line.partial is not None:
            name = Segment(Timeline(number), line.partial, MIB).name
            stats.append(ObjectStat(f"{FOLDER}{name}.partial", MIB, line.partial_arrived))
        if line.parent is not None and line.has_history:
            name = Timeline(number).history_name
            # A history that came yesterday does not make its timeline alive.
            stats.append(ObjectStat(f"{FOLDER}{name}", 50, 0.0))
    files, unknown = sort_out(sorted(stats), FOLDER, MIB)
    assert not unknown
    good = [each for each in world.backups if not each.damaged]
    return Holdings(
        MIB,
        [record_of(each) for each in good],
        files,
        histories={
            Timeline(n): history_of(world, n)
            for n, line in world.lines.items()
            if line.parent is not None and line.has_history
        },
        pinned={each.label: "" for each in good if each.pinned},
        in_use=frozenset(each.label for each in good if each.in_use),
        damaged=[each.label for each in world.backups if each.damaged],
        running=[layout.format_label("full", when(began)) for began in world.running],
        slots={
            f"s{number}": WalPosition(Timeline(line), Lsn(position))
            for number, (line, position) in enumerate(world.slots)
        },
    )


def going(plan: RetentionPlan, kinds: set[WalFileKind]) -> set[tuple[int, int]]:
    return {(f.timeline, f.number) for f in plan.going_files() if f.kind in kinds}


@pytest.mark.parametrize("batch", range(SEED, SEED + -(-CASES // BATCH)))
def test_exactly_what_no_restore_needs_goes(batch: int) -> None:
    went = 0
    for case in range(batch * BATCH, (batch + 1) * BATCH):
        chance = random.Random(case)
        world, wish = random_world(chance), random_wish(chance)
        there = holdings_of(world)
        plan = plan_retention(policy_of(wish), there, when(world.now))
        stays, with_wal = kept_backups(world, wish)
        told = {each.record.label for each in plan.backups if each.stays}
        assert told == stays, f"case {case}: {wish}"
        after = {e.record.label for e in plan.backups if e.stays and e.has_wal_after}
        assert after == with_wal, f"case {case}: {wish}"
        needed = needed_wal(world, stays, with_wal)
        files = {(f.timeline, f.number) for f in there.files if f.kind is not WalFileKind.HISTORY}
        gone = going(plan, {WalFileKind.SEGMENT, WalFileKind.PARTIAL})
        assert gone == files - needed, f"case {case}: {wish}"
        histories = {f.timeline for f in there.files if f.kind is WalFileKind.HISTORY}
        gone_histories = {timeline for timeline, _ in going(plan, {WalFileKind.HISTORY})}
        assert gone_histories == histories - needed_histories(world, stays, needed), f"case {case}"
        went += len(gone)
    assert went > BATCH


def daily(count: int) -> World:
    """A backup every noon, two segments a day, all on timeline 1."""
    world = World(MIB, START + count * DAY, {1: Line(1, None, 0)}, [], [], [])
    for number in range(count):
        began = START + number * DAY + DAY / 2
        label = layout.format_label("full", when(began))
        at = 2 * number * MIB
        world.backups.append(Backup(label, 1, at + 40, at + MIB // 2, began, began + 60))
        world.lines[1].arrived |= {2 * number: began + 60, 2 * number + 1: began + DAY / 2}
    return world


def kept_days(world: World, policy: Policy) -> list[int]:
    plan = plan_retention(policy, holdings_of(world), when(world.now))
    return [number for number, each in enumerate(plan.backups) if each.stays]


@pytest.mark.parametrize(
    ("policy", "days"),
    [
        (Policy(keep_full=2), [26, 27]),
        (Policy(keep_full=100), [*range(28)]),
        (Policy(keep_days=3), [25, 26, 27]),
        # Monday the 5th of January is day 0.
        (Policy(tiers=(Tier(2, "d"), Tier(3, "w"))), [13, 20, 26, 27]),
        (Policy(tiers=(Tier(12, "m"),)), [26, 27]),
        (Policy(tiers=(Tier(1, "y"),)), [27]),
        (Policy(pitr_days=3), [24, 25, 26, 27]),
        (Policy(pitr_days=1, keep_full=3), [25, 26, 27]),
    ],
    ids=["full", "more-than-there-are", "days", "sons", "months", "year", "pitr", "both"],
)
def test_a_policy_keeps_what_it_says(policy: Policy, days: list[int]) -> None:
    assert kept_days(daily(28), policy) == days


def test_damaged_pages_do_not_let_a_sound_backup_go() -> None:
    world = daily(28)
    for backup in world.backups[-3:]:
        backup.sound = False
    assert kept_days(world, Policy(keep_full=1)) == [24, 27]


def test_with_pitr_days_older_backups_stand_alone() -> None:
    world = daily(10)
    there = holdings_of(world)
    plan = plan_retention(Policy(keep_full=4, pitr_days=1), there, when(world.now))
    assert [each.has_wal_after for each in plan.backups if each.stays] == [False, False, True, True]
    kept = {f.number for each in plan.wal if each.stays for f in each.files}
    assert kept == {12, 14, 16, 17, 18, 19}


def test_a_backup_that_was_under_way_when_the_pitr_days_begin_is_no_base_of_them() -> None:
    world = daily(6)
    assert kept_days(world, Policy(pitr_days=2)) == [3, 4, 5]
    world.backups[3].finished = world.now - 2 * DAY + 1
    assert kept_days(world, Policy(pitr_days=2)) == [2, 3, 4, 5]


def test_without_any_backup_all_wal_stays() -> None:
    world = daily(3)
    there = replace(holdings_of(world), records=[])
    assert plan_retention(Policy(keep_full=1), there, when(world.now)).going_files() == []


def test_incremental_backups_go_with_the_full_one_below_them() -> None:
    world = daily(4)
    records = [record_of(each) for each in world.backups]
    records[1] = replace(records[1], kind="incremental")
    records[3] = replace(records[3], kind="incremental")
    there = replace(holdings_of(world), records=records)
    plan = plan_retention(Policy(keep_full=1), there, when(world.now))
    assert [each.stays for each in plan.backups] == [False, False, True, True]
    pinned = replace(there, pinned={records[1].label: ""})
    plan = plan_retention(Policy(keep_full=1), pinned, when(world.now))
    assert all(each.stays for each in plan.backups)


def test_tiers_are_read() -> None:
    assert parse_tiers("7d,4w,12m,2y") == (Tier(7, "d"), Tier(4, "w"), Tier(12, "m"), Tier(2, "y"))


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "7x", "7d,", "7d,3d", "-1d", "7d;4w", "1e9d"])
def test_what_is_no_tier_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="could not use --keep"):
        parse_tiers(text)
