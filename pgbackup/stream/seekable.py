"""The seek table at the end of a seekable zstd file: where each independent frame begins.

It sits in a skippable frame, so stock zstd passes over it. All integers are little-endian.
Source: zstd, contrib/seekable_format/zstd_seekable_compression_format.md.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pgbackup.errors import CorruptData

SKIPPABLE_MAGIC = 0x184D2A5E
SEEKABLE_MAGIC = 0x8F92EAB1
CHECKSUM_FLAG = 0x80
RESERVED_BITS = 0x7C

_HEADER = struct.Struct("<II")
_ENTRY = struct.Struct("<III")
_FOOTER = struct.Struct("<IBI")
FOOTER_SIZE = _FOOTER.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One independent frame.

    stored_offset, stored_size: bytes in the compressed file.
    offset, size:               bytes in the plain archive.
    checksum:                   low half of XXH64 of the plain bytes.
    """

    stored_offset: int
    stored_size: int
    offset: int
    size: int
    checksum: int


def encode_seek_table(entries: Sequence[tuple[int, int, int]]) -> bytes:
    """Build the skippable frame from (stored size, plain size, checksum) triples."""
    body = b"".join(_ENTRY.pack(*entry) for entry in entries)
    footer = _FOOTER.pack(len(entries), CHECKSUM_FLAG, SEEKABLE_MAGIC)
    return _HEADER.pack(SKIPPABLE_MAGIC, len(body) + len(footer)) + body + footer


def seek_table_size(footer: bytes, name: str) -> int:
    """How many bytes the whole skippable frame takes, told by the file's last FOOTER_SIZE bytes.

    Raises: CorruptData when these bytes do not end a seek table with checksums.
    """
    if len(footer) != FOOTER_SIZE:
        raise CorruptData(f'could not read archive "{name}": it is too short for a seek table')
    frames, descriptor, magic = _FOOTER.unpack(footer)
    if magic != SEEKABLE_MAGIC:
        raise CorruptData(f'could not read archive "{name}": it does not end in a seek table')
    if not descriptor & CHECKSUM_FLAG or descriptor & RESERVED_BITS:
        raise CorruptData(f'could not read archive "{name}": its seek table is of an unknown kind')
    return _HEADER.size + int(frames) * _ENTRY.size + FOOTER_SIZE


def decode_seek_table(table: bytes, file_size: int, name: str) -> tuple[Frame, ...]:
    """Read the whole skippable frame of a file of `file_size` bytes.

    Raises: CorruptData when lengths do not add up to the file, so that no byte of it lies
    outside a known frame.
    """
    if len(table) != seek_table_size(table[-FOOTER_SIZE:], name):
        raise CorruptData(f'could not read archive "{name}": its seek table is not whole')
    magic, length = _HEADER.unpack_from(table)
    if magic != SKIPPABLE_MAGIC or length != len(table) - _HEADER.size:
        raise CorruptData(f'could not read archive "{name}": its seek table is damaged')
    entries = list(_ENTRY.iter_unpack(table[_HEADER.size : -FOOTER_SIZE]))
    stored_ends = list(accumulate(entry[0] for entry in entries))
    plain_ends = list(accumulate(entry[1] for entry in entries))
    if (stored_ends[-1] if entries else 0) + len(table) != file_size:
        raise CorruptData(f'could not read archive "{name}": its frames do not fill the file')
    return tuple(
        Frame(stored_end - stored, stored, plain_end - plain, plain, checksum)
        for (stored, plain, checksum), stored_end, plain_end in zip(
            entries, stored_ends, plain_ends, strict=True
        )
    )
