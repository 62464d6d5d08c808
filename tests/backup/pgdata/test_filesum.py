"""Checksums of files from pieces that come in any order, on several threads."""

import hashlib
import random
import threading
from itertools import pairwise

import pytest
from crc32c import crc32c

from pgbackup.backup.pgdata.filesum import new_sum
from pgbackup.backup.pgdata.outstanding import Outstanding
from pgbackup.errors import PgbackupError
from tests.waiting import PATIENCE

CONTENT = random.Random(3).randbytes(100_000)
CUTS = [0, 1, 4096, 4097, 50_000, 99_999, 100_000]


def pieces() -> list[tuple[int, memoryview]]:
    return [(start, memoryview(CONTENT)[start:end]) for start, end in pairwise(CUTS)]


@pytest.mark.parametrize("seed", range(4))
def test_crc32c_is_joined_from_pieces_in_any_order(seed: int) -> None:
    shuffled = pieces()
    random.Random(seed).shuffle(shuffled)
    total = new_sum("CRC32C", Outstanding())
    for offset, data in shuffled:
        total.add(offset, data)
    assert total.digest() == crc32c(CONTENT).to_bytes(4, "little")


def test_crc32c_of_nothing_is_zero() -> None:
    assert new_sum("CRC32C", Outstanding()).digest() == bytes(4)


@pytest.mark.parametrize("algorithm", ["SHA224", "SHA256", "SHA384", "SHA512"])
def test_pieces_of_a_digest_wait_for_the_one_before(algorithm: str) -> None:
    outstanding = Outstanding()
    total = new_sum(algorithm, outstanding)

    def add(offset: int, data: memoryview) -> None:
        total.add(offset, data)
        outstanding.end()

    threads = []
    for offset, data in reversed(pieces()):
        outstanding.begin()
        threads.append(threading.Thread(target=add, args=(offset, data)))
        threads[-1].start()
    for thread in threads:
        thread.join(PATIENCE)
    assert total.digest() == hashlib.new(algorithm, CONTENT).digest()
    outstanding.wait_for_all()


def test_nobody_waits_for_a_piece_that_cannot_be_read() -> None:
    outstanding = Outstanding()
    total = new_sum("SHA256", outstanding)
    errors: list[PgbackupError] = []

    def add() -> None:
        try:
            total.add(1, memoryview(b"x"))
        except PgbackupError as error:
            errors.append(error)

    thread = threading.Thread(target=add)
    thread.start()
    outstanding.give_up()
    thread.join(PATIENCE)
    assert len(errors) == 1
    with pytest.raises(PgbackupError):
        outstanding.wait_for_all()


def test_no_checksum_is_empty() -> None:
    total = new_sum("NONE", Outstanding())
    total.add(0, memoryview(CONTENT))
    assert total.digest() == b""
