"""The newest backup that leads to the target, or a refusal with what is nearest."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbackup.errors import WalGap
from pgbackup.pg.history import HistoryEntry, TimelineHistory
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.walrecord import EventKind, TransactionEnd, WalEvent, from_datetime
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.coverage import TimelineWal, stretches_of
from pgbackup.repo.moments.walindex import WalIndex
from pgbackup.restore.choose import Choice, Chooser
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind, TargetWords, parse_timeline
from pgbackup.restore.timelinepath import Route, WalMap
from pgbackup.restore.walsearch import Passes, Seen, nothing_passes
from tests.repo.samples import MIB, record

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
STEP = 0x4000
"""Bytes of each record of the WAL made here."""


def backup(hour: int, timeline: int, start: int) -> BackupRecord:
    """A backup of a segment's length."""
    line, first = Timeline(timeline), Lsn(start)
    return record(
        f"20261122T{hour:02}0000F",
        timeline=line,
        stop_timeline=line,
        start_lsn=first,
        stop_lsn=first + 4 * STEP,
        server_version=180000,
        tail=None,
    )


class FakeWal:
    """WAL of which a record begins every STEP bytes: a commit, one second after the one before.

    names:       of restore points that are there instead, by position.
    checkpoints: positions of those that are there instead.
    lateness:    of the time that a checkpoint notes.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.checkpoints: set[int] = set()
        self.lateness = timedelta()

    def records(self, route: Route, start: Lsn, passes: Passes = nothing_passes) -> Iterator[Seen]:
        for segment in route.segments(start):
            first = max(segment.start, start + -start % STEP)
            for position in range(first, segment.end, STEP):
                yield self.seen(position)

    def last_record(self, route: Route) -> Lsn | None:
        return Lsn(route.end - STEP)

    def seen(self, position: int) -> Seen:
        lsn = Lsn(position)
        time = from_datetime(moment(position))
        if position in self.names:
            event = WalEvent(lsn, EventKind.RESTORE_POINT, time, self.names[position])
            return Seen(lsn, lsn + STEP, None, event)
        if position in self.checkpoints:
            late = from_datetime(moment(position) + self.lateness)
            event = WalEvent(lsn, EventKind.CHECKPOINT_ONLINE, late)
            return Seen(lsn, lsn + STEP, None, event)
        return Seen(lsn, lsn + STEP, TransactionEnd(lsn, time, xid(position), True), None)


def moment(position: int) -> datetime:
    return NOON + timedelta(seconds=position // STEP)


def xid(position: int) -> int:
    return 1000 + position // STEP


def wal(
    records: Sequence[BackupRecord],
    segments: dict[int, set[int]],
    forks: dict[int, list[tuple[int, int]]] | None = None,
) -> WalMap:
    """An archive.

    segments: numbers by timeline.
    forks:    the ancestors of each timeline, and where it left them.
    """
    histories = {
        Timeline(line): TimelineHistory(
            Timeline(line), tuple(HistoryEntry(Timeline(old), Lsn(at)) for old, at in entries)
        )
        for line, entries in (forks or {}).items()
    }
    timelines = [
        TimelineWal(
            Timeline(line),
            tuple(stretches_of(Timeline(line), numbers, MIB)),
            (),
            Timeline(line) in histories,
            0,
        )
        for line, numbers in segments.items()
    ]
    return WalMap(records, histories, timelines, WalIndex({}))


def choose(
    archive: WalMap, target: RecoveryTarget, fake: FakeWal | None = None, **how: str
) -> Choice:
    goal = parse_timeline(how["goal"]) if "goal" in how else None
    search = fake or FakeWal()
    return Chooser(archive, target, search, label=how.get("label"), goal=goal).choose()


FORK = 5 * MIB + 8 * STEP
ONE, TWO, THREE = backup(1, 1, 2 * MIB), backup(2, 1, 4 * MIB), backup(3, 2, 7 * MIB)
ARCHIVE = wal([ONE, TWO, THREE], {1: set(range(2, 9)), 2: set(range(5, 10))}, {2: [(1, FORK)]})


def at(position: int, *, exclusive: bool = False) -> RecoveryTarget:
    return RecoveryTarget(TargetKind.LSN, lsn=Lsn(position), is_inclusive=not exclusive)


@pytest.mark.parametrize(
    ("position", "goal", "expected", "timeline"),
    [
        (3 * MIB, "latest", ONE, 2),
        (TWO.stop_lsn - 1, "latest", ONE, 2),
        (TWO.stop_lsn, "latest", TWO, 2),
        (6 * MIB, "latest", TWO, 2),
        (8 * MIB, "latest", THREE, 2),
        (8 * MIB, "1", TWO, 1),
        (8 * MIB, "current", THREE, 2),
        (6 * MIB, "current", TWO, 1),
        (6 * MIB, "2", TWO, 2),
    ],
)
def test_the_newest_backup_that_leads_to_a_position_is_chosen(
    position: int, goal: str, expected: BackupRecord, timeline: int
) -> None:
    choice = choose(ARCHIVE, at(position), goal=goal)
    assert (choice.route.record.label, choice.route.timeline) == (expected.label, timeline)
    assert choice.stop is not None
    assert choice.stop.start >= position


def test_a_path_changes_timelines_where_they_parted() -> None:
    choice = choose(ARCHIVE, at(8 * MIB), label=ONE.label)
    spans = [(each.timeline, each.end) for each in choice.route.spans(choice.reached)]
    assert spans == [(1, FORK), (2, 8 * MIB + STEP)]
    names = [each.name for each in choice.route.segments(Lsn(4 * MIB), Lsn(6 * MIB))]
    assert names == ["000000010000000000000004", "000000020000000000000005"]


@pytest.mark.parametrize(
    ("target", "goal", "label", "reason", "hint"),
    [
        (at(MIB), "latest", None, "before the end of backup", f"{ONE.label} --target-immediate"),
        (at(3 * MIB), "latest", TWO.label, "before the end", f"{TWO.label} --target-immediate"),
        (at(20 * MIB), "latest", None, "ends with the record", "--target-latest"),
        (at(6 * MIB), "1", THREE.label, "left timeline 2 before", "--target-timeline 2"),
        (at(6 * MIB), "9", None, "no history", "--target-timeline 2"),
        (at(20 * MIB), "1", None, "ends with the record", "--target-latest --target-timeline 1"),
        (
            RecoveryTarget(TargetKind.XID, xid=xid(20 * MIB)),
            "latest",
            None,
            "it is not in the WAL",
            f"--target-xid {xid(10 * MIB - STEP)} --target-timeline latest",
        ),
        (
            RecoveryTarget(TargetKind.NAME, name="x"),
            "latest",
            None,
            "not in the WAL",
            "--target-latest",
        ),
        (TargetWords(time="2030-01-01Z").parse(), "latest", None, "ends with", "--target-latest"),
        (TargetWords(time="2020-01-01Z").parse(), "latest", None, "before", "--target-immediate"),
    ],
)
def test_what_cannot_be_reached_is_refused_with_an_option_that_can(
    target: RecoveryTarget, goal: str, label: str | None, reason: str, hint: str
) -> None:
    how = {"goal": goal} | ({} if label is None else {"label": label})
    with pytest.raises(WalGap, match=reason) as raised:
        choose(ARCHIVE, target, **how)
    assert hint in (raised.value.hint or "")


def test_nothing_is_recovered_over_a_gap() -> None:
    archive = wal([ONE], {1: {2, 3, 4, 6, 7}})
    for target in (at(6 * MIB), RecoveryTarget(TargetKind.END_OF_WAL)):
        with pytest.raises(WalGap, match="000000010000000000000005") as raised:
            choose(archive, target)
        found = re.search(r"--target-lsn (\S+)", raised.value.hint or "")
        assert found is not None
        assert choose(archive, at(Lsn.parse(found[1]))).stop is not None


def test_the_end_of_the_archive_needs_no_record_to_stop_at() -> None:
    choice = choose(ARCHIVE, RecoveryTarget(TargetKind.END_OF_WAL))
    assert (choice.route.record, choice.stop, choice.reached) == (THREE, None, 10 * MIB)


def test_a_backup_alone_is_on_its_own_timeline() -> None:
    choice = choose(ARCHIVE, RecoveryTarget(TargetKind.IMMEDIATE), label=TWO.label)
    assert (choice.route.timeline, choice.reached) == (1, TWO.stop_lsn)


def test_a_restore_point_before_the_newest_backup_is_found_from_an_older_one() -> None:
    fake = FakeWal()
    fake.names[3 * MIB] = "x"
    choice = choose(ARCHIVE, RecoveryTarget(TargetKind.NAME, name="x"), fake)
    assert choice.route.record == ONE
    assert choice.reached == 3 * MIB + STEP


def test_a_backup_whose_checkpoint_is_after_the_target_time_is_too_new() -> None:
    fake = FakeWal()
    fake.checkpoints = {TWO.start_lsn, THREE.start_lsn}
    time = moment(TWO.start_lsn) - timedelta(seconds=1)
    choice = choose(ARCHIVE, RecoveryTarget(TargetKind.TIME, time=time), fake)
    assert choice.route.record == ONE


def routes(goal: str) -> list[Route]:
    """Every way that a goal allows, the newest backup's first."""
    found = []
    for each in reversed(ARCHIVE.records):
        timeline = {"latest": 2, "current": each.stop_timeline}.get(goal) or int(goal)
        route = ARCHIVE.route(each, ARCHIVE.history(Timeline(timeline)))
        found += [] if route is None else [route]
    return found


