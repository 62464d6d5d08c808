"""Positions, segments and WAL file names."""

import json
import pickle
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import (
    MAX_LSN,
    MAX_TIMELINE,
    Lsn,
    Segment,
    Timeline,
    WalFileKind,
    WalFileName,
    WalPosition,
    backup_history_name,
    is_valid_segment_size,
    segments_between,
)

MIB = 1 << 20
SIZES = [MIB << shift for shift in range(11)]
FIRST = Timeline(1)


def random_lsns(seed: int, count: int = 200) -> list[Lsn]:
    source = random.Random(seed)
    return [Lsn(source.getrandbits(source.randint(1, 64))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("0/2000028", 0x2000028),
        ("A/B000100", 0xA0B000100),
        ("0/FFFFFFFF", 2**32 - 1),
        ("1/0", 2**32),
        ("FFFFFFFF/FFFFFFFF", MAX_LSN),
    ],
)
def test_lsn_text_is_what_postgres_prints(text: str, value: int) -> None:
    assert Lsn.parse(text) == value
    assert str(Lsn(value)) == text
    assert f"{Lsn(value)}" == text
    assert repr(Lsn(value)) == f"Lsn('{text}')"


def test_lsn_text_round_trips_for_any_position() -> None:
    for lsn in random_lsns(1):
        assert Lsn.parse(str(lsn)) == lsn


@pytest.mark.parametrize("text", ["a/0200002f", "0000000A/200002F", "A/200002f"])
def test_lsn_is_read_in_either_case_and_with_leading_zeros(text: str) -> None:
    assert Lsn.parse(text) == 0xA0200002F


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "/",
        "0/",
        "/0",
        "0/0/0",
        " 0/0",
        "0/0 ",
        "0/0\n",
        "0/0x1",
        "0x0/1",
        "-1/0",
        "0/-1",
        "+0/1",
        "0/1_0",
        "0/123456789",
        "123456789/0",
        "0/G",
        "0\\1",
        "٠/١",  # noqa: RUF001 - digits of another script
    ],
)
def test_lsn_refuses_other_text(text: str) -> None:
    with pytest.raises(CorruptData, match="could not parse WAL position"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 2**64, 2**70])
def test_lsn_refuses_what_does_not_fit_64_bits(value: int) -> None:
    with pytest.raises(CorruptData, match="not a 64-bit number"):
        Lsn(value)


def test_lsn_plus_bytes_is_an_lsn_and_a_difference_is_an_int() -> None:
    lsn = Lsn(0x2000028)
    assert type(lsn + 8) is Lsn
    assert lsn + 8 == 0x2000030
    assert type(lsn - Lsn(0x2000000)) is int
    assert lsn - Lsn(0x2000000) == 0x28
    assert Lsn(0) - lsn == -0x2000028


def test_lsn_addition_does_not_wrap_around() -> None:
    assert Lsn(MAX_LSN - 1) + 1 == MAX_LSN
    with pytest.raises(CorruptData):
        Lsn(MAX_LSN) + 1


def test_lsn_survives_json_and_pickle() -> None:
    lsn = Lsn(0x2000028)
    assert json.dumps({"lsn": lsn}) == '{"lsn": 33554472}'
    again = pickle.loads(pickle.dumps(lsn))
    assert again == lsn
    assert type(again) is Lsn


def test_timeline_is_decimal_in_text_and_hexadecimal_in_names() -> None:
    timeline = Timeline(16)
    assert str(timeline) == "16"
    assert timeline.hex == "00000010"
    assert timeline.history_name == "00000010.history"
    assert Timeline.parse_hex("00000010") == 16
    assert Timeline.parse_hex("ffffffff") == MAX_TIMELINE


@pytest.mark.parametrize(
    "text", ["", "1", "0000001", "000000010", "0000000G", "0x000001", "      +1"]
)
def test_timeline_refuses_other_than_eight_hex_digits(text: str) -> None:
    with pytest.raises(CorruptData, match="8 hexadecimal digits"):
        Timeline.parse_hex(text)


@pytest.mark.parametrize("value", [-1, 0, 2**32])
def test_timeline_refuses_numbers_that_no_timeline_has(value: int) -> None:
    with pytest.raises(CorruptData, match="could not use timeline"):
        Timeline(value)


def test_position_says_where_it_is() -> None:
    assert str(WalPosition(Timeline(2), Lsn(0x80017E8))) == "0/80017E8 on timeline 2"


