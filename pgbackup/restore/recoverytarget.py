"""Where recovery is to stop, as the user says it.

Pure values. Whether a target can be reached is decided elsewhere, with the archive at hand.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import Enum

from pgbackup.errors import CorruptData, UsageError
from pgbackup.pg.lsn import MAX_TIMELINE, Lsn, Timeline
from pgbackup.restore.moment import format_moment, parse_moment

LATEST_TIMELINE = "latest"
CURRENT_TIMELINE = "current"
MAX_NAME = 63  # bytes; xlog_internal.h, MAXFNAMELEN

_FIRST_NORMAL_XID = 3  # transam.h, FirstNormalTransactionId


class TargetKind(Enum):
    """What recovery goes by. The values are for programs."""

    END_OF_BACKUP = "backup"
    """No archive recovery: the server stands at the end of the backup."""
    END_OF_WAL = "latest"
    IMMEDIATE = "immediate"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"


class TargetAction(Enum):
    """What the server does at the target."""

    PAUSE = "pause"
    PROMOTE = "promote"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """A target of one kind, and what it is of that kind.

    time: UTC.
    xid:  as typed, with its epoch if it had one; the server compares the lower 32 bits.
    """

    kind: TargetKind = TargetKind.END_OF_BACKUP
    time: datetime | None = None
    lsn: Lsn | None = None
    xid: int | None = None
    name: str | None = None
    is_inclusive: bool = True

    @property
    def is_given(self) -> bool:
        """Tell whether recovery stops somewhere before the end of WAL."""
        return self.kind not in (TargetKind.END_OF_BACKUP, TargetKind.END_OF_WAL)

    @property
    def value(self) -> str:
        """The value of the server's setting."""
        match self.kind:
            case TargetKind.TIME:
                assert self.time is not None
                return format_moment(self.time)
            case TargetKind.LSN:
                return str(self.lsn)
            case TargetKind.XID:
                return str(self.xid)
            case TargetKind.NAME:
                return self.name or ""
            case TargetKind.IMMEDIATE:
                return "immediate"
        return ""

    def __str__(self) -> str:
        match self.kind:
            case TargetKind.END_OF_BACKUP:
                return "the end of the backup"
            case TargetKind.END_OF_WAL:
                return "the end of the archive"
            case TargetKind.IMMEDIATE:
                return "the end of the backup, as soon as it is consistent"
            case TargetKind.TIME:
                return f"time {self.value}"
            case TargetKind.LSN:
                return f"position {self.value}"
            case TargetKind.XID:
                return f"transaction {self.value}"
            case TargetKind.NAME:
                return f'restore point "{self.value}"'


@dataclass(frozen=True, slots=True)
class TargetWords:
    """What the command line says about a target, not yet understood."""

    time: str | None = None
    lsn: str | None = None
    xid: str | None = None
    name: str | None = None
    immediate: bool = False
    latest: bool = False
    inclusive: bool | None = None

    def parse(self, zone: tzinfo | None = None) -> RecoveryTarget:
        """The one target that is named. Raises: UsageError.

        zone: of times that name none; None is that of this machine.
        """
        given = {
            "--target-time": self.time is not None,
            "--target-lsn": self.lsn is not None,
            "--target-xid": self.xid is not None,
            "--target-name": self.name is not None,
            "--target-immediate": self.immediate,
            "--target-latest": self.latest,
        }
        chosen = [option for option, is_given in given.items() if is_given]
        if len(chosen) > 1:
            raise UsageError(
                f"could not use {chosen[0]} and {chosen[1]}: recovery stops at one target",
                hint="Give one of the two.",
            )
        self._check_inclusive(chosen)
        is_inclusive = self.inclusive is not False
        if self.time is not None:
            moment = parse_moment(self.time, zone)
            return RecoveryTarget(TargetKind.TIME, time=moment, is_inclusive=is_inclusive)
        if self.lsn is not None:
            lsn = parse_target_lsn(self.lsn)
            return RecoveryTarget(TargetKind.LSN, lsn=lsn, is_inclusive=is_inclusive)
        if self.xid is not None:
            xid = _parse_xid(self.xid)
            return RecoveryTarget(TargetKind.XID, xid=xid, is_inclusive=is_inclusive)
        if self.name is not None:
            return RecoveryTarget(TargetKind.NAME, name=_checked_name(self.name))
        if self.immediate:
            return RecoveryTarget(TargetKind.IMMEDIATE)
        return RecoveryTarget(TargetKind.END_OF_WAL if self.latest else TargetKind.END_OF_BACKUP)

    def _check_inclusive(self, chosen: Sequence[str]) -> None:
        if self.inclusive is None or chosen in (["--target-time"], ["--target-lsn"]):
            return
        if chosen != ["--target-xid"]:
            raise UsageError(
                "could not use --target-inclusive or --target-exclusive: they belong to"
                " --target-time, --target-lsn and --target-xid"
            )


def parse_target_lsn(text: str) -> Lsn:
    """A position. Raises: UsageError."""
    try:
        return Lsn.parse(text.strip())
    except CorruptData as error:
        reason = error.message.partition(": ")[2]
        raise UsageError(
            f'could not use target position "{text}": {reason}',
            hint="Type it as pg_current_wal_lsn() shows it, as in --target-lsn 0/3000028.",
        ) from None


def parse_timeline(text: str) -> str | Timeline:
    """A timeline: "latest", "current", or a number. Raises: UsageError."""
    word = text.strip()
    if word in (LATEST_TIMELINE, CURRENT_TIMELINE):
        return word
    if not re.fullmatch(r"[0-9]{1,10}", word) or not 1 <= int(word) <= MAX_TIMELINE:
        raise UsageError(
            f'could not use target timeline "{text}": it is neither latest, current, nor a number',
            hint='Run "pgbackup wal list" to see the timelines.',
        )
    return Timeline(int(word))


def _parse_xid(text: str) -> int:
    """Source: xlogrecovery.c, check_recovery_target_xid (PostgreSQL 18)"""
    word = text.strip()
    if not re.fullmatch(r"[0-9]{1,20}", word) or int(word) >= 1 << 64:
        raise UsageError(
            f'could not use target transaction "{text}": it is not a number of 64 bits',
            hint="Type it as txid_current() shows it, as in --target-xid 740.",
        )
    if int(word) % (1 << 32) < _FIRST_NORMAL_XID:
        raise UsageError(f'could not use target transaction "{text}": no transaction has it')
    return int(word)


def _checked_name(text: str) -> str:
    """Source: xlogrecovery.c, check_recovery_target_name (PostgreSQL 18)"""
    length = len(text.encode("utf-8", "surrogateescape"))
    if not 1 <= length <= MAX_NAME or "\0" in text:
        raise UsageError(
            f'could not use restore point "{text}": a name has from 1 to {MAX_NAME} bytes'
        )
    return text
