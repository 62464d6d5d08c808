"""CRC-32C against the check values of RFC 3720 and of the catalogue of CRCs."""

import pytest

from pgbackup.pg.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"15\n", 0x2247748A),
    ],
)
def test_known_values(data: bytes, value: int) -> None:
    assert crc32c(data) == value


@pytest.mark.parametrize("cut", range(10))
def test_value_can_be_computed_in_parts(cut: int) -> None:
    data = b"123456789"
    assert crc32c(memoryview(data)[cut:], crc32c(data[:cut])) == 0xE3069283
