"""The answers to short commands: result sets with the columns that servers of each major send.

Those of BASE_BACKUP are where backups are sent.

Source: walsender.c, IdentifySystem, SendTimeLineHistory, ReadReplicationSlot,
CreateReplicationSlot, StartReplication (PostgreSQL 13 to 18).
"""

from collections.abc import Sequence

from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.wire.backend import (
    BYTEA,
    INT4,
    INT8,
    TEXT,
    Type,
    command_complete,
    data_row,
    row_description,
)

Value = bytes | str | int | None

_WIDE_TIMELINE_SINCE = 16
_TEXT_HISTORY_SINCE = 14
_SLOT_STATE = (("slot_type", TEXT), ("restart_lsn", TEXT), ("restart_tli", INT8))
_NEW_SLOT = (
    ("slot_name", TEXT),
    ("consistent_point", TEXT),
    ("snapshot_name", TEXT),
    ("output_plugin", TEXT),
)
_NEXT_TIMELINE = (("next_tli", INT8), ("next_tli_startpos", TEXT))


def identify_system(system: int, flushed: WalPosition, major: int) -> bytes:
    """The answer to IDENTIFY_SYSTEM of a walsender without a database."""
    timeline = INT8 if major >= _WIDE_TIMELINE_SINCE else INT4
    columns = (("systemid", TEXT), ("timeline", timeline), ("xlogpos", TEXT), ("dbname", TEXT))
    values = (system, flushed.timeline, flushed.lsn, None)
    return _one_row(columns, values, "IDENTIFY_SYSTEM")


def show(name: str, value: str) -> bytes:
    """The answer to SHOW. name: of the setting, as it is written in the documentation."""
    return _one_row(((name, TEXT),), (value,), "SHOW")


def timeline_history(timeline: Timeline, content: bytes, major: int) -> bytes:
    """The answer to TIMELINE_HISTORY: a file as it is, whatever the type of its column says."""
    kind = TEXT if major >= _TEXT_HISTORY_SINCE else BYTEA
    columns = (("filename", TEXT), ("content", kind))
    return _one_row(columns, (timeline.history_name, content), "TIMELINE_HISTORY")


def slot_state(restart: WalPosition | None, *, exists: bool) -> bytes:
    """The answer to READ_REPLICATION_SLOT for a physical slot, or for none."""
    lsn, timeline = (None, None) if restart is None else (restart.lsn, restart.timeline)
    values = ("physical", lsn, timeline) if exists else (None, None, None)
    return _one_row(_SLOT_STATE, values, "READ_REPLICATION_SLOT")


def new_slot(name: str) -> bytes:
    """The answer to CREATE_REPLICATION_SLOT for a physical slot."""
    return _one_row(_NEW_SLOT, (name, "0/0", None, None), "CREATE_REPLICATION_SLOT")


def next_timeline(timeline: Timeline, start: Lsn) -> bytes:
    """What ends the stream of a timeline that another one has followed."""
    return _one_row(_NEXT_TIMELINE, (timeline, start), "START_STREAMING")


def _one_row(columns: Sequence[tuple[str, Type]], values: Sequence[Value], tag: str) -> bytes:
    return row_description(columns) + data_row(values) + command_complete(tag)
