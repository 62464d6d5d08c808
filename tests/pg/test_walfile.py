"""Page headers of all supported servers, and files that are not what their names say."""

import lzma
import struct
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, WrongSystem
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.pg.walfile import (
    FIRST_IS_CONTRECORD,
    LONG_HEADER,
    LONG_HEADER_SIZE,
    PAGE_MAGIC,
    LongHeader,
    PageCheck,
    check_pages,
    check_segment_header,
)

MIB = 1 << 20
PAGE = 8192
SYSTEM = 7711032448206929256
SEGMENT = Segment(Timeline(3), 5, MIB)

# Archived by PostgreSQL 15.18: two pages in use, a switch in the second.
REAL_NAME = "00000001000000000000000C"
REAL = lzma.decompress((Path(__file__).parent / "data" / f"wal_15_{REAL_NAME}.xz").read_bytes())


def pages(segment: Segment, timelines: list[int] | None = None) -> bytearray:
    """A segment with nothing but page headers, of the given timelines from page to page."""
    data = bytearray(segment.size)
    for number, at in enumerate(range(0, segment.size, PAGE)):
        timeline = timelines[number] if timelines else segment.timeline
        info = 0 if at else LONG_HEADER
        struct.pack_into("<HHIQ", data, at, PAGE_MAGIC[15], info, timeline, segment.start + at)
    struct.pack_into("<QII", data, 24, SYSTEM, segment.size, PAGE)
    return data


def changed(offset: int, kind: str, value: int) -> bytes:
    data = pages(SEGMENT)
    struct.pack_into(f"<{kind}", data, offset, value)
    return bytes(data)


# The first 40 bytes of a segment of each server.
@pytest.mark.parametrize(
    ("major", "header", "expected"),
    [
        (
            13,
            "06d1020001000000000070000000000000000000000000001e585f4e2b3d036b0000100000200000",
            (LONG_HEADER, "0/700000", 0, 7711074243196180510),
        ),
        (
            14,
            "0dd102000100000000008000000000000000000000000000763842962c3d036b0000100000200000",
            (LONG_HEADER, "0/800000", 0, 7711074248697198710),
        ),
        (
            15,
            "10d102000100000000007000000000000000000000000000c528f61d2e3d036b0000100000200000",
            (LONG_HEADER, "0/700000", 0, 7711074255268882629),
        ),
        (
            16,
            "13d1070001000000000050000000000038000000000000000c898f572f3d036b0000100000200000",
            (7, "0/500000", 56, 7711074260530202892),
        ),
        (
            17,
            "16d1070001000000000050000000000040000000000000004619f342303d036b0000100000200000",
            (7, "0/500000", 64, 7711074264479373638),
        ),
        (
            18,
            "18d10700010000000000800000000000f10700000000000095f9245e313d036b0000100000200000",
            (7, "0/800000", 2033, 7711074269230594453),
        ),
    ],
)
def test_first_header_of_every_server_is_understood(
    major: int, header: str, expected: tuple[int, str, int, int]
) -> None:
    info, address, remaining, identifier = expected
    parsed = LongHeader.parse(bytes.fromhex(header))
    assert parsed == LongHeader(
        PAGE_MAGIC[major], info, Timeline(1), Lsn.parse(address), remaining, identifier, MIB, PAGE
    )
    assert parsed.server_major == major


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "0 bytes are too few", id="empty"),
        pytest.param(REAL[: LONG_HEADER_SIZE - 1], "39 bytes are too few", id="short"),
        pytest.param(bytes(PAGE), "it is empty", id="zeros"),
        pytest.param(b"\xd1\x10" + REAL[2:40], "big-endian machine", id="big-endian"),
        pytest.param(b"\x01\xd1" + REAL[2:40], "D101 is of no known version", id="version 12"),
        pytest.param(b"\x1d\xd1" + REAL[2:40], "D11D is of no known version", id="version 19"),
        pytest.param(changed(2, "H", 0), "flags 0x0000", id="short header"),
        pytest.param(changed(2, "H", 0x12), "flags 0x0012", id="unknown flag"),
        pytest.param(changed(4, "I", 0), "could not use timeline", id="timeline zero"),
        pytest.param(changed(32, "I", 3 * MIB), "segment size 3145728", id="segment size"),
        pytest.param(changed(36, "I", 8191), "page size 8191", id="page size"),
        pytest.param(changed(36, "I", 0), "page size 0", id="page size zero"),
    ],
)
def test_impossible_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptData, match=reason):
        LongHeader.parse(data)


def test_header_of_the_named_segment_is_accepted() -> None:
    header = check_segment_header(REAL[:40], Segment.parse(REAL_NAME, MIB), 7711079303358594622)
    assert header.address == Lsn.parse("0/C00000")


def test_copy_of_a_segment_on_a_newer_timeline_is_accepted() -> None:
    data = pages(SEGMENT, [1] * 128)
    assert check_segment_header(data, SEGMENT, SYSTEM).timeline == 1


