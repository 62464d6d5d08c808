"""What a client of our walsender says at its start-up about the backup that it wants.

Settings of a prefix that is ours, as a server has them of an extension: libpq sends them with
`options='-c pgbackup.label=...'` or from PGOPTIONS. Pure. Whether there is such a backup, and a way
to the target, is decided elsewhere.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pgbackup.errors import ClientError, UsageError
from pgbackup.pg.lsn import Lsn
from pgbackup.restore.moment import parse_moment
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind, parse_target_lsn

LABEL: Final = "pgbackup.label"
TARGET_TIME: Final = "pgbackup.target_time"
TARGET_LSN: Final = "pgbackup.target_lsn"

INVALID_VALUE: Final = "22023"

_PREFIX = "pgbackup"
_NAMES = (LABEL, TARGET_TIME, TARGET_LSN)


class Asked(NamedTuple):
    """What a client wants. target: a time or a position, up to which it wants WAL."""

    label: str | None = None
    target: RecoveryTarget | None = None


def parse_settings(settings: Mapping[str, str]) -> Asked:
    """Take what is ours from the settings of a start-up; an empty value says nothing.

    Raises: ClientError.
    """
    given = {}
    for name, value in settings.items():
        if name.lower().startswith(_PREFIX + "."):
            if name.lower() not in _NAMES:
                raise ClientError(
                    f'invalid configuration parameter name "{name}"',
                    sqlstate="42602",
                    detail=f'"{_PREFIX}" is a reserved prefix.',
                    hint=f"There are {', '.join(_NAMES[:-1])} and {_NAMES[-1]}.",
                )
            if value:
                given[name.lower()] = value
    if TARGET_TIME in given and TARGET_LSN in given:
        raise ClientError(
            "multiple recovery targets specified",
            sqlstate=INVALID_VALUE,
            detail=f"At most one of {TARGET_TIME} and {TARGET_LSN} may be set.",
        )
    target = None
    if TARGET_TIME in given:
        target = RecoveryTarget(TargetKind.TIME, time=_moment(given[TARGET_TIME]))
    elif TARGET_LSN in given:
        target = RecoveryTarget(TargetKind.LSN, lsn=_position(given[TARGET_LSN]))
    return Asked(given.get(LABEL), target)


def _moment(text: str) -> datetime:
    """A time; one without a zone is of ours, which clients are told is UTC."""
    try:
        return parse_moment(text, UTC)
    except UsageError as error:
        reason = error.message.partition(f'"{text}": ')[2]
        raise _invalid(TARGET_TIME, text, reason, "2026-11-22T16:42:00+00") from None


def _position(text: str) -> Lsn:
    try:
        return parse_target_lsn(text)
    except UsageError as error:
        reason = error.message.partition(f'"{text}": ')[2]
        raise _invalid(TARGET_LSN, text, reason, "0/3000028") from None


def _invalid(name: str, text: str, reason: str, example: str) -> ClientError:
    return ClientError(
        f'invalid value for parameter "{name}": "{text}"',
        sqlstate=INVALID_VALUE,
        detail=f"{reason[:1].upper()}{reason[1:]}.",
        hint=f"Set it as in: -c {name}={example}",
    )
