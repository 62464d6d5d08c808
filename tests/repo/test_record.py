"""The record of a backup: round trip, and what is refused."""

import hashlib
import json
from typing import Any

import pytest

from pgbackup.errors import CorruptData, Refused
from pgbackup.pg.lsn import Timeline
from pgbackup.repo.record import BackupRecord, WalRange, decode_record, encode_record
from tests.repo.samples import MIB, SYSTEM, record


def sealed(body: str) -> bytes:
    """A document with a right checksum. body: all lines but the last."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return body.encode() + f'"record_checksum": "{digest}"}}\n'.encode()


def changed(path: str, value: Any) -> bytes:
    """The sample with one field changed, and a right checksum. path: as in messages."""
    document = json.loads(encode_record(record()))
    del document["record_checksum"]
    *outer, last = path.split(".")
    target = document
    for key in outer:
        target = target[int(key)] if key.isdecimal() else target[key]
    target[last] = value
    return sealed(json.dumps(document, indent=2).removesuffix("\n}") + ",\n")


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(record(), id="everything"),
        pytest.param(record(tail="0000000A0000000000000023.partial"), id="tail"),
        pytest.param(record(has_label=False), id="stopped"),
        pytest.param(
            record(kind="incremental", label="20261122T120000I", tablespaces=(), wal=()),
            id="little",
        ),
    ],
)
def test_a_record_survives_encoding(sample: BackupRecord) -> None:
    assert decode_record(encode_record(sample), "x") == sample


def test_a_record_is_plain_json_with_positions_as_text_and_times_in_utc() -> None:
    document = json.loads(encode_record(record()))
    assert document["format"] == 1
    assert next(iter(document)) == "format"
    assert document["system_identifier"] == str(SYSTEM)
    assert document["start_lsn"] == "0/2000028"
    assert document["timeline"] == 10
    assert document["start_time"] == "2026-11-22T12:00:00Z"
    assert document["stop_time"] == "2026-11-22T12:00:00.250000Z"
    assert document["data_directory_mode"] == "0700"
    assert document["archives"][1]["tablespace"] is None


def test_the_last_line_is_the_digest_of_everything_before_it() -> None:
    data = encode_record(record())
    *before, last = data.splitlines(keepends=True)
    digest = hashlib.sha256(b"".join(before)).hexdigest()
    assert last == f'"record_checksum": "{digest}"}}\n'.encode()


def test_a_record_cut_anywhere_is_found() -> None:
    data = encode_record(record())
    for end in range(len(data)):
        with pytest.raises(CorruptData):
            decode_record(data[:end], "x")


def test_a_record_with_one_byte_changed_is_found() -> None:
    data = bytearray(encode_record(record()))
    for position in range(len(data)):
        data[position] ^= 1
        with pytest.raises(CorruptData):
            decode_record(bytes(data), "x")
        data[position] ^= 1


def test_bytes_behind_the_record_are_found() -> None:
    with pytest.raises(CorruptData, match="checksum does not match"):
        decode_record(encode_record(record()) + b"\n", "x")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[1,\n",
        "{" + '"a":' + "[" * 100_000 + ",\n",
        '{"format": 1,\n',
        '{"format": NaN,\n',
        '{"format": ' + "9" * 5000 + ",\n",
    ],
    ids=["empty", "list", "deep", "fields-missing", "not-a-number", "huge-number"],
)
def test_other_documents_with_a_right_checksum_are_refused(body: str) -> None:
    with pytest.raises(CorruptData):
        decode_record(sealed(body), "x")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "1"),
        ("format", True),
        ("label", None),
        ("label", 5),
        ("kind", "differential"),
        ("system_identifier", SYSTEM),
        ("system_identifier", "0"),
        ("system_identifier", str(1 << 64)),
        ("server_version", 15.5),
        ("server_version", -1),
        ("timeline", 0),
        ("timeline", 1 << 32),
        ("start_lsn", "2000028"),
        ("start_lsn", 0x2000028),
        ("start_time", "2026-11-22T12:00:00"),
        ("start_time", "2026-11-22T12:00:00+01:00"),
        ("start_time", "yesterday"),
        ("wal_segment_size", 12345),
        ("size", 1 << 63),
        ("duration_seconds", "1"),
        ("duration_seconds", True),
        ("duration_seconds", -1),
        ("data_directory_mode", "4755"),
        ("data_directory_mode", 448),
        ("tablespaces", {}),
        ("tablespaces", [1]),
        ("tablespaces.0.oid", "16385"),
        ("tablespaces.0.archive", "../base.tar"),
        ("archives.0.name", "/etc/passwd"),
        ("archives.0.name", "a/b"),
        ("archives.0.crc32c", "DEADBEEF"),
        ("archives.0.crc32c", "beef"),
        ("objects.0.size", None),
        ("wal.0.first", "0000000A0000000000000023"),
        ("wal.0.first", "000000010000000000000020"),
        ("wal.0.last", "0000000AFFFFFFFE00000FFF"),
        ("wal.0.last", "nonsense"),
        ("histories", ["0000000A.history"]),
        ("histories", "0000000A.history"),
        ("histories.0.name", "../0000000A.history"),
        ("histories.0.name", "0000000A0000000000000020"),
        ("histories.0.size", -1),
        ("histories.0.crc32c", None),
        ("tail", ".hidden"),
        ("tail", 0),
        ("comment", []),
        ("comment", "\ud800"),
        ("tablespaces.0.location", "/a\0b"),
        ("has_label", 1),
        ("checksum_failures", []),
        ("checksum_failures.is_damaged", 1),
        ("checksum_failures.warnings", [None]),
        ("checksum_failures.warnings", ["\udfff"]),
    ],
)
def test_a_field_of_wrong_type_or_value_is_damage(path: str, value: Any) -> None:
    with pytest.raises(CorruptData):
        decode_record(changed(path, value), "x")


OPTIONAL = {"tail", "has_label"}


@pytest.mark.parametrize("field", sorted(set(json.loads(encode_record(record()))) - OPTIONAL))
def test_a_missing_field_is_damage(field: str) -> None:
    document = json.loads(encode_record(record()))
    del document["record_checksum"]
    document.pop(field, None)
    body = json.dumps(document, indent=2).removesuffix("\n}") + ",\n"
    if field == "record_checksum":
        with pytest.raises(CorruptData):
            decode_record(body.encode(), "x")
        return
    with pytest.raises(CorruptData, match=f'could not read "x": "{field}" is not '):
        decode_record(sealed(body), "x")


def test_the_message_says_where_in_the_document_the_fault_is() -> None:
    with pytest.raises(CorruptData, match=r'"archives\[1\].stored_size" is not a whole number'):
        decode_record(changed("archives.1.stored_size", -1), "x")


def test_a_newer_format_is_refused_and_not_called_damaged() -> None:
    with pytest.raises(Refused, match="it has format 2, this version knows 1") as caught:
        decode_record(changed("format", 2), "x")
    assert "newer" in str(caught.value.hint)


def test_backups_of_the_time_before_others_were_known_have_a_label() -> None:
    document = json.loads(encode_record(record()))
    del document["record_checksum"], document["has_label"]
    body = json.dumps(document, indent=2).removesuffix("\n}") + ",\n"
    assert decode_record(sealed(body), "x") == record()


def test_an_unknown_field_is_passed_over() -> None:
    assert decode_record(changed("pinned_until", "2027"), "x") == record()


def test_a_range_names_every_segment_from_first_to_last() -> None:
    across = WalRange(1, "0000000100000000000000FF", "000000010000000100000001")
    assert [segment.name for segment in across.segments(16 * MIB)] == [
        "0000000100000000000000FF",
        "000000010000000100000000",
        "000000010000000100000001",
    ]
    sample = record(wal=(across, across), wal_segment_size=16 * MIB, timeline=Timeline(1))
    assert len(list(sample.segments())) == 6