@pytest.mark.parametrize(
    ("segment", "system_identifier", "error", "reason"),
    [
        (SEGMENT, SYSTEM + 1, WrongSystem, f"it is of system {SYSTEM}, not {SYSTEM + 1}"),
        (Segment(Timeline(3), 5, 16 * MIB), SYSTEM, WrongSystem, "1048576 bytes, not 16777216"),
        (SEGMENT.next(), SYSTEM, CorruptData, "it begins at 0/500000, not 0/600000"),
        (Segment(Timeline(2), 5, MIB), SYSTEM, CorruptData, "it was written on timeline 3"),
    ],
    ids=["system", "segment size", "position", "timeline"],
)
def test_file_that_is_not_the_named_segment_is_refused(
    segment: Segment, system_identifier: int, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=f'could not use WAL segment "{segment}": .*{reason}'):
        check_segment_header(pages(SEGMENT), segment, system_identifier)


def test_pages_of_an_archived_segment_end_at_the_switch() -> None:
    segment = Segment.parse(REAL_NAME, MIB)
    assert check_pages(REAL, segment, 7711079303358594622) == Lsn.parse("0/C04000")


@pytest.mark.parametrize("size", [MIB, 4 * MIB])
def test_pages_of_a_full_segment_end_with_it(size: int) -> None:
    segment = Segment(Timeline(0x10), 2**32 // size, size)
    assert check_pages(memoryview(pages(segment)), segment, SYSTEM) == segment.end


def test_timeline_may_rise_within_a_segment() -> None:
    data = pages(SEGMENT, [1] * 10 + [2] * 10 + [3] * 108)
    assert check_pages(data, SEGMENT, SYSTEM) == SEGMENT.end


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(REAL[:-1], "it has 1048575 bytes, not 1048576", id="short"),
        pytest.param(REAL + b"\0", "it has 1048577 bytes, not 1048576", id="long"),
        pytest.param(bytes(MIB), "it is empty", id="zeros"),
        pytest.param(changed(3 * PAGE, "H", 0xD10D), "0/506000 has magic number D10D", id="magic"),
        pytest.param(changed(3 * PAGE + 2, "H", 2), "0/506000 has flags 0x0002", id="long header"),
        pytest.param(changed(3 * PAGE + 2, "H", 64), "0/506000 has flags 0x0040", id="flag"),
        pytest.param(
            changed(3 * PAGE + 8, "Q", 0x206000), "0/506000 says that it is at 0/206000", id="old"
        ),
        pytest.param(changed(3 * PAGE + 4, "I", 4), "written on timeline 4", id="newer timeline"),
        pytest.param(changed(3 * PAGE + 4, "I", 2), "written on timeline 2", id="older timeline"),
        pytest.param(changed(3 * PAGE + 4, "I", 0), "written on timeline 0", id="no timeline"),
        pytest.param(
            bytes(pages(SEGMENT)[: 3 * PAGE]) + bytes(16) + bytes(pages(SEGMENT)[3 * PAGE + 16 :]),
            "bytes that are not zero follow 0/506000",
            id="hole",
        ),
        pytest.param(
            bytes(pages(SEGMENT)[:PAGE]).ljust(MIB - 1, b"\0") + b"x",
            "bytes that are not zero follow 0/502000",
            id="last byte",
        ),
    ],
)
def test_damaged_pages_are_noticed(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptData, match=reason):
        check_pages(data, SEGMENT, SYSTEM)


def in_pieces(data: bytes, segment: Segment, system: int, size: int) -> PageCheck:
    check = PageCheck(segment, system)
    for at in range(0, len(data), size):
        check.add(data[at : at + size])
    return check


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, MIB // 2, MIB])
def test_pages_that_come_in_pieces_are_checked_as_a_whole_segment(size: int) -> None:
    check = in_pieces(REAL, Segment.parse(REAL_NAME, MIB), 7711079303358594622, size)
    assert (check.used, check.position) == (Lsn.parse("0/C04000"), Lsn.parse("0/D00000"))
    whole = in_pieces(bytes(pages(SEGMENT)), SEGMENT, SYSTEM, size)
    assert whole.used == whole.position == SEGMENT.end
    for at in (3 * PAGE, MIB // 2, MIB - PAGE):
        with pytest.raises(
            CorruptData, match=f"page at {SEGMENT.start + at} has magic number D10D"
        ):
            in_pieces(changed(at, "H", 0xD10D), SEGMENT, SYSTEM, size)
        hole = bytearray(pages(SEGMENT)[: MIB // 4].ljust(MIB, b"\0"))
        hole[at + 5 if at > MIB // 4 else -1] = 1
        with pytest.raises(CorruptData, match="bytes that are not zero follow 0/540000"):
            in_pieces(bytes(hole), SEGMENT, SYSTEM, size)


def test_the_last_piece_may_end_inside_a_page_but_not_in_its_header() -> None:
    data = bytes(pages(SEGMENT))
    assert in_pieces(data[: 5 * PAGE + 100], SEGMENT, SYSTEM, PAGE).used == SEGMENT.start + (
        5 * PAGE + 100
    )
    with pytest.raises(CorruptData, match="page at 0/50A000 ends in its header"):
        in_pieces(data[: 5 * PAGE + 10], SEGMENT, SYSTEM, PAGE)


def test_flag_of_a_continued_record_is_allowed_on_any_page() -> None:
    data = changed(3 * PAGE + 2, "H", FIRST_IS_CONTRECORD)
    assert check_pages(data, SEGMENT, SYSTEM) == SEGMENT.end
