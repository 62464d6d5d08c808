"""Positions that another process reads while they are written."""

import subprocess
import sys
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.published import (
    FILE_SIZE,
    PositionsReader,
    PositionsWriter,
    now,
    read_positions,
)

SYSTEM = 2**64 - 1
ROOT = Path(__file__).resolve().parents[2]


def test_what_is_published_is_read(tmp_path: Path) -> None:
    before = now()
    writer = PositionsWriter(tmp_path / "positions", SYSTEM)
    writer.publish(WalPosition(Timeline(3), Lsn(2**64 - 1)), Lsn(77), Lsn(5))
    found = read_positions(tmp_path / "positions")
    writer.close()
    assert found is not None
    assert found[0] == SYSTEM
    assert found[2:6] == (3, 2**64 - 1, 77, 5)
    assert before <= found.started <= found.updated <= now()
    assert (tmp_path / "positions").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["positions"]


def test_where_it_began_and_when_the_server_moved_are_published(tmp_path: Path) -> None:
    writer = PositionsWriter(tmp_path / "positions", 1)
    writer.publish(WalPosition(Timeline(3), Lsn(10)), Lsn(10), Lsn(20))
    first = read_positions(tmp_path / "positions")
    writer.publish(WalPosition(Timeline(4), Lsn(15)), Lsn(15), Lsn(20), is_streaming=False)
    second = read_positions(tmp_path / "positions")
    writer.close()
    assert first is not None
    assert second is not None
    assert (first.start_timeline, first.start, first.is_streaming) == (3, 10, True)
    assert (second.start_timeline, second.start, second.is_streaming) == (3, 10, False)
    assert first.server_end_time == second.server_end_time == first.updated


def test_a_flush_position_never_runs_ahead(tmp_path: Path) -> None:
    writer = PositionsWriter(tmp_path / "positions", 1)
    writer.publish(WalPosition(Timeline(1), Lsn(10)), Lsn(11), Lsn(0))
    found = read_positions(tmp_path / "positions")
    writer.close()
    assert found is not None
    assert found.flushed == found.written == 10


def test_nothing_was_published_yet(tmp_path: Path) -> None:
    assert read_positions(tmp_path / "positions") is None
    PositionsWriter(tmp_path / "positions", 1).close()
    assert read_positions(tmp_path / "positions") is None


def test_a_new_receiver_begins_anew_and_readers_of_the_old_file_keep_it(tmp_path: Path) -> None:
    old = PositionsWriter(tmp_path / "positions", 1)
    old.publish(WalPosition(Timeline(1), Lsn(10)), Lsn(10), Lsn(10))
    new = PositionsWriter(tmp_path / "positions", 1)
    old.publish(WalPosition(Timeline(1), Lsn(11)), Lsn(11), Lsn(11))
    assert read_positions(tmp_path / "positions") is None
    old.close()
    new.close()


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff" * FILE_SIZE, b"pgbrcv02" + b"\1" * FILE_SIZE]
)
def test_a_damaged_file_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "positions").write_bytes(content)
    with pytest.raises(CorruptData, match="could not read positions"):
        read_positions(tmp_path / "positions")


def test_every_reading_is_of_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "positions"
    script = (
        "import sys\n"
        "from pgbackup.pg.lsn import Lsn, Timeline, WalPosition\n"
        "from pgbackup.replication.published import PositionsWriter\n"
        "writer = PositionsWriter(sys.argv[1], 1)\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    writer.publish(WalPosition(Timeline(n), Lsn(n * 2**20)), Lsn(n * 2**20), Lsn(n))\n"
        "    if n == 1: print(flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            seen = set()
            for _ in range(20_000):
                found = read_positions(path)
                assert found is not None
                number = int(found.timeline)
                assert found[3:6] == (number << 20, number << 20, number)
                seen.add(number)
        finally:
            process.kill()
    assert len(seen) > 100
    assert read_positions(path) is not None, "a writer that was killed leaves its last word"


def test_a_reader_that_stays_sees_moves_and_the_next_receiver(tmp_path: Path) -> None:
    path = tmp_path / "positions"
    reader = PositionsReader(path)
    assert reader.read() is None
    assert not reader.has_moved()
    for flushed in (Lsn(5), Lsn(2)):
        writer = PositionsWriter(path, 7)
        assert reader.read() is None
        for more in (0, 1):
            position = Lsn(flushed + more)
            writer.publish(WalPosition(Timeline(1), position), position, position)
            assert reader.has_moved()
            found = reader.read()
            assert found is not None
            assert found.flushed == position
            assert not reader.has_moved()
        writer.close()
    path.unlink()
    assert reader.read() is None
    path.write_bytes(b"short")
    with pytest.raises(CorruptData):
        reader.read()
