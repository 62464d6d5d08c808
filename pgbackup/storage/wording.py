"""What the drivers say when they refuse, in one wording; errors of the system are in durable."""

import os
import time
from collections.abc import Mapping

from pgbackup.errors import Conflict, CorruptData, Locked, NotFound


def not_found(name: str) -> NotFound:
    """The error for an object that is not there."""
    return NotFound(f'could not find object "{name}": there is no such object')


def name_taken(name: str) -> Conflict:
    """The error for a new object whose name is bound already."""
    return Conflict(f'could not write object "{name}": it already exists')


def truncated(name: str, size: int, wanted: int) -> CorruptData:
    """The error for an object that ends before the bytes that were asked for."""
    return CorruptData(
        f'could not read object "{name}": it is truncated',
        detail=f"It has {size} bytes; {wanted} were expected.",
    )


def lock_record(owner: Mapping[str, str] | None) -> dict[str, str]:
    """What the holder of a lock leaves for those who find it taken."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record = {"host": os.uname().nodename, "pid": str(os.getpid()), "since": since}
    return record | dict(owner or {})


def held(name: str, record: Mapping[str, str]) -> Locked:
    """The error for a lock that is taken.

    record: as the holder left it; it may be incomplete.
    """
    pid, host = record.get("pid"), record.get("host")
    who = f"process {pid} on {host}" if pid and host else "another process"
    doing = f" ({record['command']})" if "command" in record else ""
    since = f" since {record['since']}" if "since" in record else ""
    look = f'look at it with "ps -p {pid}" on {host}' if pid and host else "try again"
    return Locked(
        f'could not lock "{name}": {who}{doing} has held it{since}',
        hint=f"Wait until it has ended, or {look}.",
    )
