"""A repository worth expiring; as a program, an expire that dies before its N-th unlink.

python -m tests.repo.retention.expiring REPO N
"""

import sys
from datetime import datetime, timedelta
from pathlib import Path

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.record import ArchiveRecord, ChecksumFailures, ObjectRecord, WalRange
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.repo.retention.expire import run_expire
from pgbackup.repo.retention.policy import Policy
from pgbackup.storage.api import Storage
from pgbackup.storage.local import LocalStorage
from tests.repo.samples import MIB, NOON, SYSTEM, record
from tests.restore.killed import KillingFileSystem

KEEP_ONE = Policy(keep_full=1)
SEGMENTS = 10
"""Segments from one backup to the next; the first is the backup's own."""


def segment(number: int, timeline: int = 1) -> Segment:
    return Segment(Timeline(timeline), number, MIB)


def day(number: int) -> datetime:
    return NOON + timedelta(days=number)


def label(number: int) -> str:
    return layout.format_label("full", day(number).replace(tzinfo=None))


def make_cluster(storage: Storage) -> ClusterRepository:
    """An empty cluster in a new repository."""
    cluster = Repository.open(storage, create=True).cluster(SYSTEM)
    cluster.bind(150000, MIB)
    return cluster


def add_backup(cluster: ClusterRepository, number: int, timeline: int = 1) -> str:
    """A backup of one segment, taken on a day, with the WAL up to the next."""
    first = segment(number * SEGMENTS, timeline)
    folder = layout.backup_folder(SYSTEM, label(number))
    for name in ("base.tar.zst", layout.MANIFEST):
        cluster.storage.create(folder + name, b"x" * 100)
    for at in range(SEGMENTS):
        name = segment(first.number + at, timeline).name
        stored = layout.segment_object(SYSTEM, name, compressed=at % 2 == 0)
        cluster.storage.create(stored, b"x" * 10)
    cluster.catalog.put(
        record(
            label(number),
            timeline=Timeline(timeline),
            stop_timeline=Timeline(timeline),
            start_lsn=first.start + 40,
            stop_lsn=Lsn(first.start + 300),
            start_time=day(number),
            stop_time=day(number) + timedelta(minutes=1),
            stored_size=100,
            archives=(ArchiveRecord(None, "base.tar.zst", 200, 100, "00000000"),),
            objects=(ObjectRecord(layout.MANIFEST, 100, "00000000"),),
            tablespaces=(),
            wal=(WalRange(timeline, first.name, first.name),),
            histories=(),
            checksum_failures=ChecksumFailures(),
        )
    )
    return label(number)


def main(repo: Path, number: int) -> None:
    storage = LocalStorage(repo, filesystem=KillingFileSystem("unlink", number))
    cluster = Repository.open(storage).cluster(SYSTEM)
    run_expire(cluster, KEEP_ONE, day(3))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
