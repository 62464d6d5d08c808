"""The seek table: what is written is read, and what does not add up is refused."""

import struct

import pytest

from pgbackup.errors import CorruptData
from pgbackup.stream.seekable import (
    FOOTER_SIZE,
    Frame,
    decode_seek_table,
    encode_seek_table,
    seek_table_size,
)

ENTRIES = [(300, 4096, 0x11223344), (17, 1, 0), (2000, 4096, 0xFFFFFFFF)]
STORED = bytes(sum(entry[0] for entry in ENTRIES))
TABLE = encode_seek_table(ENTRIES)
FILE = STORED + TABLE

HEADER = range(8)
ENTRY_BYTES = range(8, 8 + 12 * len(ENTRIES))
FOOTER = range(8 + 12 * len(ENTRIES), len(TABLE))


def read(file: bytes) -> tuple[Frame, ...]:
    """Find and read the seek table of a file, as every reader does."""
    size = seek_table_size(file[-FOOTER_SIZE:], "base.tar.zst")
    return decode_seek_table(file[-size:], len(file), "base.tar.zst")


def test_frames_are_read_as_they_were_written() -> None:
    assert read(FILE) == (
        Frame(0, 300, 0, 4096, 0x11223344),
        Frame(300, 17, 4096, 1, 0),
        Frame(317, 2000, 4097, 4096, 0xFFFFFFFF),
    )


def test_the_bytes_are_those_of_the_seekable_format() -> None:
    assert encode_seek_table([(10, 20, 30)]) == (
        struct.pack("<II", 0x184D2A5E, 12 + 9)
        + struct.pack("<III", 10, 20, 30)
        + struct.pack("<IBI", 1, 0x80, 0x8F92EAB1)
    )


def test_an_archive_without_frames_is_a_table_alone() -> None:
    assert read(encode_seek_table([])) == ()


def test_sizes_beyond_32_bits_in_sum_are_read() -> None:
    entries = [(0xFFFFFFFF, 0xFFFFFFFF, 0)] * 3
    table = encode_seek_table(entries)
    frames = decode_seek_table(table, 3 * 0xFFFFFFFF + len(table), "x")
    assert frames[2].stored_offset == frames[2].offset == 2 * 0xFFFFFFFF


@pytest.mark.parametrize("position", [*HEADER, *FOOTER])
def test_damage_of_header_or_footer_is_refused_or_changes_nothing(position: int) -> None:
    for damaged in damages(position):
        try:
            frames = read(STORED + damaged)
        except CorruptData:
            continue
        assert frames == read(FILE)
        assert position == len(TABLE) - 5, "only the descriptor has bits without a meaning"


@pytest.mark.parametrize("position", ENTRY_BYTES)
def test_damage_of_an_entry_is_refused_or_shows_when_its_frame_is_decoded(position: int) -> None:
    """A stored size has to add up; the others are compared with the frame."""
    is_stored_size = (position - 8) % 12 < 4
    number = (position - 8) // 12
    for damaged in damages(position):
        if is_stored_size:
            with pytest.raises(CorruptData, match="do not fill the file"):
                read(STORED + damaged)
            continue
        frame, expected = read(STORED + damaged)[number], read(FILE)[number]
        assert (frame.stored_offset, frame.stored_size) == (
            expected.stored_offset,
            expected.stored_size,
        )
        assert (frame.size, frame.checksum) != (expected.size, expected.checksum)


def damages(position: int) -> list[bytes]:
    """The table with each other value of one byte."""
    before, after = TABLE[:position], TABLE[position + 1 :]
    values = [value for value in range(256) if value != TABLE[position]]
    return [before + bytes([value]) + after for value in values]


def test_a_file_cut_anywhere_is_refused() -> None:
    for length in range(len(FILE)):
        with pytest.raises(CorruptData):
            read(FILE[:length])


def test_the_last_bytes_of_a_file_are_no_file() -> None:
    for length in range(len(FILE)):
        with pytest.raises(CorruptData):
            read(FILE[len(FILE) - length :])


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(FILE + b"\0", id="a-byte-behind"),
        pytest.param(FILE + TABLE, id="table-twice"),
        pytest.param(b"\0" + FILE, id="a-byte-in-front"),
        pytest.param(STORED[1:] + TABLE, id="a-byte-missing"),
        pytest.param(STORED, id="no-table"),
        pytest.param(TABLE[-9:], id="footer-alone"),
        pytest.param(TABLE[-40:], id="more-frames-than-file"),
    ],
)
def test_sizes_that_do_not_add_up_are_refused(file: bytes) -> None:
    with pytest.raises(CorruptData):
        read(file)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(TABLE[:7], id="part-of-the-header"),
        pytest.param(TABLE[:8] + TABLE[-9:], id="no-entries"),
        pytest.param(TABLE[1:], id="first-byte-missing"),
        pytest.param(TABLE[:-1], id="last-byte-missing"),
        pytest.param(TABLE + bytes(12), id="more-than-the-table"),
        pytest.param(TABLE[:20] + TABLE[21:], id="entry-of-eleven-bytes"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(table: bytes) -> None:
    with pytest.raises(CorruptData):
        decode_seek_table(table, len(STORED) + len(table), "x")


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [(0x00, "unknown kind"), (0x84, "unknown kind"), (0xC0, "unknown kind"), (0x04, "unknown")],
)
def test_a_kind_that_we_do_not_know_is_refused(descriptor: int, reason: str) -> None:
    footer = struct.pack("<IBI", 3, descriptor, 0x8F92EAB1)
    with pytest.raises(CorruptData, match=reason):
        seek_table_size(footer, "x")


def test_the_error_names_the_archive() -> None:
    with pytest.raises(CorruptData, match=r'could not read archive "base\.tar\.zst": it does not'):
        seek_table_size(bytes(9), "base.tar.zst")
