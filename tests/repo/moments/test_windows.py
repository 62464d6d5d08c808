"""Which moments can be reached, from records, histories, names of segments and the index."""

from collections.abc import Mapping, Sequence

import pytest

from pgbackup.pg.history import HistoryEntry, TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.pg.walrecord import to_datetime
from pgbackup.repo.coverage import TimelineWal, stretches_of
from pgbackup.repo.moments.indexpieces import Piece
from pgbackup.repo.moments.walindex import SegmentNotes, TimelineIndex, WalIndex
from pgbackup.repo.moments.windows import EndsBy, Window, windows
from pgbackup.repo.record import BackupRecord, WalRange
from tests.repo.samples import MIB, record


def backup(first: int, last: int, *, timeline: int = 1, tail: str | None = None) -> BackupRecord:
    """Starts in segment `first`, stops inside `last`."""
    return record(
        f"20261122T12{first:04}F",
        timeline=Timeline(timeline),
        start_lsn=Lsn(first * MIB + 40),
        stop_timeline=Timeline(timeline),
        stop_lsn=Lsn(last * MIB + 1000),
        wal=(WalRange(timeline, name(timeline, first), name(timeline, last)),),
        histories=(),
        tail=tail,
    )


def name(timeline: int, number: int) -> str:
    return Segment(Timeline(timeline), number, MIB).name


def archived(numbers: Mapping[int, Sequence[int]]) -> list[TimelineWal]:
    return [
        TimelineWal(
            Timeline(timeline), tuple(stretches_of(Timeline(timeline), each, MIB)), (), True, 0
        )
        for timeline, each in numbers.items()
    ]


def histories(parents: Mapping[int, tuple[int, int]]) -> dict[Timeline, TimelineHistory]:
    """Of each timeline: its parent, and the position at which it left it."""
    found: dict[int, TimelineHistory] = {1: TimelineHistory(Timeline(1))}
    for timeline, (parent, switch) in parents.items():
        entry = HistoryEntry(Timeline(parent), Lsn(switch))
        found[timeline] = TimelineHistory(Timeline(timeline), (*found[parent].entries, entry))
    return {each.timeline: each for each in found.values() if each.timeline > 1}


def index(notes: Mapping[int, Sequence[SegmentNotes]]) -> WalIndex:
    return WalIndex(
        {
            Timeline(timeline): TimelineIndex(
                Timeline(timeline), MIB, Piece.of_notes(Timeline(timeline), each, []).rows
            )
            for timeline, each in notes.items()
        }
    )


def busy(number: int, *, low: int, high: int) -> SegmentNotes:
    """Two commits, at offsets 500 and 5000."""
    return SegmentNotes(number, 2, 2, low, 500, high, 5000, low, high, 7, 8, 6000)


def only(found: list[Window]) -> Window:
    (window,) = found
    return window


@pytest.mark.parametrize(
    ("numbers", "end", "ends_by", "missing"),
    [
        (range(2, 8), 8, EndsBy.ARCHIVE, None),
        ([2, 3, 4, 7, 8], 5, EndsBy.GAP, (5, 6)),
        ([3, 4, 5], 2, EndsBy.GAP, (2, 2)),
        ([], 2, EndsBy.ARCHIVE, None),
    ],
    ids=["whole", "hole", "without-first", "without-wal"],
)
def test_a_window_ends_where_wal_does(
    numbers: Sequence[int], end: int, ends_by: EndsBy, missing: tuple[int, int] | None
) -> None:
    window = only(windows([backup(2, 3)], {}, archived({1: numbers}), index({})))
    assert window.end == WalPosition(Timeline(1), Lsn(end * MIB))
    assert window.ends_by is ends_by
    assert window.is_reachable == (end > 3)
    hole = window.missing
    assert (hole and (hole.first.number, hole.last.number)) == missing


