"""How a restored server goes on: the signal file and the settings that tell it.

Pure. All settings of a kind are always written, those that are not wanted empty: what the source
had in its configuration, a target of an earlier recovery or the slot of another standby, must not
count. PostgreSQL 13 to 18 know the same settings; they differ in what primary_conninfo is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgbackup.errors import UsageError
from pgbackup.restore.recoverytarget import (
    LATEST_TIMELINE,
    RecoveryTarget,
    TargetAction,
    TargetKind,
)

RECOVERY_SIGNAL = "recovery.signal"
STANDBY_SIGNAL = "standby.signal"
FIRST_MAJOR_WITH_DBNAME = 17
"""From here on a standby connects to the database of primary_conninfo, to synchronise slots."""

_TARGET_SETTINGS = {
    TargetKind.IMMEDIATE: "recovery_target",
    TargetKind.NAME: "recovery_target_name",
    TargetKind.TIME: "recovery_target_time",
    TargetKind.XID: "recovery_target_xid",
    TargetKind.LSN: "recovery_target_lsn",
}
_ESCAPES = {"\\": "\\\\", "'": "''", "\n": "\\n", "\r": "\\r"}


@dataclass(frozen=True, slots=True)
class Primary:
    """The server that a standby follows.

    conninfo: settings of libpq by name.
    slot:     on that server, "" for none.
    """

    conninfo: Mapping[str, str]
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a restored server does when it starts.

    target:              where it stops; the end of the backup means without archive recovery.
    timeline:            "latest", or a number in decimal.
    restore_command:     None only where nothing beyond the backup is asked for.
    is_standby:          it stays in recovery until it is promoted.
    primary:             of a standby; None leaves it to what the configuration has.
    keep_standby_signal: without anything else, be a standby if the source was one.
    """

    target: RecoveryTarget = field(default_factory=RecoveryTarget)
    timeline: str = LATEST_TIMELINE
    action: TargetAction = TargetAction.PAUSE
    restore_command: str | None = None
    is_standby: bool = False
    primary: Primary | None = None
    keep_standby_signal: bool = False

    def check(self) -> None:
        """Raises: UsageError for wishes that exclude each other."""
        goes_on = self.target.kind is not TargetKind.END_OF_BACKUP
        if self.keep_standby_signal and (goes_on or self.is_standby):
            raise UsageError(
                "could not use --keep-standby-signal: it is for a server that stands at its backup",
                hint="Type --standby to get a standby, whatever the source was.",
            )
        if self.is_standby and goes_on:
            raise UsageError(
                f"could not stop at {self.target}: a standby goes on",
                hint="Leave out --standby (-R), or the target.",
            )
        if self.primary is not None and not self.is_standby:
            raise UsageError(
                "could not use a connection or a slot: they are for a standby",
                hint="Type --standby (-R) to get one.",
            )
        if self.restore_command is not None:
            if not self.restore_command.strip():
                raise UsageError("could not use the restore command: it is empty")
            if {"\n", "\r", "\0"} & set(self.restore_command):
                raise UsageError("could not use the restore command: it has more than one line")

    @property
    def signal(self) -> str | None:
        """The name of the signal file, if there is to be one."""
        if self.is_standby:
            return STANDBY_SIGNAL
        return None if self.target.kind is TargetKind.END_OF_BACKUP else RECOVERY_SIGNAL

    def settings(self, major: int) -> dict[str, str]:
        """What belongs into postgresql.auto.conf.

        major: of the server, 18.
        """
        if self.signal is None:
            return {}
        settings = {"restore_command": self.restore_command or ""}
        wanted = _TARGET_SETTINGS.get(self.target.kind)
        settings |= dict.fromkeys(
            (each for each in _TARGET_SETTINGS.values() if each != wanted), ""
        )
        if wanted is not None:
            # The last: a server takes even an empty one behind it for a second target.
            settings[wanted] = self.target.value
        settings["recovery_target_inclusive"] = "on" if self.target.is_inclusive else "off"
        settings["recovery_target_timeline"] = self.timeline
        settings["recovery_target_action"] = self.action.value
        if self.primary is not None:
            settings["primary_conninfo"] = primary_conninfo(self.primary.conninfo, major)
            settings["primary_slot_name"] = self.primary.slot
        return settings


def primary_conninfo(settings: Mapping[str, str], major: int) -> str:
    """The connection string for a server of this major version.

    Source: recovery_gen.c, GenerateRecoveryConfig (PostgreSQL 18)
    """
    words = []
    for name, value in settings.items():
        if name in ("replication", "fallback_application_name"):
            continue
        if name == "dbname" and major < FIRST_MAJOR_WITH_DBNAME:
            continue
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        words.append(f"{name}='{escaped}'")
    return " ".join(words)


def configuration_lines(settings: Mapping[str, str]) -> str:
    """Lines for postgresql.auto.conf, where the last of several counts."""
    return "\n# written by pgbackup restore\n" + "".join(
        f"{name} = {_quoted(value)}\n" for name, value in settings.items()
    )


def _quoted(value: str) -> str:
    """Source: guc-file.l, DeescapeQuotedString (PostgreSQL 18)"""
    return f"'{''.join(_ESCAPES.get(each, each) for each in value)}'"
