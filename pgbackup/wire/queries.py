"""What is asked of a server by SQL, over a walsender that is connected to a database."""

from dataclasses import dataclass

from pgbackup.pg.lsn import Lsn
from pgbackup.wire.scanner import quote_literal


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
