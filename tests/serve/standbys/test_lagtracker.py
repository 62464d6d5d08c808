"""Lags as a server's walsender computes them."""

from pgbackup.pg.lsn import Lsn
from pgbackup.serve.standbys.lagtracker import LagTracker


def tracker(*moments: tuple[int, int], limit: int = 100) -> LagTracker:
    made = LagTracker(limit)
    for lsn, time in moments:
        made.write(Lsn(lsn), time)
    return made


def test_the_lag_is_the_time_since_wal_ended_there() -> None:
    lag = tracker((100, 1_000), (200, 2_000), (300, 3_000))
    assert lag.read(Lsn(100), 5_000) == 4_000
    assert lag.read(Lsn(300), 5_000) == 2_000


def test_nothing_new_is_known_when_nothing_more_was_reached() -> None:
    lag = tracker((100, 1_000))
    assert lag.read(Lsn(100), 5_000) == 4_000
    assert lag.read(Lsn(100), 6_000) is None


def test_between_two_moments_time_is_interpolated() -> None:
    lag = tracker((100, 1_000), (200, 2_000))
    assert lag.read(Lsn(100), 5_000) == 4_000
    assert lag.read(Lsn(150), 5_000) == 3_500
    assert lag.read(Lsn(90), 5_000) is None


def test_after_a_rest_the_lag_counts_from_the_next_burst() -> None:
    lag = tracker((100, 1_000))
    lag.read(Lsn(100), 1_500)
    lag.write(Lsn(200), 9_000)
    assert lag.read(Lsn(150), 9_100) == 100


def test_a_clock_that_is_set_back_gives_no_lag() -> None:
    lag = tracker((100, 5_000), (200, 4_000), (300, 6_000))
    assert lag.read(Lsn(100), 4_500) is None
    assert lag.read(Lsn(150), 9_000) is None
    assert lag.read(Lsn(200), 4_500) == 500


def test_wal_that_does_not_grow_is_noted_once() -> None:
    lag = tracker((100, 1_000), (100, 2_000))
    assert lag.read(Lsn(100), 3_000) == 2_000


def test_too_many_moments_leave_the_oldest_exact() -> None:
    lag = tracker(*((number, 10 * number) for number in range(1, 1_001)), limit=10)
    assert lag.read(Lsn(9), 20_000) == 20_000 - 90
    assert lag.read(Lsn(504), 20_000) == 20_000 - round(90 + (10_000 - 90) * 495 / 991)
    assert lag.read(Lsn(1_000), 20_000) == 10_000