def test_positions_on_different_timelines_are_not_comparable() -> None:
    with pytest.raises(TypeError):
        assert WalPosition(FIRST, Lsn(1)) < WalPosition(Timeline(2), Lsn(2))  # type: ignore[operator]


@pytest.mark.parametrize("size", SIZES)
def test_segment_size_may_be_a_power_of_two_from_1_mib_to_1_gib(size: int) -> None:
    assert is_valid_segment_size(size)


@pytest.mark.parametrize(
    "size", [-MIB, 0, 1, MIB // 2, MIB - 1, MIB + 1, 3 * MIB, 2 << 30, 1 << 40]
)
def test_segment_of_another_size_is_refused(size: int) -> None:
    assert not is_valid_segment_size(size)
    makers: list[Callable[[], Segment]] = [
        lambda: Segment(FIRST, 1, size),
        lambda: Segment.containing(FIRST, Lsn(5), size),
        lambda: Segment.ending_at(FIRST, Lsn(5), size),
        lambda: Segment.parse("000000010000000000000001", size),
    ]
    for make in makers:
        with pytest.raises(CorruptData, match="segment size"):
            make()


# What pg_walfile_name of servers with these segment sizes answers.
@pytest.mark.parametrize(
    ("timeline", "lsn", "size", "name"),
    [
        (1, "0/2000028", 16 * MIB, "000000010000000000000002"),
        (1, "0/FF000001", 16 * MIB, "0000000100000000000000FF"),
        (1, "1/1", 16 * MIB, "000000010000000100000000"),
        (1, "0/FFFFFFFF", MIB, "000000010000000000000FFF"),
        (1, "0/FFFFFFFF", 64 * MIB, "00000001000000000000003F"),
        (1, "0/FFFFFFFF", 1024 * MIB, "000000010000000000000003"),
        (16, "ABCD/12345678", 16 * MIB, "000000100000ABCD00000012"),
        (MAX_TIMELINE, "FFFFFFFF/FEFFFFFF", 16 * MIB, "FFFFFFFFFFFFFFFF000000FE"),
    ],
)
def test_segment_name_of_a_position(timeline: int, lsn: str, size: int, name: str) -> None:
    segment = Segment.containing(Timeline(timeline), Lsn.parse(lsn), size)
    assert segment.name == str(segment) == name
    assert Segment.parse(name, size) == segment


@pytest.mark.parametrize("size", SIZES)
def test_segment_holds_every_position_from_its_start_to_before_its_end(size: int) -> None:
    for lsn in random_lsns(size):
        if lsn >= MAX_LSN - size:
            continue
        segment = Segment.containing(Timeline(0x10), lsn, size)
        assert segment.start <= lsn < segment.end
        assert segment.end - segment.start == size
        assert Segment.containing(Timeline(0x10), segment.start, size) == segment
        assert Segment.ending_at(Timeline(0x10), segment.end, size) == segment
        assert Segment.parse(segment.name, size) == segment
        assert segment.next().start == segment.end


@pytest.mark.parametrize("size", SIZES)
def test_names_of_following_segments_sort_as_their_positions(size: int) -> None:
    segment = Segment.containing(FIRST, Lsn(2**32 - 3 * size), size)
    names = []
    for _ in range(6):
        names.append(segment.name)
        segment = segment.next()
    assert all(earlier < later for earlier, later in pairwise(names))
    assert names[3] == "000000010000000100000000"


def test_boundary_belongs_to_the_segment_that_it_ends() -> None:
    assert Segment.ending_at(FIRST, Lsn.parse("0/3000000"), 16 * MIB).number == 2
    assert Segment.ending_at(FIRST, Lsn.parse("0/3000001"), 16 * MIB).number == 3
    assert Segment.containing(FIRST, Lsn.parse("0/3000000"), 16 * MIB).number == 3


def test_nothing_ends_at_position_zero() -> None:
    with pytest.raises(CorruptData):
        Segment.ending_at(FIRST, Lsn(0), MIB)


@pytest.mark.parametrize("size", SIZES)
def test_last_segment_of_the_address_space_is_refused(size: int) -> None:
    assert Segment.ending_at(FIRST, Lsn(2**64 - size), size).end == 2**64 - size
    with pytest.raises(CorruptData, match="no such segment"):
        Segment.containing(FIRST, Lsn(MAX_LSN), size)
    with pytest.raises(CorruptData, match="no such segment"):
        Segment(FIRST, -1, size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("00000001000000000000000", MIB, id="23 digits"),
        pytest.param("0000000100000000000000001", MIB, id="25 digits"),
        pytest.param("00000001000000000000000a", MIB, id="lower case"),
        pytest.param("00000001000000000000000G", MIB, id="not hexadecimal"),
        pytest.param("000000010000000000000001\n", MIB, id="newline"),
        pytest.param("000000010000000000000001.partial", MIB, id="partial"),
        pytest.param("000000000000000000000001", MIB, id="timeline zero"),
        pytest.param("000000010000000000000100", 16 * MIB, id="last part too large for 16 MiB"),
        pytest.param("000000010000000000000004", 1024 * MIB, id="last part too large for 1 GiB"),
        pytest.param("000000010000000000001000", MIB, id="last part too large for 1 MiB"),
    ],
)
def test_segment_refuses_other_names(name: str, size: int) -> None:
    with pytest.raises(CorruptData):
        Segment.parse(name, size)


