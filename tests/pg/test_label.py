"""Backup labels and tablespace maps of real servers, and what would mislead recovery."""

import random
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, UsageError
from pgbackup.pg.label import (
    BackupLabel,
    BackupStop,
    encode_tablespace_map,
    parse_tablespace_map,
)
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition

DATA = Path(__file__).parent / "data"
HISTORY_FILE = (DATA / "000000040000000000000012.00000028.backup").read_bytes()  # 15.18
INCREMENTAL = (DATA / "backup_label_17_incremental").read_bytes()  # 17.10
TEXT = (
    b"START WAL LOCATION: 0/2000028 (file 000000100000000000000002)\n"
    b"CHECKPOINT LOCATION: 0/2000060\n"
    b"BACKUP METHOD: streamed\n"
    b"BACKUP FROM: standby\n"
    b"START TIME: 2026-11-22 16:25:34 UTC\n"
    b"LABEL: nightly\n"
    b"START TIMELINE: 16\n"
)
LABEL = BackupLabel(
    start=WalPosition(Timeline(16), Lsn.parse("0/2000028")),
    segment_name="000000100000000000000002",
    checkpoint=Lsn.parse("0/2000060"),
    start_time="2026-11-22 16:25:34 UTC",
    label="nightly",
    source="standby",
)


def test_label_is_read_and_written() -> None:
    assert BackupLabel.parse(TEXT) == LABEL
    assert LABEL.encode() == TEXT


def test_backup_history_file_of_postgres_is_understood() -> None:
    label = BackupLabel.parse(HISTORY_FILE)
    assert label.start == WalPosition(Timeline(4), Lsn.parse("0/1200028"))
    assert label.label == 'Sunday: full, 100 % "ü"'
    assert label.source == "primary"
    assert label.stop == BackupStop(
        WalPosition(Timeline(4), Lsn.parse("0/1200100")),
        "000000040000000000000012",
        "2026-11-22 19:08:20 UTC",
    )


def test_incremental_label_of_postgres_is_understood() -> None:
    label = BackupLabel.parse(INCREMENTAL)
    assert label.incremental_from == WalPosition(Timeline(1), Lsn.parse("0/600028"))
    assert label.stop is None


@pytest.mark.parametrize("text", [HISTORY_FILE, INCREMENTAL], ids=["history", "incremental"])
def test_labels_of_postgres_are_written_byte_for_byte(text: bytes) -> None:
    assert BackupLabel.parse(text).encode() == text


@pytest.mark.parametrize(
    "label", ["", " ", "a: b", "ünïcödé", "\udcff", "(file x)", "x" * 1024, "LABEL: LABEL: "]
)
def test_any_label_on_one_line_survives(label: str) -> None:
    text = TEXT.replace(b"nightly", label.encode("utf-8", "surrogateescape"))
    assert BackupLabel.parse(text).label == label
    assert BackupLabel.parse(text).encode() == text


def test_lines_of_newer_servers_are_ignored() -> None:
    assert BackupLabel.parse(TEXT + b"SOMETHING NEW: 1\n") == LABEL


