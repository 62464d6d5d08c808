"""Reads pg_control of a data directory, whose server may be writing it at the same time.

The server rewrites the file while it runs, so a reader that meets a wrong checksum reads again
before it believes in damage. The WAL hooks run this: what is slow to load is not loaded.
"""

import os
import time
from typing import NamedTuple

from pgbackup.errors import CorruptData
from pgbackup.pg.control import FILE_SIZE, ControlFile

CONTROL_FILE = "global/pg_control"
_ATTEMPTS = 10
_PAUSE = 0.02  # seconds


class ControlData(NamedTuple):
    """One reading of the file: its bytes, and what they say."""

    content: bytes
    values: ControlFile


def read_control(data_directory: str = ".") -> ControlData:
    """Read the file until its checksum matches. Raises: OSError, CorruptData.

    Source: controldata_utils.c, get_controlfile_by_exact_path (PostgreSQL 18)
    """
    path = f"{data_directory}/{CONTROL_FILE}"
    for _ in range(_ATTEMPTS - 1):
        content = read_beginning(path, FILE_SIZE)
        try:
            return ControlData(content, ControlFile.parse(content))
        except CorruptData:
            time.sleep(_PAUSE)
    content = read_beginning(path, FILE_SIZE)
    return ControlData(content, ControlFile.parse(content))


def read_beginning(path: str, size: int) -> bytes:
    """The first bytes of a file. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)
