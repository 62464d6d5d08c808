"""WAL inside a backup that is one stream: whole segments, of files that keep their names."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.basebackup import ReadOptions
from pgbackup.errors import WalGap
from pgbackup.pg.lsn import Segment
from pgbackup.stream.sink import Sink
from tests.backup.pgdata.pgdata import make_pgdata
from tests.backup.pgdata.test_basebackup import START, STOP, Taken

MIB = 1 << 20  # of a segment of the control file of 13
SEGMENT = Segment.containing(STOP.timeline, STOP.lsn, MIB)
CONTENT = random.Random(5).randbytes(MIB)


@pytest.fixture
def pgdata(tmp_path: Path) -> Path:
    return make_pgdata(tmp_path / "data", 13, {f"pg_wal/{SEGMENT}": CONTENT})


class Meanwhile(Sink):
    """Has something happen once, when the segment has begun to flow past."""

    def __init__(self, successor: Sink, happens: Callable[[], object]) -> None:
        super().__init__(successor)
        self._happens = happens
        self._has_happened = False

    def archive_contents(self, length: int) -> None:
        if not self._has_happened and CONTENT[:1024] in bytes(self.buffer[:length]):
            self._has_happened = True
            self._happens()
        self.successor.archive_contents(length)


def take(pgdata: Path, happens: Callable[[], object] = lambda: None) -> Taken:
    return Taken(pgdata, ReadOptions(wal=True), wrap=lambda sink: Meanwhile(sink, happens))


def test_the_segments_of_the_backup_are_in_its_last_archive(pgdata: Path) -> None:
    assert Segment.containing(START.timeline, START.lsn, MIB) == SEGMENT
    taken = take(pgdata)
    assert taken.base.contents[f"pg_wal/{SEGMENT}"] == CONTENT
    assert taken.base.contents[f"pg_wal/archive_status/{SEGMENT}.done"] == b""


def test_a_segment_that_is_given_to_later_wal_while_it_is_read_fails_the_backup(
    pgdata: Path,
) -> None:
    path = pgdata / "pg_wal" / str(SEGMENT)
    later = path.with_name("000000010000000000000099")
    with pytest.raises(WalGap, match=str(SEGMENT)):
        take(pgdata, lambda: path.rename(later))


def test_a_segment_that_is_removed_while_it_is_read_fails_the_backup(pgdata: Path) -> None:
    with pytest.raises(WalGap, match=str(SEGMENT)):
        take(pgdata, (pgdata / "pg_wal" / str(SEGMENT)).unlink)


def test_a_segment_that_is_not_whole_fails_the_backup(pgdata: Path) -> None:
    (pgdata / "pg_wal" / str(SEGMENT)).write_bytes(CONTENT[:-1])
    with pytest.raises(WalGap, match="too short"):
        take(pgdata)


def test_a_segment_that_is_gone_fails_the_backup(pgdata: Path) -> None:
    (pgdata / "pg_wal" / str(SEGMENT)).unlink()
    with pytest.raises(WalGap, match=str(SEGMENT)):
        take(pgdata)
