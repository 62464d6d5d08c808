"""LookAhead: everything in order, no more than the limit ahead, and nothing lost."""

import threading
from collections.abc import Iterator

import pytest

from pgbackup.backup.lookahead import BATCH, LookAhead


class Numbers:
    """Counts, and notes how far it has come."""

    def __init__(self, end: int, fail_at: int | None = None) -> None:
        self.made = 0
        self._end = end
        self._fail_at = fail_at

    def __iter__(self) -> Iterator[int]:
        for number in range(self._end):
            if number == self._fail_at:
                raise OSError(5, "Input/output error")
            self.made = number + 1
            yield number


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 1000])
@pytest.mark.parametrize("limit", [1, 10, 100_000])
def test_everything_arrives_in_order(count: int, limit: int) -> None:
    with LookAhead(iter(Numbers(count)), lambda number: 1, limit) as ahead:
        assert list(ahead) == list(range(count))
    assert list(ahead.left()) == []


def test_it_is_no_more_than_the_limit_ahead() -> None:
    numbers = Numbers(100_000)
    with LookAhead(iter(numbers), lambda number: 1, 3 * BATCH) as ahead:
        for number in ahead:
            assert numbers.made <= number + 6 * BATCH
            if number == 2000:
                break


def test_an_error_comes_behind_all_that_was_made() -> None:
    seen = []
    numbers = iter(Numbers(1000, fail_at=300))
    with (
        pytest.raises(OSError, match="Input/output error"),
        LookAhead(numbers, lambda number: 1, 100) as ahead,
    ):
        seen.extend(ahead)
    assert seen == list(range(300))


def test_what_nobody_took_is_told() -> None:
    numbers = Numbers(1000)
    with LookAhead(iter(numbers), lambda number: 1, 100) as ahead:
        taken = [number for _, number in zip(range(10), ahead, strict=False)]
    assert sorted({*taken, *ahead.left()}) == list(range(numbers.made))
