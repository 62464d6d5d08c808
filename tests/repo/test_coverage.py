"""What is missing follows from names, histories and backups alone."""

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.history import HistoryEntry, TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalFileName, WalPosition
from pgbackup.repo.archive import ArchivedFile
from pgbackup.repo.coverage import Gaps, Need, Stretch, TimelineWal, by_timeline, find_gaps

MIB = 1 << 20
Parents = dict[int, list[tuple[int, int]]]


def files(names: list[str]) -> list[ArchivedFile]:
    return [ArchivedFile(WalFileName.parse(name), name, False, 100) for name in names]


def segments(timeline: int, numbers: list[int], size: int = MIB) -> list[str]:
    return [Segment(Timeline(timeline), number, size).name for number in numbers]


def position(timeline: int, lsn: int) -> WalPosition:
    return WalPosition(Timeline(timeline), Lsn(lsn))


def gaps(
    names: list[str],
    parents: Parents | None = None,
    needs: list[Need] | None = None,
    size: int = MIB,
) -> Gaps:
    """parents: of each timeline with a history, its ancestors and where they were left."""
    histories = {
        Timeline(timeline): TimelineHistory(
            Timeline(timeline),
            tuple(HistoryEntry(Timeline(parent), Lsn(switch)) for parent, switch in entries),
        )
        for timeline, entries in (parents or {}).items()
    }
    return find_gaps(by_timeline(files(names), size), histories, needs or [], size)


def holes(found: Gaps) -> list[str]:
    return [f"{each.timeline}:{each.first.number}-{each.last.number}" for each in found.holes]


@pytest.mark.parametrize("size", [MIB, 16 * MIB, 1024 * MIB], ids=["1MB", "16MB", "1GB"])
def test_holes_are_found_at_any_segment_size(size: int) -> None:
    # The names of segments of different sizes count differently from one to the next.
    last = (1 << 32) // size + 2
    there = [number for number in range(last - 6, last + 1) if number not in (last - 4, last - 2)]
    expected = [f"1:{last - 4}-{last - 4}", f"1:{last - 2}-{last - 2}"]
    assert holes(gaps(segments(1, there, size), size=size)) == expected


@pytest.mark.parametrize(
    ("there", "need", "expected"),
    [
        ([5, 6, 9], None, ["1:7-8"]),
        ([5, 6, 7], None, []),
        ([], None, []),
        ([5, 6, 9], (6, 7), ["1:7-8"]),
        ([5, 6, 9], (3, 5), ["1:3-4", "1:7-8"]),
        ([5, 6, 9], (9, 10), []),
        ([5, 6], (5, 9), ["1:7-8"]),
        ([], (5, 7), ["1:5-6"]),
        ([2, 4, 5, 6], (5, 7), []),
    ],
    ids=[
        "hole",
        "none",
        "empty",
        "backup-before",
        "start-of-backup-missing",
        "backup-behind-the-hole",
        "end-of-backup-missing",
        "backup-and-nothing",
        "hole-before-the-backup",
    ],
)
def test_the_first_needed_is_the_oldest_backups(
    there: list[int], need: tuple[int, int] | None, expected: list[str]
) -> None:
    needs = [] if need is None else [Need(position(1, need[0] * MIB), position(1, need[1] * MIB))]
    assert holes(gaps(segments(1, there), needs=needs)) == expected


def test_a_backup_may_start_in_the_middle_of_a_segment() -> None:
    need = Need(position(1, 5 * MIB + 40), position(1, 6 * MIB))
    assert holes(gaps(segments(1, [6]), needs=[need])) == ["1:5-5"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([3, 4], [5, 6], []),
        ([3], [5, 6], ["1:4-4"]),
        ([3, 4, 5], [6], ["2:5-5"]),
        ([3, 4, 5], [], []),
        ([3, 4, 7], [5], ["1:5-6"]),
        ([3], [], ["1:4-4"]),
    ],
    ids=[
        "complete",
        "end-of-the-old",
        "beginning-of-the-new",
        "nothing-of-the-new",
        "the-old-went-on",
        "old-to-the-switch",
    ],
)
def test_histories_lead_from_one_timeline_to_the_next(
    old: list[int], new: list[int], expected: list[str]
) -> None:
    """Timeline 2 leaves timeline 1 in the middle of segment 5."""
    names = [*segments(1, old), *segments(2, new), "00000002.history"]
    assert holes(gaps(names, {2: [(1, 5 * MIB + 96)]})) == expected


def test_a_switch_between_two_segments_needs_nothing_twice() -> None:
    names = [*segments(1, [3, 4]), *segments(2, [5]), "00000002.history"]
    assert holes(gaps(names, {2: [(1, 5 * MIB)]})) == []


