"""Replication commands as values, and their text for each server major.

`grammar.py` makes the same values of text. A new command is a new class here; transport and session
do not grow.

Source: repl_gram.y (PostgreSQL 13 to 18).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pgbackup.errors import UsageError
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.wire.scanner import quote_identifier, quote_literal

PARENTHESES_SINCE = 15
"""First major with `BASE_BACKUP ( ... )`, one typed COPY, and options for slot creation."""

READ_SLOT_SINCE = 15
"""First major with READ_REPLICATION_SLOT."""

FAILOVER_SINCE = 17
"""First major with failover slots."""

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")


class Command(Protocol):
    """Anything that can be sent to a walsender."""

    def text(self, major: int) -> str:
        """The command as a server of this major wants it."""


@dataclass(frozen=True, slots=True)
class IdentifySystem:
    """Ask for system identifier, timeline and flush position."""

    def text(self, major: int) -> str:
        return "IDENTIFY_SYSTEM"


@dataclass(frozen=True, slots=True)
class Show:
    """Ask for one setting."""

    name: str

    def text(self, major: int) -> str:
        plain = _PLAIN_NAME.fullmatch(self.name)
        return f"SHOW {self.name if plain else quote_identifier(self.name)}"


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """Ask for the history file of a timeline."""

    timeline: Timeline

    def text(self, major: int) -> str:
        return f"TIMELINE_HISTORY {int(self.timeline)}"


@dataclass(frozen=True, slots=True)
class CreatePhysicalSlot:
    """Create a physical slot.

    temporary:   gone when the connection ends.
    reserve_wal: hold WAL from the last checkpoint's redo point on, at once.
    """

    name: str
    temporary: bool = False
    reserve_wal: bool = False

    def text(self, major: int) -> str:
        words = ["CREATE_REPLICATION_SLOT", quote_identifier(self.name)]
        if self.temporary:
            words.append("TEMPORARY")
        words.append("PHYSICAL")
        if self.reserve_wal:
            words.append("(RESERVE_WAL)" if major >= PARENTHESES_SINCE else "RESERVE_WAL")
        return " ".join(words)


class Snapshot(StrEnum):
    """What becomes of the snapshot of a new logical slot."""

    EXPORT = "export"
    USE = "use"
    NOTHING = "nothing"


_SNAPSHOT_WORDS = {
    Snapshot.EXPORT: "EXPORT_SNAPSHOT",
    Snapshot.USE: "USE_SNAPSHOT",
    Snapshot.NOTHING: "NOEXPORT_SNAPSHOT",
}
"""How servers before PARENTHESES_SINCE are told, and later ones may be."""


@dataclass(frozen=True, slots=True)
class CreateLogicalSlot:
    """Create a logical slot with an output plugin.

    two_phase: from PARENTHESES_SINCE on; failover: from FAILOVER_SINCE on.
    """

    name: str
    plugin: str
    temporary: bool = False
    snapshot: Snapshot = Snapshot.EXPORT
    two_phase: bool = False
    failover: bool = False

    def text(self, major: int) -> str:
        words = ["CREATE_REPLICATION_SLOT", quote_identifier(self.name)]
        if self.temporary:
            words.append("TEMPORARY")
        words += ["LOGICAL", quote_identifier(self.plugin)]
        if major < PARENTHESES_SINCE:
            return " ".join([*words, _SNAPSHOT_WORDS[self.snapshot]])
        options = [f"SNAPSHOT '{self.snapshot}'"]
        if self.two_phase:
            options.append("TWO_PHASE")
        if self.failover:
            options.append("FAILOVER")
        return f"{' '.join(words)} ({', '.join(options)})"


@dataclass(frozen=True, slots=True)
class AlterSlot:
    """Change a logical slot; None leaves a property. From FAILOVER_SINCE on, two_phase from 18."""

    name: str
    failover: bool | None = None
    two_phase: bool | None = None

    def text(self, major: int) -> str:
        given = {"FAILOVER": self.failover, "TWO_PHASE": self.two_phase}
        options = [f"{name} {str(on).lower()}" for name, on in given.items() if on is not None]
        if not options:
            raise UsageError("ALTER_REPLICATION_SLOT needs something to change")
        return f"ALTER_REPLICATION_SLOT {quote_identifier(self.name)} ({', '.join(options)})"


@dataclass(frozen=True, slots=True)
class DropSlot:
    """Drop a slot. wait: until nobody uses it, instead of an error."""

    name: str
    wait: bool = False

    def text(self, major: int) -> str:
        return f"DROP_REPLICATION_SLOT {quote_identifier(self.name)}{' WAIT' * self.wait}"


@dataclass(frozen=True, slots=True)
class ReadSlot:
    """Ask for kind and restart position of a slot; servers from READ_SLOT_SINCE on."""

    name: str

    def text(self, major: int) -> str:
        return f"READ_REPLICATION_SLOT {quote_identifier(self.name)}"


@dataclass(frozen=True, slots=True)
class StartPhysicalReplication:
    """Stream WAL from a position on. timeline: None for the newest of the server."""

    start: Lsn
    timeline: Timeline | None = None
    slot: str | None = None

    def text(self, major: int) -> str:
        slot = f"SLOT {quote_identifier(self.slot)} " if self.slot else ""
        timeline = "" if self.timeline is None else f" TIMELINE {int(self.timeline)}"
        return f"START_REPLICATION {slot}PHYSICAL {self.start}{timeline}"


@dataclass(frozen=True, slots=True)
class StartLogicalReplication:
    """Stream the decoded changes of a slot. options: the plugin's, with or without a value."""

    slot: str
    start: Lsn
    options: tuple[tuple[str, str | None], ...] = ()

    def text(self, major: int) -> str:
        start = f"START_REPLICATION SLOT {quote_identifier(self.slot)} LOGICAL {self.start}"
        if not self.options:
            return start
        options = [
            quote_identifier(name) + ("" if value is None else f" {quote_literal(value)}")
            for name, value in self.options
        ]
        return f"{start} ({', '.join(options)})"


@dataclass(frozen=True, slots=True)
class UploadManifest:
    """Hand over the manifest that an incremental backup builds on; servers from 17 on."""

    def text(self, major: int) -> str:
        return "UPLOAD_MANIFEST"
