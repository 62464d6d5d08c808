"""A moment as a person types it, and the one instant that it means.

Pure but for the rules of the local time zone. ISO 8601 and what PostgreSQL writes into its log are
understood. A time without a zone is one of the local zone; one that the clocks showed twice, or
never, is refused with what it can mean, because recovery must not be the one to guess.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgbackup.errors import UsageError

_MOMENT = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:(?:\s+|[Tt])(\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d{1,6}))?)?)?)?"
    r"\s*(?P<zone>\S.*)?",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-])(\d\d)(?::?(\d\d)(?::?(\d\d))?)?", re.ASCII)
_ZERO = {"Z", "UTC", "GMT"}


def parse_moment(text: str, local: tzinfo | None = None) -> datetime:
    """The instant in UTC that a text means.

    local: the zone of times that name none; None is that of this machine (TZ, /etc/localtime).

    Raises: UsageError.
    """
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise _unusable(text, "it is not of the form YYYY-MM-DD HH:MM:SS")
    fraction = (match[7] or "").ljust(6, "0")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        naive = datetime(year, month, day, hour, minute, second, int(fraction))  # noqa: DTZ001
    except ValueError as error:
        raise _unusable(text, str(error)) from None
    try:
        return _instant(text, naive, (match["zone"] or "").strip(), local)
    except (OverflowError, ValueError):
        raise _unusable(text, "it is beyond the calendar") from None


def format_moment(moment: datetime) -> str:
    """A moment in UTC as it is typed, and as it stands in a server's configuration."""
    text = moment.astimezone(UTC).isoformat(sep=" ").replace("+00:00", "+00")
    return text if "." not in text else text.replace("+00", "").rstrip("0") + "+00"


def _instant(text: str, naive: datetime, zone: str, local: tzinfo | None) -> datetime:
    offset = _OFFSET.fullmatch(zone)
    if offset:
        return naive.replace(tzinfo=_fixed(text, offset)).astimezone(UTC)
    if zone.upper() in _ZERO:
        return naive.replace(tzinfo=UTC)
    if "/" in zone:
        return _only(text, naive, list(_readings(naive, _zone(text, zone))), zone)
    readings = list(_readings(naive, local))
    if zone:
        # The abbreviation that the server's log has behind a time, if it is this zone's.
        named = [each for each in readings if _at(each, local).tzname() == zone]
        if not named:
            raise _unusable(text, f'"{zone}" is no time zone here', naive)
        return named[0]
    return _only(text, naive, readings, "the local time zone")


def _fixed(text: str, offset: re.Match[str]) -> timezone:
    hours, minutes, seconds = (int(part or 0) for part in offset.groups()[1:])
    if hours > 15 or minutes > 59 or seconds > 59:
        raise _unusable(text, f'"{offset[0]}" is no offset from UTC')
    distance = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(-distance if offset[1] == "-" else distance)


def _zone(text: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _unusable(text, f'there is no time zone "{name}"') from None


def _readings(naive: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    """Every instant at which clocks of a zone show this, earliest first."""
    found = set()
    for fold in (0, 1):
        moment = naive.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        if _at(moment, zone).replace(tzinfo=None, fold=0) == naive:
            found.add(moment)
    yield from sorted(found)


def _at(moment: datetime, zone: tzinfo | None) -> datetime:
    return moment.astimezone(zone)


def _only(text: str, naive: datetime, readings: list[datetime], zone: str) -> datetime:
    if len(readings) == 1:
        return readings[0]
    if not readings:
        raise _unusable(text, f"the clocks of {zone} passed over it", naive)
    one, two = (_option(each) for each in readings)
    raise UsageError(
        f'could not use time "{text}": the clocks of {zone} showed it twice',
        hint=f"Type {one} for the first time, {two} for the second.",
    )


def _option(moment: datetime) -> str:
    return f'"{format_moment(moment)}"'


def _unusable(text: str, reason: str, naive: datetime | None = None) -> UsageError:
    example = naive or datetime(2026, 11, 22, 16, 42)  # noqa: DTZ001
    return UsageError(
        f'could not use time "{text}": {reason}',
        hint=f'Type it with its distance from UTC, as in "{example}+00".',
    )
