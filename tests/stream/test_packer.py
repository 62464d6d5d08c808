"""The packer: everything arrives, and pages stay whole."""

import random

import pytest

from pgbackup.stream.packer import Packer
from pgbackup.stream.sink import LARGEST_ROOM, Fill
from tests.stream.checked_sink import CheckedSink, backup_state

PAGE = 8192


class Deferred:
    """Contents that are read later; notes the pieces."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.pieces: list[tuple[int, int]] = []

    def later(self, offset: int, length: int) -> Fill:
        self.pieces.append((offset, length))
        return lambda memory: memory.__setitem__(
            slice(None), self.content[offset : offset + length]
        )


def begun(*buffer_sizes: int) -> CheckedSink:
    end = CheckedSink(buffer_sizes)
    end.begin_backup(backup_state())
    end.begin_archive("base.tar")
    return end


@pytest.mark.parametrize("seed", range(6))
def test_everything_arrives_in_order(seed: int) -> None:
    chance = random.Random(seed)
    end = begun(*(chance.randint(512, 300_000) for _ in range(4)))
    packer = Packer(end)
    expected = b""
    for _ in range(60):
        content = chance.randbytes(chance.choice([0, 1, 512, 8192, 70_000, LARGEST_ROOM + 1]))
        expected += content
        match chance.randrange(3):
            case 0:
                packer.put(content)
            case 1 if len(content) <= LARGEST_ROOM:
                packer.room(len(content))[:] = content
            case _:
                packer.defer(len(content), PAGE, Deferred(content).later)
        if chance.random() < 0.1:
            packer.flush()
    packer.hand_on()
    end.end_archive()
    assert end.archives["base.tar"] == expected


@pytest.mark.parametrize("buffer_size", [512, 8191, 8192, 20_000, 100_000])
def test_no_page_is_cut_in_two(buffer_size: int) -> None:
    end = begun(buffer_size)
    packer = Packer(end)
    packer.put(b"h" * 512)
    deferred = Deferred(random.Random(1).randbytes(50 * PAGE + 100))
    packer.defer(len(deferred.content), PAGE, deferred.later)
    assert all(offset % PAGE == 0 for offset, _ in deferred.pieces)
    assert sum(length for _, length in deferred.pieces) == len(deferred.content)
    packer.hand_on()
    end.end_archive()
    assert end.archives["base.tar"] == b"h" * 512 + deferred.content


def test_small_things_share_a_buffer() -> None:
    end = begun(10_000)
    packer = Packer(end)
    for number in range(10):
        packer.put(b"%03d" % number * 300)
    packer.hand_on()
    assert end.calls.count("archive_contents") == 1