def test_a_commit_proves_that_a_backup_is_old_enough_where_its_checkpoint_does_not() -> None:
    fake = FakeWal()
    fake.checkpoints = {TWO.start_lsn}
    fake.lateness = timedelta(seconds=3)
    target = RecoveryTarget(TargetKind.TIME, time=moment(TWO.stop_lsn))
    assert choose(ARCHIVE, target, fake).route.record == TWO


@settings(deadline=None)
@given(
    st.integers(2 * MIB // STEP, 11 * MIB // STEP),
    st.sampled_from(["time", "lsn", "xid"]),
    st.booleans(),
    st.sampled_from(["latest", "1", "2", "current"]),
)
def test_a_target_is_reached_exactly_from_the_newest_backup_before_it_or_refused(
    number: int, kind: str, exclusive: bool, goal: str
) -> None:
    position = number * STEP
    words = {
        "time": TargetWords(time=moment(position).isoformat(), inclusive=not exclusive),
        "lsn": TargetWords(lsn=str(Lsn(position)), inclusive=not exclusive),
        "xid": TargetWords(xid=str(xid(position)), inclusive=not exclusive),
    }[kind]
    reached = position if exclusive else position + STEP
    # Recovery to a time has to see the first record that is left out.
    last = reached if kind == "time" else position
    possible = [
        each
        for each in routes(goal)
        if each.consistent <= (position if kind == "lsn" else reached) and last < each.end
    ]
    if not possible:
        with pytest.raises(WalGap, match="could not reach"):
            choose(ARCHIVE, words.parse(), goal=goal)
        return
    choice = choose(ARCHIVE, words.parse(), goal=goal)
    assert (choice.route, choice.reached) == (possible[0], reached)
