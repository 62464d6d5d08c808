"""The data directory in which the server runs the hooks: the current directory."""

# ruff: noqa: PTH116 - pathlib is slow to load

import os
from typing import NamedTuple

from pgbackup.backup.controlfile import CONTROL_FILE, read_beginning, read_control
from pgbackup.storage.durable import storage_errors


class ServerIdentity(NamedTuple):
    """What the data directory says of its cluster.

    major:            of the server, 15; None if PG_VERSION cannot be read.
    wal_segment_size: bytes.
    """

    system_identifier: int
    major: int | None
    wal_segment_size: int


def read_identity() -> ServerIdentity | None:
    """Read whose data directory the current directory is; None if it is none.

    Raises: CorruptData, StorageError.
    """
    with storage_errors("read file", CONTROL_FILE):
        try:
            control = read_control().values
        except (FileNotFoundError, NotADirectoryError):
            return None
    return ServerIdentity(control.system_identifier, _major(), control.wal_segment_size)


def is_standby() -> bool:
    """Tell whether the server will ask again: it is in standby mode.

    Whatever keeps us from finding out means no: then recovery stops rather than ends.
    """
    try:
        os.stat("standby.signal")
    except OSError:
        return False
    return True


def _major() -> int | None:
    with storage_errors("read file", "PG_VERSION"):
        try:
            text = read_beginning("PG_VERSION", 16).strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return int(text) if text.isdigit() else None
