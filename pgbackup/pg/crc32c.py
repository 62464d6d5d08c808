"""CRC-32C in plain Python, for structures of a few hundred bytes.

It manages some 10 MB a second, which is enough for a control file or a record header and lets this
package do without anything but the standard library. File contents are checksummed elsewhere.
"""

from typing import Final

_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli, reflected


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE: Final = _table()


def crc32c(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """The CRC-32C of `data`, or of what had the CRC `value` followed by `data`.

    Source: pg_crc32c_sb8.c (PostgreSQL 18)
    """
    crc = value ^ 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