@pytest.mark.parametrize("label", ["a\nSTART TIMELINE: 7", "a\rb", "a\0b", "x" * 1025, "ü" * 513])
def test_label_that_would_break_its_line_is_refused(label: str) -> None:
    broken = BackupLabel(LABEL.start, LABEL.segment_name, LABEL.checkpoint, "now", label)
    with pytest.raises(UsageError, match="could not use backup label"):
        broken.encode()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (TEXT, b"", "does not end with a line break"),
        (b": 16\n", b": 16", "does not end with a line break"),
        (b"CHECKPOINT", b"CHECKPINT", 'no line "CHECKPOINT LOCATION"'),
        (b"LABEL: nightly\n", b"", 'no line "LABEL"'),
        (b"BACKUP METHOD: streamed\n", b"", 'no line "BACKUP METHOD"'),
        (b"BACKUP FROM: standby\n", b"", 'no line "BACKUP FROM"'),
        (b"START TIME: 2026-11-22 16:25:34 UTC\n", b"", 'no line "START TIME"'),
        (b"START TIMELINE: 16\n", b"", 'no line "START TIMELINE"'),
        (b"LABEL: nightly", b"LABEL: nightly\nLABEL: two", "is not a new field"),
        (b"LABEL: nightly", b"nightly", 'line "nightly" is not a new field'),
        (b"LABEL: nightly\n", b"\nLABEL: nightly\n", 'line "" is not a new field'),
        (b" (file 000000100000000000000002)", b"", "has no position and WAL file"),
        (b"00002)", b"00002", "has no position and WAL file"),
        (b"(file 0", b"(file ", "has no position and WAL file"),
        (b"(file 00000010", b"(file 00000000", "could not use timeline"),
        (b"0/2000028", b"2000028", "could not parse WAL position"),
        (b"0/2000060", b"0/", "could not parse WAL position"),
        (b"TIMELINE: 16", b"TIMELINE: 10", "its timeline is not that of its WAL file"),
        (b"TIMELINE: 16", b"TIMELINE: +16", '"\\+16" in line "START TIMELINE" is not a timeline'),
        (b"TIMELINE: 16", b"TIMELINE: 0", "could not use timeline"),
        (b"TIMELINE: 16", b"TIMELINE: " + b"9" * 5000, "is not a timeline"),
        (b": 16\n", b": 16\nINCREMENTAL FROM LSN: 0/1\n", 'no line "INCREMENTAL FROM TLI"'),
        (b"CHECK", b"STOP WAL LOCATION: 0/1\nCHECK", '"STOP WAL LOCATION" has no position'),
    ],
)
def test_damaged_label_is_refused(old: bytes, new: bytes, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(CorruptData, match=reason):
        BackupLabel.parse(TEXT.replace(old, new))


# As servers 13.23 and 14.23 wrote them for these directories; 15.18 as 14.
TABLESPACES = {16384: "/ts/b\\s", 16385: "/ts/n\nl", 16387: "/ts/ lead"}
MAP_13 = b"16384 /ts/b\\s\n16385 /ts/n\\\nl\n16387 /ts/ lead\n"
MAP_14 = b"16384 /ts/b\\\\s\n16385 /ts/n\\\nl\n16387 /ts/ lead\n"


@pytest.mark.parametrize(("major", "data"), [(13, MAP_13), (14, MAP_14), (15, MAP_14)])
def test_tablespace_map_of_postgres_is_read_and_written(major: int, data: bytes) -> None:
    assert parse_tablespace_map(data, major) == TABLESPACES
    assert encode_tablespace_map(TABLESPACES, major) == data


@pytest.mark.parametrize("major", [13, 14, 18])
def test_empty_tablespace_map_names_no_tablespaces(major: int) -> None:
    assert parse_tablespace_map(b"", major) == {}
    assert encode_tablespace_map({}, major) == b""


@pytest.mark.parametrize("major", [13, 14])
def test_carriage_returns_end_lines_as_well(major: int) -> None:
    assert parse_tablespace_map(b"1 /a\r\n2 /b\r3 /c\n\n", major) == {1: "/a", 2: "/b", 3: "/c"}


def test_any_directory_survives_the_map_of_version_14() -> None:
    source = random.Random(5)
    for _ in range(500):
        tablespaces = {
            oid: "/" + "".join(source.choices("ab \\\n\rü\udcff", k=source.randint(0, 12)))
            for oid in source.sample(range(1, 2**32), 3)
        }
        assert parse_tablespace_map(encode_tablespace_map(tablespaces, 14), 14) == tablespaces


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"16384 /ts", id="no end of line"),
        pytest.param(b"16384 /ts\\", id="ends in a backslash"),
        pytest.param(b"16384 /ts\\\n", id="escaped end of line"),
        pytest.param(b"16384\n", id="no path"),
        pytest.param(b"16384 \n", id="empty path"),
        pytest.param(b"/ts\n", id="no OID"),
        pytest.param(b"0 /ts\n", id="OID zero"),
        pytest.param(b"4294967296 /ts\n", id="OID too large"),
        pytest.param(b"-1 /ts\n", id="negative OID"),
        pytest.param(b"1 /a\n1 /b\n", id="OID twice"),
        pytest.param(b"1 /a\0b\n", id="zero byte"),
        pytest.param(b"1" * 5000 + b" /a\n", id="OID of 5000 digits"),
    ],
)
@pytest.mark.parametrize("major", [13, 14])
def test_damaged_tablespace_map_is_refused(major: int, data: bytes) -> None:
    with pytest.raises(CorruptData, match="could not parse tablespace map"):
        parse_tablespace_map(data, major)
