"""What `check` asks a server for, over a replication connection and over one that runs SQL.

Values only: what they mean is for the judges. Some questions go unanswered, because an older server
does not know a setting, or a role may not see it. Changes nothing on the server.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from pgbackup.errors import ServerError
from pgbackup.replication import client
from pgbackup.replication.client import SystemIdentity
from pgbackup.replication.transport import Transport
from pgbackup.wire.queries import SelectActivity

Connect = Callable[[], Transport]

SETTINGS = (
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "fsync",
    "full_page_writes",
    "data_checksums",
    "max_slot_wal_keep_size",
    "archive_mode",
    "archive_command",
    "archive_library",
    "restore_command",
    "synchronous_standby_names",
)


class Activity(NamedTuple):
    """What only SQL tells.

    clock_ahead:      seconds that the server's clock is ahead of ours, to half a query's time.
    archived, failed: how many files archive_command could handle, and how often it failed.
    last_failed:      the file of the last failure if nothing was archived since, else None.
    sync_standbys:    how many synchronous standbys are connected; None if we may not see it.
    idle_slots:       names of slots that nobody uses and that hold WAL.
    """

    is_in_recovery: bool
    clock_ahead: float
    archived: int
    failed: int
    last_failed: str | None
    sync_standbys: int | None
    idle_slots: tuple[str, ...]


class ServerView(NamedTuple):
    """A server at one moment.

    settings: as text; those that it does not know are missing.
    """

    identity: SystemIdentity
    version: int
    version_text: str
    segment_size: int
    settings: dict[str, str]

    @property
    def major(self) -> int:
        return self.version // 10000

    def setting(self, name: str) -> str:
        """The value of a setting; empty if the server does not know it."""
        return self.settings.get(name, "")


def read_server(transport: Transport) -> ServerView:
    """Ask over a replication connection. Raises: ConnectionFailed, ServerError."""
    settings = {}
    for name in SETTINGS:
        value = _show(transport, name)
        if value is not None:
            settings[name] = value
    return ServerView(
        client.identify_system(transport),
        transport.server_version,
        transport.server_version_text,
        client.wal_segment_size(transport),
        settings,
    )


def read_activity(transport: Transport) -> Activity:
    """Ask over a connection that runs SQL. Raises: ConnectionFailed, ServerError."""
    before = time.time()
    row = client.query(transport, SelectActivity(), 7)
    now = (before + time.time()) / 2
    return Activity(
        row[0] == b"t",
        float(client.text(row[1])) - now,
        client.number(row[2]),
        client.number(row[3]),
        None if row[4] is None else client.text(row[4]),
        None if row[5] is None else client.number(row[5]),
        tuple(client.text(row[6]).split()),
    )


def _show(transport: Transport, name: str) -> str | None:
    try:
        return client.show(transport, name)
    except ServerError as error:
        if error.sqlstate == client.UNDEFINED_OBJECT:
            return None
        raise