def test_segments_between_start_and_stop_include_both_ends() -> None:
    def names(start: str, stop: str) -> list[str]:
        between = segments_between(FIRST, Lsn.parse(start), Lsn.parse(stop), 16 * MIB)
        return [segment.name[8:] for segment in between]

    assert names("0/2000028", "0/2000100") == ["0000000000000002"]
    assert names("0/2000028", "0/3000000") == ["0000000000000002"]
    assert names("0/2000028", "0/3000001") == ["0000000000000002", "0000000000000003"]
    assert names("0/FE000000", "1/1") == [
        "00000000000000FE",
        "00000000000000FF",
        "0000000100000000",
    ]
    assert names("0/2000000", "0/2000000") == []
    assert names("0/3000000", "0/2000000") == []


def test_segments_between_can_reach_the_end_of_the_address_space() -> None:
    stop = Lsn(2**64 - MIB)
    assert len(list(segments_between(FIRST, Lsn(stop - 3 * MIB), stop, MIB))) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "00000010000000AB000000CD",
            WalFileName("00000010000000AB000000CD", WalFileKind.SEGMENT, Timeline(16), 0xAB, 0xCD),
        ),
        (
            "000000010000000000000003.partial",
            WalFileName("000000010000000000000003.partial", WalFileKind.PARTIAL, FIRST, 0, 3),
        ),
        ("0000000A.history", WalFileName("0000000A.history", WalFileKind.HISTORY, Timeline(10))),
        (
            "000000010000000000000002.00000028.backup",
            WalFileName(
                "000000010000000000000002.00000028.backup", WalFileKind.BACKUP, FIRST, 0, 2, 0x28
            ),
        ),
    ],
    ids=["segment", "partial", "history", "backup"],
)
def test_wal_file_name_is_taken_apart(text: str, expected: WalFileName) -> None:
    assert WalFileName.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RECOVERYXLOG",
        "RECOVERYHISTORY",
        "archive_status",
        "xlogtemp.123",
        "000000010000000000000003.ready",
        "000000010000000000000003.partial.zst",
        "000000010000000000000003.0000028.backup",
        "000000010000000000000003\n",
        "../000000010000000000000003",
        "00000001.history.zst",
        "0000000a.history",
        "00000000.history",
        "000000000000000000000003",
        "0000000100000000000000٠٣",  # noqa: RUF001 - digits of another script
    ],
)
def test_wal_file_name_that_postgres_does_not_write_is_other(text: str) -> None:
    name = WalFileName.parse(text)
    assert name == WalFileName(text, WalFileKind.OTHER)
    assert name.segment_name is None
    with pytest.raises(CorruptData, match="names no segment"):
        name.segment(MIB)


def test_wal_file_name_gives_its_segment_once_the_size_is_known() -> None:
    for text in ("00000001000000020000003F", "00000001000000020000003F.00000028.backup"):
        name = WalFileName.parse(text)
        assert name.segment_name == "00000001000000020000003F"
        assert name.segment(64 * MIB) == Segment.parse("00000001000000020000003F", 64 * MIB)
        with pytest.raises(CorruptData, match="no segment of 1073741824 bytes has this name"):
            name.segment(1024 * MIB)


def test_history_file_names_no_segment() -> None:
    name = WalFileName.parse("00000002.history")
    assert name.segment_name is None
    with pytest.raises(CorruptData, match="names no segment"):
        name.segment(MIB)


def test_backup_history_name_counts_from_the_start_of_the_segment() -> None:
    start = Lsn.parse("0/2000028")
    name = backup_history_name(Segment.containing(Timeline(10), start, 16 * MIB), start)
    assert name == "0000000A0000000000000002.00000028.backup"
    assert WalFileName.parse(name).offset == 0x28
