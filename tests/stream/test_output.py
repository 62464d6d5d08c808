"""The end that writes to a file descriptor."""

import os
import threading
from pathlib import Path

import pytest

from pgbackup.stream.output import Output
from pgbackup.stream.sink import LARGEST_ROOM
from tests.stream.checked_sink import STOP, send
from tests.waiting import PATIENCE

CONTENT = bytes(range(256)) * 20_000


def test_everything_is_written_and_the_descriptor_stays_open(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        output = Output(file.fileno())
        send(output, {"base.tar": CONTENT}, pieces=[3000])
        file.write(b"more")
    assert (tmp_path / "out").read_bytes() == CONTENT + b"more"
    assert output.size == len(CONTENT)


def test_a_slow_reader_gets_everything_in_order() -> None:
    """A pipe takes less than a buffer at a time."""
    reader, writer = os.pipe()
    received = bytearray()

    def read() -> None:
        while data := os.read(reader, 10_000):
            received.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    send(Output(writer), {"base.tar": CONTENT})
    os.close(writer)
    thread.join(PATIENCE)
    os.close(reader)
    assert received == CONTENT


@pytest.mark.parametrize("length", [1, len(CONTENT)], ids=["noticed-at-the-end", "in-the-middle"])
def test_a_reader_that_has_gone_is_an_error(length: int) -> None:
    threads = threading.active_count()
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        send(Output(writer), {"base.tar": CONTENT[:length]})
    os.close(writer)
    assert threading.active_count() == threads


def test_an_empty_archive_is_nothing(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        send(Output(file.fileno()), {"base.tar": b""})
    assert (tmp_path / "out").read_bytes() == b""


def test_there_is_room_for_deferred_contents(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        output = Output(file.fileno())
        output.begin_archive("base.tar")
        filled = len(output.buffer) - 100
        output.buffer[:filled] = b"x" * filled
        output.archive_contents(filled)
        output.flush()
        assert len(output.buffer) >= LARGEST_ROOM
        output.archive_later(101, lambda memory: memory.__setitem__(slice(None), b"y" * 101))
        output.end_archive()
        output.end_backup(STOP)
        output.cleanup()
    assert (tmp_path / "out").read_bytes() == b"x" * filled + b"y" * 101
