"""A time that is typed means one instant, or is refused with what it can mean."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.errors import UsageError
from pgbackup.restore.moment import format_moment, parse_moment

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T16:42:00Z", "2026-11-22 16:42:00+00"),
        ("2026-11-22 16:42:00+02", "2026-11-22 14:42:00+00"),
        ("2026-11-22 16:42:00-03:30", "2026-11-22 20:12:00+00"),
        ("2026-11-22T16:42:00.5+0130", "2026-11-22 15:12:00.5+00"),
        ("2026-11-22 16:42:00.123456 UTC", "2026-11-22 16:42:00.123456+00"),
        ("2026-11-22 16:42:00,25 GMT", "2026-11-22 16:42:00.25+00"),
        ("20261122T164200Z", "2026-11-22 16:42:00+00"),
        ("2026-11-22 16:42", "2026-11-22 15:42:00+00"),
        ("2026-11-22", "2026-11-21 23:00:00+00"),
        ("  2026-07-01 12:00:00  ", "2026-07-01 10:00:00+00"),
        ("2026-11-22 16:42:00 America/New_York", "2026-11-22 21:42:00+00"),
        ("2026-11-22 16:42:00.123 CET", "2026-11-22 15:42:00.123+00"),
        ("2026-10-25 02:30:00 CEST", "2026-10-25 00:30:00+00"),
        ("2026-10-25 02:30:00 CET", "2026-10-25 01:30:00+00"),
        ("2026-10-25 02:30:00+01", "2026-10-25 01:30:00+00"),
    ],
)
def test_iso_8601_and_postgresqls_own_spelling_are_understood(text: str, expected: str) -> None:
    assert format_moment(parse_moment(text, BERLIN)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not of the form"),
        ("yesterday", "not of the form"),
        ("16:42", "not of the form"),
        ("22.11.2026 16:42", "not of the form"),
        ("2026-11-22 16:42:00.1234567", "not of the form|no time zone"),
        ("2026-02-29 00:00:00", "day"),
        ("2026-11-22 24:00:00", "hour"),
        ("2026-11-22 16:42:00 EST", '"EST" is no time zone here'),
        ("2026-11-22 16:42:00 CEST", '"CEST" is no time zone here'),
        ("2026-11-22 16:42:00 Mars/Olympus", 'no time zone "Mars/Olympus"'),
        ("2026-11-22 16:42:00 ../../etc/passwd", "no time zone"),
        ("2026-11-22 16:42:00+99", "no offset"),
        ("0001-01-01 00:00:00+10", "beyond the calendar"),
        ("2026-03-29 02:30:00", "passed over it"),
    ],
)
def test_other_times_are_refused_with_an_example(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        parse_moment(text, BERLIN)
    assert raised.value.hint is not None
    example = raised.value.hint.partition('"')[2].partition('"')[0]
    assert parse_moment(example).tzinfo is UTC


def test_a_time_that_the_clocks_showed_twice_is_refused_with_both_readings() -> None:
    with pytest.raises(UsageError, match="showed it twice") as raised:
        parse_moment("2026-10-25 02:30:00", BERLIN)
    assert raised.value.hint == (
        'Type "2026-10-25 00:30:00+00" for the first time, "2026-10-25 01:30:00+00" for the second.'
    )


@pytest.fixture
def new_york() -> Iterator[None]:
    """A machine whose clocks are New York's."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_a_time_without_zone_is_one_of_the_machines_own() -> None:
    assert format_moment(parse_moment("2026-11-22 16:42")) == "2026-11-22 21:42:00+00"
    assert format_moment(parse_moment("2026-11-01 01:30 EST")) == "2026-11-01 06:30:00+00"
    with pytest.raises(UsageError, match="local time zone showed it twice"):
        parse_moment("2026-11-01 01:30")
    with pytest.raises(UsageError, match="local time zone passed over it"):
        parse_moment("2026-03-08 02:30")


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
def test_a_time_of_a_zone_means_an_instant_at_which_its_clocks_show_it(
    shown: datetime, name: str
) -> None:
    zone = ZoneInfo(name)
    if len({shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}) == 2:
        with pytest.raises(UsageError, match=r"showed it twice|passed over it"):
            parse_moment(f"{shown} {name}")
        return
    moment = parse_moment(f"{shown} {name}")
    assert moment.astimezone(zone).replace(tzinfo=None, fold=0) == shown
    assert parse_moment(format_moment(moment)) == moment


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),  # noqa: DTZ001
    st.integers(-15 * 60, 15 * 60),
)
def test_an_offset_is_what_separates_a_time_from_utc(shown: datetime, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    found = parse_moment(f"{shown.isoformat()}{offset}")
    assert found == shown.replace(tzinfo=UTC) - timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31 23:59:59"])
def test_the_ends_of_the_calendar_are_moments_or_refused(text: str) -> None:
    """Which of them depends on the zone of this machine."""
    with suppress(UsageError):
        assert parse_moment(text).tzinfo is UTC
