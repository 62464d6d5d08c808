"""When a backup is due."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgbackup.care.schedule import parse_schedule, parse_span
from pgbackup.errors import UsageError

SUNDAY = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5min", 300), ("36h", 129600), ("1d", 86400), ("2w", 1209600)],
)
def test_spans_have_units(text: str, seconds: int) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "d", "0d", "1m", "-1d", "1.5d", "1d2h", "9" * 10 + "s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a span of time"):
        parse_span(text)


@pytest.mark.parametrize(
    ("every", "hours", "due"),
    [
        ("1d", 25, True),
        ("1d", 24, True),
        ("1d", 23.9, True),
        ("1d", 23.5, False),
        ("1d", 0, False),
        ("6h", 5.9, True),
        ("6h", 5.7, False),
        ("10s", 8 / 3600, False),
        ("10s", 9 / 3600, True),
    ],
)
def test_a_span_is_counted_from_the_beginning_of_the_last(
    every: str, hours: float, due: bool
) -> None:
    assert parse_schedule(every).is_due(SUNDAY - timedelta(hours=hours), SUNDAY) is due


@pytest.mark.parametrize(
    ("every", "last", "due"),
    [
        ("sunday", SUNDAY - timedelta(hours=11), False),
        ("Sun", SUNDAY - timedelta(hours=13), True),
        ("sunday", SUNDAY - timedelta(days=7), True),
        ("saturday", SUNDAY - timedelta(hours=35), False),
        ("saturday", SUNDAY - timedelta(hours=37), True),
        ("monday", SUNDAY - timedelta(days=6), False),
        ("monday", SUNDAY - timedelta(days=7), True),
    ],
)
def test_a_day_of_the_week_is_due_once_from_its_midnight_on(
    every: str, last: datetime, due: bool
) -> None:
    assert parse_schedule(every).is_due(last, SUNDAY) is due


def test_a_day_begins_at_midnight_of_the_zone_of_this_host() -> None:
    early = datetime(2026, 11, 22, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    last = early.astimezone(UTC) - timedelta(hours=1)
    assert parse_schedule("sunday").is_due(last, early)
    assert not parse_schedule("sunday").is_due(last, early.astimezone(UTC))


def test_the_first_backup_is_always_due() -> None:
    assert parse_schedule("2w").is_due(None, SUNDAY)
    assert parse_schedule("friday").is_due(None, SUNDAY)
