"""The form of backups and slots in answers: what programs read, we promise not to rename."""

from typing import Any

from pgbackup.repo.catalog import BackupRecord, Pin
from pgbackup.repo.slots import Slot

SLOT_HEADINGS = ("SLOT", "TYPE", "TEMPORARY", "ACTIVE PID", "RESTART")
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def pin_document(pin: Pin) -> dict[str, Any]:
    """Why a backup stays, and since when."""
    since = None if pin.since is None else pin.since.strftime(TIME_FORMAT)
    return {"reason": pin.reason, "since": since}


def backup_document(record: BackupRecord, pin: Pin | None = None) -> dict[str, Any]:
    """Fields in snake_case, positions as text, times ISO 8601 in UTC, sizes in bytes."""
    return {
        "label": record.label,
        "kind": record.kind,
        "comment": record.comment,
        "system_identifier": str(record.system_identifier),
        "server_version": record.server_version_text,
        "server_version_num": record.server_version,
        "timeline": int(record.timeline),
        "start_lsn": str(record.start_lsn),
        "start_time": record.start_time.strftime(TIME_FORMAT),
        "stop_timeline": int(record.stop_timeline),
        "stop_lsn": str(record.stop_lsn),
        "stop_time": record.stop_time.strftime(TIME_FORMAT),
        "duration_seconds": record.duration_seconds,
        "size": record.size,
        "stored_size": record.stored_size,
        "compression": record.compression,
        "checksum_algorithm": record.checksum_algorithm,
        "wal_segment_size": record.wal_segment_size,
        "wal": [
            {"timeline": int(w.timeline), "first": w.first, "last": w.last} for w in record.wal
        ],
        "tablespaces": [
            {"oid": tablespace.oid, "location": tablespace.location, "archive": tablespace.archive}
            for tablespace in record.tablespaces
        ],
        "page_checksum_failures": record.checksum_failures.is_damaged,
        "warnings": list(record.checksum_failures.warnings),
        "pin": None if pin is None else pin_document(pin),
    }


def slot_document(slot: Slot, user: int | None) -> dict[str, Any]:
    """A slot of the repository's own, in the columns of pg_replication_slots.

    user: the PID of the backend that uses it.
    """
    return {
        "slot_name": slot.name,
        "slot_type": "physical",
        "temporary": slot.is_temporary,
        "active": user is not None,
        "active_pid": user,
        "restart_lsn": None if slot.restart is None else str(slot.restart.lsn),
        "restart_tli": None if slot.restart is None else int(slot.restart.timeline),
    }


def slot_row(slot: Slot, user: int | None) -> tuple[str, ...]:
    """The same for SLOT_HEADINGS."""
    restart = "-" if slot.restart is None else str(slot.restart)
    is_temporary = "yes" if slot.is_temporary else "no"
    return (slot.name, "physical", is_temporary, "-" if user is None else str(user), restart)
