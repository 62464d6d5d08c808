"""Replication commands as values, and their text for each server major.

Some are SQL: a walsender that is connected to a database understands it too. A new command is a
new class here; transport and session do not grow. Parsing the same commands belongs to the
walsender and is not here yet.

Source: repl_gram.y, repl_scanner.l (PostgreSQL 13 to 18).
"""

from dataclasses import dataclass
from typing import Protocol

from pgbackup.errors import UsageError
from pgbackup.pg.lsn import Lsn, Timeline

PARENTHESES_SINCE = 15
"""First major with `BASE_BACKUP ( ... )`, one typed COPY, and options for slot creation."""

READ_SLOT_SINCE = 15
"""First major with READ_REPLICATION_SLOT."""

MAX_LABEL = 1024
"""Bytes; MAXPGPATH, the server refuses longer labels."""


class Command(Protocol):
    """Anything that can be sent to a walsender."""

    def text(self, major: int) -> str:
        """The command as a server of this major wants it."""


def quote_literal(value: str) -> str:
    """A string for the replication scanner: quotes are doubled, a backslash is a backslash."""
    if "\0" in value:
        raise UsageError("a replication command can not contain a NUL character")
    return "'" + value.replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """A quoted name. The scanner knows no escape for a double quote, so there can be none."""
    if not name or '"' in name or "\0" in name:
        raise UsageError(f"{name!r} is not a name that the replication grammar can express")
    return f'"{name}"'


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
        return f"SHOW {self.name}"


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
class SelectSlot:
    """Ask by SQL for all that is known of a slot, in one row; all NULL if there is none.

    Columns: slot_type, active, restart_lsn, wal_status, safe_wal_size, and where the server's
    own WAL ends.
    """

    name: str

    def text(self, major: int) -> str:
        return (
            "SELECT s.slot_type, s.active, s.restart_lsn, s.wal_status, s.safe_wal_size,"
            " CASE WHEN pg_catalog.pg_is_in_recovery()"
            " THEN greatest(pg_catalog.pg_last_wal_receive_lsn(),"
            " pg_catalog.pg_last_wal_replay_lsn())"
            " ELSE pg_catalog.pg_current_wal_lsn() END"
            f" FROM (VALUES ({quote_literal(self.name)})) AS given (name)"
            " LEFT JOIN pg_catalog.pg_replication_slots s"
            " ON s.slot_name OPERATOR(pg_catalog.=) given.name::pg_catalog.name"
        )


@dataclass(frozen=True, slots=True)
class AdvanceSlot:
    """Let a slot go by SQL, up to a position, of what it holds; answers with where it is then."""

    name: str
    position: Lsn

    def text(self, major: int) -> str:
        return (
            "SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance"
            f"({quote_literal(self.name)}, '{self.position}')"
        )


@dataclass(frozen=True, slots=True)
class SelectActivity:
    """Ask by SQL how the server is doing, in one row.

    Columns: whether it is in recovery, its time in seconds since 1970, files archived, failures,
    the file of the last failure if nothing was archived since, synchronous standbys that are
    connected (NULL if the role may not know), names of slots that hold WAL for nobody.
    """

    def text(self, major: int) -> str:
        return (
            "SELECT pg_catalog.pg_is_in_recovery(),"
            " extract(epoch FROM pg_catalog.clock_timestamp())::text,"
            " a.archived_count, a.failed_count,"
            " CASE WHEN a.last_failed_time >= coalesce(a.last_archived_time, '-infinity')"
            " THEN a.last_failed_wal END,"
            " CASE WHEN pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')"
            " THEN (SELECT count(*) FROM pg_catalog.pg_stat_replication"
            " WHERE sync_state IN ('sync', 'quorum')) END,"
            " (SELECT coalesce(pg_catalog.string_agg(slot_name::text, ' '), '')"
            " FROM pg_catalog.pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL)"
            " FROM pg_catalog.pg_stat_archiver a"
        )


@dataclass(frozen=True, slots=True)
class StartPhysicalReplication:
    """Stream WAL of a timeline from a position on."""

    start: Lsn
    timeline: Timeline
    slot: str | None = None

    def text(self, major: int) -> str:
        slot = f"SLOT {quote_identifier(self.slot)} " if self.slot else ""
        return f"START_REPLICATION {slot}PHYSICAL {self.start} TIMELINE {int(self.timeline)}"


@dataclass(frozen=True, slots=True)
class BaseBackup:
    """Take a base backup.

    max_rate:           kilobytes per second, 32 to 1048576, or None.
    wal:                append the needed WAL files to the main archive.
    wait:               let the server wait until its archiver has the last segment.
    manifest_checksums: NONE, CRC32C, SHA224, SHA256, SHA384 or SHA512; None for no manifest.
    """

    label: str
    fast_checkpoint: bool = False
    progress: bool = True
    wal: bool = False
    wait: bool = False
    max_rate: int | None = None
    tablespace_map: bool = True
    verify_checksums: bool = True
    manifest_checksums: str | None = "CRC32C"

    def text(self, major: int) -> str:
        if major >= PARENTHESES_SINCE:
            return f"BASE_BACKUP ({', '.join(self._options())})"
        return " ".join(["BASE_BACKUP", *self._legacy_options()])

    def _options(self) -> list[str]:
        options = [f"LABEL {quote_literal(self.label)}"]
        if self.progress:
            options.append("PROGRESS")
        options.append(f"CHECKPOINT '{'fast' if self.fast_checkpoint else 'spread'}'")
        if self.wal:
            options.append("WAL")
        if not self.wait:
            options.append("WAIT false")
        if self.max_rate is not None:
            options.append(f"MAX_RATE {self.max_rate}")
        if self.tablespace_map:
            options.append("TABLESPACE_MAP")
        if not self.verify_checksums:
            options.append("VERIFY_CHECKSUMS false")
        if self.manifest_checksums is not None:
            options.append("MANIFEST 'yes'")
            options.append(f"MANIFEST_CHECKSUMS {quote_literal(self.manifest_checksums)}")
        return options

    def _legacy_options(self) -> list[str]:
        options = [f"LABEL {quote_literal(self.label)}"]
        if self.progress:
            options.append("PROGRESS")
        if self.fast_checkpoint:
            options.append("FAST")
        if self.wal:
            options.append("WAL")
        if not self.wait:
            options.append("NOWAIT")
        if self.max_rate is not None:
            options.append(f"MAX_RATE {self.max_rate}")
        if self.tablespace_map:
            options.append("TABLESPACE_MAP")
        if not self.verify_checksums:
            options.append("NOVERIFY_CHECKSUMS")
        if self.manifest_checksums is not None:
            options.append("MANIFEST 'yes'")
            options.append(f"MANIFEST_CHECKSUMS {quote_literal(self.manifest_checksums)}")
        return options
