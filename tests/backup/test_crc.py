"""Checksums of pieces join to the checksum of the whole."""

from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.backup.crc import join_crc32c


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_joined_checksums_are_the_checksum_of_both_pieces(first: bytes, second: bytes) -> None:
    assert join_crc32c(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)


def test_a_long_second_piece_is_joined_as_well() -> None:
    second = bytes(100_000_000)
    assert join_crc32c(crc32c(b"x"), crc32c(second), len(second)) == crc32c(b"x" + second)
