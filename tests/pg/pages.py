"""Pages for tests, and their checksum as PostgreSQL's source describes it, word by word."""

import random
import struct

PAGE_SIZE = 8192
LAST_LSN = 2**64 - 1
PRIME = 16777619
BASES = bytes.fromhex(
    "5b1f36e9b852596002ab50aa1de66d2a79ff467a9bb9f8a3217e7cd283e13d2c"
    "f8d4474fe39eb97042c6ae16993216fa7b093b5d98daff3cf718902a0b1c9cdb"
    "e58f764b187636bc5d7b3bb1e73de7de92bec979cca6c0b2304a097985aa43d4"
    "783125bb6ca8eaa2e407eac64b5cfc3e9fbf8c7615ca20bef2ca9fd3959bd756"
)


def checksum(page: bytes, block: int) -> int:
    """The checksum of a page. Source: checksum_impl.h, pg_checksum_page (PostgreSQL 18)"""
    words = struct.unpack("<2048I", page[:8] + bytes(2) + page[10:])
    sums = list(struct.unpack(">32I", BASES))
    for row in [words[start : start + 32] for start in range(0, 2048, 32)] + [(0,) * 32] * 2:
        for column, word in enumerate(row):
            mixed = sums[column] ^ word
            sums[column] = mixed * PRIME % 2**32 ^ mixed >> 17
    result = block
    for each in sums:
        result ^= each
    return result % 65535 + 1


def good_page(block: int, lsn: int = 1, *, seed: int = 0) -> bytes:
    """A page of random content with the right checksum."""
    content = random.Random(f"{block} {seed}").randbytes(PAGE_SIZE - 24)
    page = header(lsn, upper=8000) + content
    return page[:8] + struct.pack("<H", checksum(page, block)) + page[10:]


def header(lsn: int, upper: int) -> bytes:
    """The first bytes of a page, with the checksum 0."""
    return struct.pack("<IIHHHHHHI", lsn >> 32, lsn % 2**32, 0, 0, 400, upper, 8192, 0x2004, 0)


def damaged(page: bytes, position: int = 5000) -> bytes:
    """The page with one bit changed."""
    return page[:position] + bytes([page[position] ^ 0x10]) + page[position + 1 :]