def test_there_is_a_window_for_each_timeline_that_passes_through_the_backup() -> None:
    known = histories({2: (1, 6 * MIB + 100), 3: (2, 9 * MIB + 100), 4: (1, 2 * MIB + 50)})
    wal = archived({1: range(2, 9), 2: range(6, 9), 3: range(9, 12), 4: range(2, 5)})
    found = windows([backup(2, 3), backup(7, 7, timeline=2)], known, wal, index({}))
    assert [(w.label[-5:-1], w.timeline, w.end.timeline, w.end.lsn // MIB) for w in found] == [
        ("0002", 1, 1, 9),
        ("0002", 2, 2, 9),
        ("0002", 3, 3, 12),
        ("0007", 2, 2, 9),
        ("0007", 3, 3, 12),
    ]
    assert [w.ends_by for w in found] == [
        EndsBy.ARCHIVE, EndsBy.FORK, EndsBy.ARCHIVE, EndsBy.FORK, EndsBy.ARCHIVE,
    ]  # fmt: skip
    assert [str(part) for part in found[2].way] == [
        f"{name(1, 2)} to {name(1, 5)}", f"{name(2, 6)} to {name(2, 8)}",
        f"{name(3, 9)} to {name(3, 11)}",
    ]  # fmt: skip


def test_a_gap_on_an_older_timeline_ends_the_windows_of_the_newer() -> None:
    known = histories({2: (1, 6 * MIB + 100)})
    wal = archived({1: [2, 3, 8], 2: range(6, 9)})
    first, second = windows([backup(2, 3)], known, wal, index({}))
    assert (first.ends_by, first.missing and first.missing.last.number) == (EndsBy.GAP, 7)
    assert (second.ends_by, second.missing and second.missing.last.number) == (EndsBy.GAP, 5)
    assert second.end == WalPosition(Timeline(1), Lsn(4 * MIB))


def test_times_are_those_that_recovery_would_stop_at() -> None:
    notes = [
        SegmentNotes(2),
        busy(3, low=10, high=50)._replace(first_offset=100, last_offset=900),
        SegmentNotes(4),
        busy(5, low=60, high=90),
        busy(6, low=70, high=80),
    ]
    found = windows([backup(2, 3)], {}, archived({1: range(2, 7)}), index({1: notes}))
    window = only(found)
    assert window.first_commit == (5 * MIB + 500, 60)
    assert window.last_commit == (6 * MIB + 5000, 80)
    assert window.after_time == to_datetime(50)
    assert window.before_time == to_datetime(90)
    assert window.last_record == 6 * MIB + 6000
    assert window.last_record in window
    assert Lsn(6 * MIB + 6001) not in window
    assert Lsn(3 * MIB + 999) not in window


def test_commits_behind_the_stop_position_in_its_segment_count() -> None:
    notes = [SegmentNotes(2), busy(3, low=10, high=50)]
    window = only(windows([backup(2, 3)], {}, archived({1: [2, 3]}), index({1: notes})))
    assert window.first_commit == window.last_commit == (3 * MIB + 5000, 50)


def test_without_a_commit_behind_it_a_backup_has_no_times() -> None:
    notes = [SegmentNotes(2), SegmentNotes(3)]
    window = only(windows([backup(2, 3)], {}, archived({1: [2, 3]}), index({1: notes})))
    assert (window.first_commit, window.last_commit, window.before_time) == (None, None, None)


def test_the_tail_of_a_backup_of_a_standby_makes_it_reachable() -> None:
    standby = backup(2, 3, tail=f"{name(1, 3)}.partial")
    window = only(windows([standby], {}, archived({1: [2]}), index({})))
    assert window.end.lsn == standby.stop_lsn
    assert window.is_reachable


def test_a_backup_of_a_timeline_without_history_file_has_its_own_window() -> None:
    found = windows([backup(2, 3, timeline=5)], {}, archived({5: range(2, 5)}), index({}))
    assert only(found).timeline == 5
