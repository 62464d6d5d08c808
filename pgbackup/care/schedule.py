"""When a backup is due. Pure: times in, a decision out."""

from datetime import datetime, timedelta
from typing import NamedTuple

from pgbackup.errors import UsageError

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MAX_DIGITS = 9

SLACK = 10 * 60
"""Seconds that an hourly cron may begin earlier than the day before; at most a tenth."""


class Schedule(NamedTuple):
    """A backup every so many seconds, or on one day of the week, by its number."""

    seconds: int | None
    weekday: int | None = None

    def is_due(self, last: datetime | None, now: datetime) -> bool:
        """Tell whether it is time.

        last: when the last backup began; None if there is none.
        now:  with the time zone in which a day of the week begins.
        """
        if last is None:
            return True
        if self.seconds is not None:
            slack = min(SLACK, self.seconds // 10)
            return (now - last).total_seconds() >= self.seconds - slack
        assert self.weekday is not None
        days = (now.weekday() - self.weekday) % len(WEEKDAYS)
        begin = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)
        return last < begin


def parse_schedule(text: str) -> Schedule:
    """Read a span or a day of the week. Raises: UsageError."""
    word = text.lower()
    found = [number for number, day in enumerate(WEEKDAYS) if word in (day, day[:3])]
    if found:
        return Schedule(None, found[0])
    return Schedule(parse_span(text))


def parse_span(text: str) -> int:
    """Read a span of time such as 90s, 30min, 36h, 7d or 2w, in seconds. Raises: UsageError."""
    digits = text.rstrip("".join(_UNITS))
    unit = text[len(digits) :]
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS
    if not is_number or unit not in _UNITS or not int(digits):
        raise UsageError(
            f'"{text}" is not a span of time',
            hint="Use a number and a unit of s, min, h, d or w, such as 36h.",
        )
    return int(digits) * _UNITS[unit]
