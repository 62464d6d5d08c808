"""python -m tests.replication.killed DIRECTORY PROMISE WAL START: WAL comes into a directory.

WAL is a file with what follows the position START. What was promised to be durable is noted in the
file PROMISE. For tests that kill this run again and again, so it loads little.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.waldir import WalDirectory
from pgbackup.storage.durable import FileSystem

SYSTEM = 7412345678901234567
ONE = TimelineHistory(Timeline(1))
MIB = 1 << 20


def directory(path: Path, filesystem: FileSystem | None = None) -> WalDirectory:
    """A directory whose archived content is that of the plain files."""

    def archived(name: str) -> Iterator[bytes] | None:
        return iter([(path / name).read_bytes()]) if (path / name).exists() else None

    return WalDirectory(path, SYSTEM, MIB, archived=archived, filesystem=filesystem)


def main(path: Path, promise: Path, wal_file: Path, start: Lsn) -> None:
    with directory(path) as wal:
        position = wal.resume_position(ONE) or WalPosition(Timeline(1), start)
        wal.begin(position)
        left = memoryview(wal_file.read_bytes())[position.lsn - start :]
        while left:
            wal.write(wal.write_lsn, left[:100_001])
            left = left[100_001:]
            wal.flush()
            promise.write_text(str(int(wal.flush_lsn)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), Lsn(int(sys.argv[4])))
