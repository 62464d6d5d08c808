"""The data directory in which the server runs the hooks: the current directory.

pg_control is rewritten while the server runs, so a reader that meets a wrong checksum reads again
before it believes in damage.
"""

# ruff: noqa: PTH116 - pathlib is slow to load

import os
import time
from typing import NamedTuple

from pgbackup.errors import CorruptData
from pgbackup.pg.control import FILE_SIZE, ControlFile
from pgbackup.storage.durable import storage_errors

CONTROL_FILE = "global/pg_control"
_ATTEMPTS = 5
_PAUSE = 0.02  # seconds


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
    for attempt in range(_ATTEMPTS):
        try:
            data = _read(CONTROL_FILE, FILE_SIZE)
            if data is None:
                return None
            control = ControlFile.parse(data)
        except CorruptData:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE)
        else:
            return ServerIdentity(control.system_identifier, _major(), control.wal_segment_size)
    raise AssertionError("unreachable")


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
    data = _read("PG_VERSION", 16)
    text = b"" if data is None else data.strip()
    return int(text) if text.isdigit() else None


def _read(path: str, size: int) -> bytes | None:
    with storage_errors("read file", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)
