"""Timeline histories, among them those that PostgreSQL 15.18 wrote."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.history import HistoryEntry, TimelineHistory, WalSpan
from pgbackup.pg.lsn import MAX_LSN, MAX_TIMELINE, Lsn, Timeline, WalPosition

DATA = Path(__file__).parent / "data"
FILE = b"1\t0/5000\tno recovery target specified\n\n2\t0/9000\tbefore 2026-11-22\n\n9\t1/0\t\n"
HISTORY = TimelineHistory.parse(Timeline(0x10), FILE)


def at(timeline: int, lsn: int) -> WalPosition:
    return WalPosition(Timeline(timeline), Lsn(lsn))


def test_first_timeline_has_no_ancestors() -> None:
    history = TimelineHistory(Timeline(1))
    assert history == TimelineHistory.parse(Timeline(1), b"")
    assert history.timeline_of(Lsn(0)) == history.timeline_of(Lsn(MAX_LSN)) == 1
    assert history.switch_from(Timeline(1)) is None


def test_history_of_postgres_is_understood() -> None:
    history = TimelineHistory.parse(Timeline(3), (DATA / "00000003.history").read_bytes())
    assert history.entries == (
        HistoryEntry(Timeline(1), Lsn.parse("0/F239C8"), "no recovery target specified"),
        HistoryEntry(Timeline(2), Lsn.parse("0/F3D2A8"), "no recovery target specified"),
    )
    assert history.switch_from(Timeline(1)) == Lsn.parse("0/F239C8")
    assert history.switch_from(Timeline(3)) is None


def test_recovery_that_stopped_before_its_timeline_began_skips_that_timeline() -> None:
    # Timeline 4 came from recovery along timeline 2 to a point before 2 had left 1.
    history = TimelineHistory.parse(Timeline(4), (DATA / "00000004.history").read_bytes())
    early = Lsn.parse("0/F1C240")
    assert [(entry.timeline, entry.switch) for entry in history.entries] == [(1, early), (2, early)]
    assert history.timeline_of(Lsn(early - 1)) == 1
    assert history.timeline_of(early) == 4
    assert history.path(at(1, early - 16), at(4, early + 16)) == [
        WalSpan(Timeline(1), Lsn(early - 16), early),
        WalSpan(Timeline(4), early, early + 16),
    ]


def test_byte_at_a_switch_belongs_to_the_newer_timeline() -> None:
    for lsn, timeline in [
        (0, 1),
        (0x4FFF, 1),
        (0x5000, 2),
        (0x8FFF, 2),
        (0x9000, 9),
        (2**32 - 1, 9),
        (2**32, 0x10),
        (MAX_LSN, 0x10),
    ]:
        assert HISTORY.timeline_of(Lsn(lsn)) == timeline


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(FILE.replace(b"\n\n", b"\n"), id="no blank lines"),
        pytest.param(FILE[:-1], id="no newline at the end"),
        pytest.param(b"# comment\n  # another\n" + FILE, id="comments"),
        pytest.param(FILE.replace(b"\t", b"  "), id="blanks instead of tabs"),
        pytest.param(FILE.replace(b"\n", b"\r\n"), id="carriage returns"),
        pytest.param(FILE.replace(b"before", b"at \xff\x85\x0b"), id="odd bytes in the reason"),
    ],
)
def test_variants_that_the_server_reads_are_read(data: bytes) -> None:
    history = TimelineHistory.parse(Timeline(0x10), data)
    assert [entry[:2] for entry in history.entries] == [entry[:2] for entry in HISTORY.entries]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"oops", "line 1 is not a timeline and a position"),
        (b"1", "line 1 is not a timeline and a position"),
        (b"1\t", "line 1 is not a timeline and a position"),
        (b"1 5000", "line 1 is not a timeline and a position"),
        (b"-1\t0/5000\tx", "line 1 is not a timeline and a position"),
        (b"A\t0/5000\tx", "line 1 is not a timeline and a position"),
        (b"\n\n1\t0/123456789\tx", "line 3 is not a timeline and a position"),
        (bytes(64), "line 1 is not a timeline and a position"),
        (b"2\t0/5000\tx\n2\t0/6000\tx", "timelines do not ascend in line 2"),
        (b"2\t0/5000\tx\n1\t0/6000\tx", "timelines do not ascend in line 2"),
        (b"16\t0/5000\tx", "timeline 16 is not older"),
        (b"17\t0/5000\tx", "timeline 17 is not older"),
    ],
)
def test_damaged_history_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptData, match=f'"00000010.history": {reason}'):
        TimelineHistory.parse(Timeline(16), data)


@pytest.mark.parametrize("timeline", [b"0", b"4294967296", b"9999999999"])
def test_impossible_timeline_is_refused(timeline: bytes) -> None:
    with pytest.raises(CorruptData, match="could not use timeline"):
        TimelineHistory.parse(Timeline(MAX_TIMELINE), timeline + b"\t0/5000\tx")


def test_switch_from_a_foreign_timeline_is_refused() -> None:
    with pytest.raises(CorruptData, match="timeline 3 is not an ancestor"):
        HISTORY.switch_from(Timeline(3))


@pytest.mark.parametrize(
    ("position", "is_passed"),
    [
        (at(1, 0x5000), True),
        (at(2, 0x5000), True),
        (at(1, 0x5001), False),
        (at(2, 0x4FFF), False),
        (at(9, 0x9000), True),
        (at(0x10, 2**32 - 1), False),
        (at(0x10, MAX_LSN), True),
        (at(3, 0x5000), False),
        (at(0x11, MAX_LSN), False),
    ],
)
def test_history_passes_through_a_switch_on_both_timelines(
    position: WalPosition, is_passed: bool
) -> None:
    assert (position in HISTORY) is is_passed


@pytest.mark.parametrize(
    ("start", "stop", "spans"),
    [
        (at(1, 0x1000), at(1, 0x2000), [(1, 0x1000, 0x2000)]),
        (at(1, 0x1000), at(1, 0x5000), [(1, 0x1000, 0x5000)]),
        (at(1, 0x1000), at(2, 0x5000), [(1, 0x1000, 0x5000)]),
        (at(1, 0x1000), at(2, 0x5001), [(1, 0x1000, 0x5000), (2, 0x5000, 0x5001)]),
        (at(1, 0x5000), at(2, 0x6000), [(2, 0x5000, 0x6000)]),
        (at(2, 0x5000), at(2, 0x5000), []),
        (
            at(1, 0x1000),
            at(0x10, 2**32 + 5),
            [
                (1, 0x1000, 0x5000),
                (2, 0x5000, 0x9000),
                (9, 0x9000, 2**32),
                (0x10, 2**32, 2**32 + 5),
            ],
        ),
    ],
)
def test_path_names_the_wal_of_every_timeline_on_the_way(
    start: WalPosition, stop: WalPosition, spans: list[tuple[int, int, int]]
) -> None:
    assert HISTORY.path(start, stop) == spans


@pytest.mark.parametrize(
    ("start", "stop", "reason"),
    [
        (at(1, 0x5001), at(2, 0x6000), "does not lead through 0/5001 on timeline 1"),
        (at(1, 0x1000), at(3, 0x6000), "does not lead through 0/6000 on timeline 3"),
        (at(2, 0x6000), at(1, 0x1000), "0/6000 on timeline 2 is not before 0/1000 on timeline 1"),
        (at(1, 0x2000), at(1, 0x1000), "is not before"),
        (at(2, 0x5000), at(1, 0x5000), "is not before"),
    ],
)
def test_path_that_history_does_not_take_is_refused(
    start: WalPosition, stop: WalPosition, reason: str
) -> None:
    with pytest.raises(CorruptData, match=reason):
        HISTORY.path(start, stop)


def test_paths_of_random_histories_join_and_agree_with_the_timeline_of_each_byte() -> None:
    source = random.Random(11)
    for _ in range(200):
        timelines = sorted(source.sample(range(1, 60), source.randint(1, 8)))
        lines = "".join(f"{t}\t0/{source.randrange(1, 400):X}\tx\n" for t in timelines[:-1])
        history = TimelineHistory.parse(Timeline(timelines[-1]), lines.encode())
        low, high = sorted(source.sample(range(500), 2))
        path = history.path(
            WalPosition(history.timeline_of(Lsn(low)), Lsn(low)),
            WalPosition(history.timeline_of(Lsn(high)), Lsn(high)),
        )
        assert (path[0].start, path[-1].end) == (low, high)
        assert all(older.end == newer.start for older, newer in pairwise(path))
        for span in path:
            owners = {history.timeline_of(Lsn(lsn)) for lsn in range(span.start, span.end)}
            assert owners == {span.timeline}