def test_branches_are_followed_each_by_itself() -> None:
    names = [
        *segments(1, [1, 2, 3]),
        *segments(2, [4, 6]),
        *segments(3, [7]),
        "00000002.history",
        "00000003.history",
    ]
    parents: Parents = {2: [(1, 4 * MIB + 8)], 3: [(1, 5 * MIB + 8)]}
    assert holes(gaps(names, parents)) == ["1:4-4", "2:5-5", "3:5-6"]


def test_a_timeline_of_less_than_a_segment_needs_no_segment() -> None:
    names = [*segments(1, [4]), *segments(3, [5, 6]), "00000002.history", "00000003.history"]
    parents: Parents = {2: [(1, 5 * MIB + 8)], 3: [(1, 5 * MIB + 8), (2, 5 * MIB + 800)]}
    assert holes(gaps(names, parents)) == []


def test_a_branch_that_no_backup_leads_to_needs_nothing() -> None:
    names = [*segments(1, [1, 9]), *segments(2, [5, 7]), "00000002.history"]
    need = Need(position(2, 7 * MIB), position(2, 8 * MIB))
    assert holes(gaps(names, {2: [(1, 5 * MIB + 8)]}, [need])) == []


def test_a_backup_on_the_old_timeline_needs_the_way_to_the_new_one() -> None:
    names = [*segments(2, [5, 6]), "00000002.history"]
    need = Need(position(1, 2 * MIB + 40), position(1, 3 * MIB))
    assert holes(gaps(names, {2: [(1, 5 * MIB + 8)]}, [need])) == ["1:2-4"]


def test_an_unfinished_segment_is_no_hole_but_what_is_before_it_is() -> None:
    there = segments(1, [5, 6])
    assert holes(gaps([*there, segments(1, [7])[0] + ".partial"])) == []
    assert holes(gaps([*there, segments(1, [9])[0] + ".partial"])) == ["1:7-8"]
    assert holes(gaps([*there, *segments(1, [8]), segments(1, [7])[0] + ".partial"])) == ["1:7-7"]


def test_a_timeline_without_its_history_is_told() -> None:
    found = gaps([*segments(1, [1, 2]), *segments(2, [4, 6])])
    assert found.histories == (2,)
    assert holes(found) == ["2:5-5"]


def test_a_huge_hole_costs_nothing() -> None:
    last = (1 << 44) - 2
    (hole,) = gaps(segments(1, [1, last])).holes
    assert (hole.first.number, hole.last.number, hole.segment_count) == (2, last - 1, last - 2)


def test_files_are_sorted_by_timeline() -> None:
    names = [*segments(1, [1, 2, 5]), segments(1, [6])[0] + ".partial", *segments(2, [6])]
    names += ["00000002.history", segments(1, [2])[0] + ".00000028.backup"]
    one, two = by_timeline(files(names), MIB)
    assert (one.timeline, one.segment_count, one.stored_size, one.has_history) == (1, 3, 500, False)
    assert [str(each) for each in one.stretches] == [
        "000000010000000000000001 to 000000010000000000000002",
        "000000010000000000000005",
    ]
    assert [str(each) for each in one.holes] == [
        "000000010000000000000003 to 000000010000000000000004"
    ]
    assert [each.number for each in one.partial] == [6]
    assert one.whole is not None
    assert (one.whole.start, one.whole.end) == (MIB, 6 * MIB)
    segment = Segment(Timeline(2), 6, MIB)
    assert two == TimelineWal(Timeline(2), ((segment, segment),), (), True, 200)  # type: ignore[arg-type]


def test_a_segment_in_both_forms_counts_once() -> None:
    name = WalFileName.parse(segments(1, [1])[0])
    found = by_timeline([ArchivedFile(name, "a", False, 9), ArchivedFile(name, "b", True, 3)], MIB)
    assert [(each.segment_count, each.stored_size) for each in found] == [(1, 12)]


def test_a_name_that_no_segment_of_this_size_has_is_damage() -> None:
    with pytest.raises(CorruptData, match="no segment of 16777216 bytes has this name"):
        by_timeline(files(["000000010000000000000100"]), 16 * MIB)


def test_what_is_known_to_be_missing_counts_with_nothing_behind_it() -> None:
    def known(first: int, last: int) -> Stretch:
        return Stretch(Segment(Timeline(1), first, MIB), Segment(Timeline(1), last, MIB))

    there = by_timeline(files(segments(1, [3, 4, 6])), MIB)

    def found(*stretches: Stretch) -> list[str]:
        return holes(find_gaps(there, {}, [], MIB, stretches))

    assert found(known(7, 9)) == ["1:5-5", "1:7-9"]
    assert found(known(5, 6)) == ["1:5-5"]
    there = by_timeline(files([*segments(1, [3, 4, 6]), segments(1, [8])[0] + ".partial"]), MIB)
    assert found(known(7, 8)) == ["1:5-5", "1:7-7"], "the last one is being received"
    there = by_timeline(files(segments(1, [3, 4, 6])), MIB)
    assert found(known(1, 2)) == ["1:5-5"], "what is older than anything is not needed"
