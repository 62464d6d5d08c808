"""Page checksums in plain Python, many pages at a time.

The checksum runs a hash over each of 32 columns of a page's 32-bit words. Long integers serve as
vectors: one holds a row of words of many pages. The words in even and in odd columns go to vectors
of their own, each word with 32 zero bits above it, which leave room for a product; so an operation
of the interpreter does one step for hundreds of columns.

Source: checksum_impl.h, pg_checksum_block (PostgreSQL 18)
"""

import struct
from collections.abc import Sequence
from typing import Final

_PAGE_SIZE: Final = 8192
_ROW_SIZE: Final = 128  # bytes: 32 columns
_ROWS: Final = _PAGE_SIZE // _ROW_SIZE
_PRIME: Final = 16777619
_BASES: Final = (
    *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2),
    *(0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C),
    *(0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979),
    *(0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E),
    *(0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
)

_BATCH: Final = 64
"""Pages at a time. Fewer cost more time for each; more are no gain."""


def _repeated(row: bytes) -> int:
    return int.from_bytes(row * _BATCH, "little")


_WORDS: Final = _repeated(struct.pack("<Q", 0xFFFFFFFF) * (_ROW_SIZE // 8))
_START: Final = _repeated(struct.pack("<32I", *_BASES))
_CHECKSUMS: Final = _repeated(bytes(8) + b"\xff\xff" + bytes(_ROW_SIZE - 10))
_HEADER: Final = struct.Struct("<IIHHHH")  # LSN, checksum, flags, lower, upper
_SPLIT: Final = struct.Struct(f"{_ROW_SIZE}s" * _ROWS)
_FIRST_WORDS: Final = struct.Struct(f"<I{_ROW_SIZE - 4}x")
_HALVINGS: Final = (512, 256, 128, 64)  # bits: half of 16 columns, half of 8, ...


def failing_pages(
    pages: memoryview, first_block: int, start_lsn: int, /
) -> list[tuple[int, int, int]]:
    """Check consecutive pages.

    Returns: for each that fails its number in `pages`, the calculated and the expected checksum.
    """
    chosen = []
    for offset in range(0, len(pages), _PAGE_SIZE):
        high, low, expected, _, _, upper = _HEADER.unpack_from(pages, offset)
        if upper and high << 32 | low < start_lsn:
            chosen.append((offset, expected))
    failing = []
    for first in range(0, len(chosen), _BATCH):
        batch = chosen[first : first + _BATCH]
        columns = _column_sums(pages, [offset for offset, _ in batch])
        for (offset, expected), sums in zip(batch, columns, strict=True):
            number = offset // _PAGE_SIZE
            block = (first_block + number) & 0xFFFFFFFF  # as the server's, it has 32 bits
            calculated = (sums ^ block) % 65535 + 1
            if calculated != expected:
                failing.append((number, calculated, expected))
    return failing


def _column_sums(pages: memoryview, offsets: Sequence[int]) -> list[int]:
    """The hashes of all columns of a page, joined; for each of the pages at these offsets.

    Above each word of a vector there may be rubbish of the step before, until it is masked.
    """
    parts = [_SPLIT.unpack_from(pages, offset) for offset in offsets]
    rows = [int.from_bytes(b"".join(row), "little") for row in zip(*parts, strict=True)]
    size = len(offsets) * _ROW_SIZE
    # A checksum does not count: what the start has of it the first row takes out.
    start = (_START & (1 << 8 * size) - 1) ^ rows[0] & _CHECKSUMS
    even, odd = start & _WORDS, start >> 32 & _WORDS
    for row in (*rows, 0, 0):
        even = (even ^ row) & _WORDS
        odd = (odd ^ row >> 32) & _WORDS
        even = even * _PRIME ^ even >> 17
        odd = odd * _PRIME ^ odd >> 17
    sums = (even ^ odd) & _WORDS
    for distance in _HALVINGS:
        sums ^= sums >> distance
    return [word for (word,) in _FIRST_WORDS.iter_unpack(sums.to_bytes(size, "little"))]
