"""WAL that only a backup has is sent up to where the backup ends, and counts as there."""

import pytest

from pgbackup.backup.stored import StoredBackup
from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.wal.tailwal import tail_of
from pgbackup.serve.wal.walsource import WalSource
from pgbackup.storage.memory import MemoryStorage
from tests.backup.sample import LABEL, Sample, rewrite, sample
from tests.repo.samples import SYSTEM


def made_with_tail() -> tuple[Sample, bytes]:
    """A backup whose last segment is beside it, and what is there of that."""
    made = sample()
    (last, data), *_ = reversed(made.segments.items())
    del made.segments[last]
    rest = data[: made.stop - last.start]
    made.tail = (f"{last.name}.partial", rest)
    return made, rest


def source(cluster: ClusterRepository) -> WalSource:
    backup = StoredBackup(cluster.storage, cluster.catalog.get(LABEL))
    return WalSource(cluster, tail=tail_of(backup))


def test_it_ends_with_the_backup() -> None:
    made, rest = made_with_tail()
    wal = source(made.put(MemoryStorage()))
    assert wal.flushed == made.stop
    start = Lsn(made.stop - len(rest))
    for position in (start, Lsn(start + 100)):
        extent = wal.find(position)
        assert extent is not None
        assert extent.end == made.stop
        assert b"".join(wal.contents(extent, position)) == rest[position - start :]
    assert wal.find(made.stop) is None


def test_the_archive_comes_first() -> None:
    whole = sample()
    last = [*whole.segments][-1]
    made, _ = made_with_tail()
    cluster = made.put(MemoryStorage())
    with cluster.archive.segment_writer(last, 1) as writer:
        writer.write(whole.segments[last])
        writer.commit()
    wal = source(cluster)
    assert wal.flushed == last.end
    extent = wal.find(last.start)
    assert extent is not None
    assert extent.end == last.end
    assert b"".join(wal.contents(extent, last.start)) == whole.segments[last]


def test_a_damaged_one_is_not_sent_to_its_end() -> None:
    made, rest = made_with_tail()
    storage = MemoryStorage()
    cluster = made.put(storage)
    assert made.tail is not None
    name = layout.backup_folder(SYSTEM, LABEL) + made.tail[0]
    rewrite(storage, name, rest[:-1] + bytes([rest[-1] ^ 1]))
    wal = source(cluster)
    start = Lsn(made.stop - len(rest))
    extent = wal.find(start)
    assert extent is not None
    with pytest.raises(CorruptData):
        list(wal.contents(extent, start))


def test_a_backup_whose_wal_is_archived_has_none() -> None:
    cluster = sample().put(MemoryStorage())
    assert tail_of(StoredBackup(cluster.storage, cluster.catalog.get(LABEL))) is None
