"""What is asked of a server by SQL, over a session that is connected to a database."""

from dataclasses import dataclass

from pgbackup.pg.lsn import Lsn
from pgbackup.wire.scanner import quote_literal

BACKUP_FUNCTIONS_SINCE = 15
"""The major that calls them pg_backup_start and pg_backup_stop."""


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
class PrepareSession:
    """Make a session fit for an online backup: it may last for days, and is idle most of the time.

    Texts come as they are in the server, since a tablespace can lie under a name of any bytes;
    times are those of the server's log.
    """

    def text(self, major: int) -> str:
        values = {
            "client_encoding": "'SQL_ASCII'",
            "standard_conforming_strings": "'on'",
            "timezone": "pg_catalog.current_setting('log_timezone')",
            "statement_timeout": "'0'",
            "lock_timeout": "'0'",
            "idle_in_transaction_session_timeout": "'0'",
        }
        if major >= 14:
            values["idle_session_timeout"] = "'0'"
        if major >= 17:
            values["transaction_timeout"] = "'0'"
        return "SELECT " + ", ".join(
            f"pg_catalog.set_config('{name}', {value}, false)" for name, value in values.items()
        )


@dataclass(frozen=True, slots=True)
class StartBackup:
    """Begin an online backup of this session.

    Answers with two rows: the start position; and with what the control file said next:
    checkpoint and redo position, timeline, whether the server is in recovery, and the time.
    """

    label: str
    is_fast: bool

    def text(self, major: int) -> str:
        label, fast = quote_literal(self.label), "true" if self.is_fast else "false"
        if major >= BACKUP_FUNCTIONS_SINCE:
            start = f"SELECT pg_catalog.pg_backup_start({label}, {fast})"
        else:
            start = f"SELECT pg_catalog.pg_start_backup({label}, {fast}, false)"
        return (
            f"{start}; SELECT checkpoint_lsn, redo_lsn, timeline_id,"
            " pg_catalog.pg_is_in_recovery(),"
            " pg_catalog.to_char(pg_catalog.clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS TZ')"
            " FROM pg_catalog.pg_control_checkpoint()"
        )


@dataclass(frozen=True, slots=True)
class StopBackup:
    """End the online backup of this session.

    Answers with two rows: stop position, backup_label, tablespace_map; and with what the control
    file said next: the position up to which a standby has to be replayed, and its timeline.
    """

    def text(self, major: int) -> str:
        if major >= BACKUP_FUNCTIONS_SINCE:
            stop = "pg_catalog.pg_backup_stop(false)"
        else:
            stop = "pg_catalog.pg_stop_backup(false, false)"
        return (
            f"SELECT lsn, labelfile, spcmapfile FROM {stop};"
            " SELECT min_recovery_end_lsn, min_recovery_end_timeline"
            " FROM pg_catalog.pg_control_recovery()"
        )


@dataclass(frozen=True, slots=True)
class SelectControl:
    """Ask by SQL what the server's control file says: system identifier, whether the server is in
    recovery, and the position of its last checkpoint."""

    def text(self, major: int) -> str:
        return (
            "SELECT s.system_identifier, pg_catalog.pg_is_in_recovery(), c.checkpoint_lsn"
            " FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c"
        )


@dataclass(frozen=True, slots=True)
class SelectFlushed:
    """Ask by SQL for the timeline of the server, up to where its WAL is on disk there, and whether
    it is in recovery: then it may have gone over to another timeline since."""

    def text(self, major: int) -> str:
        return (
            "SELECT greatest(c.timeline_id, r.min_recovery_end_timeline),"
            " CASE WHEN pg_catalog.pg_is_in_recovery()"
            " THEN greatest(pg_catalog.pg_last_wal_receive_lsn(),"
            " pg_catalog.pg_last_wal_replay_lsn())"
            " ELSE pg_catalog.pg_current_wal_flush_lsn() END, pg_catalog.pg_is_in_recovery()"
            " FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r"
        )
