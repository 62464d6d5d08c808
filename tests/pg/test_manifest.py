"""A manifest of a real server is understood, and what a manifest must not be is refused."""

import hashlib
import lzma
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.manifest import (
    NO_CHECKSUM,
    Manifest,
    ManifestFile,
    WalRange,
    crc32c_bytes,
)
from pgbackup.pg.manifest_builder import ManifestBuilder

# Sent by PostgreSQL 15.18 for a cluster with a file name that is not UTF-8 and a file of 9 GB.
REAL = lzma.decompress((Path(__file__).parent / "data" / "backup_manifest_15.xz").read_bytes())
VERSION = '{"PostgreSQL-Backup-Manifest-Version": 1'
RANGE = WalRange(Timeline(1), Lsn.parse("0/2000028"), Lsn.parse("0/2000100"))


def sealed(text: str | bytes) -> bytes:
    """End a manifest with the right checksum; `text` is everything before it."""
    body = (text.encode() if isinstance(text, str) else text) + b",\n"
    return body + b'"Manifest-Checksum": "%s"}\n' % hashlib.sha256(body).hexdigest().encode()


def with_file(fields: str) -> bytes:
    return sealed(f'{VERSION}, "Files": [{{{fields}}}], "WAL-Ranges": []')


def with_range(fields: str) -> bytes:
    return sealed(f'{VERSION}, "Files": [], "WAL-Ranges": [{{{fields}}}]')


def test_manifest_of_postgres_is_understood() -> None:
    manifest = Manifest.parse(REAL)
    assert manifest.version == 1
    assert manifest.system_identifier is None
    assert len(manifest.files) == 968
    assert manifest.wal_ranges == (
        WalRange(Timeline(1), Lsn.parse("0/B00028"), Lsn.parse("0/B0FA90")),
    )
    assert list(manifest.files)[-1] == "global/pg_control"
    assert manifest.files["big.bin"] == ManifestFile(
        9_000_000_000, "CRC32C", bytes.fromhex("09683c54"), "2026-11-22 18:50:48 GMT"
    )
    assert "base/1/n\udcff\udcfeme" in manifest.files
    assert "grüße" in manifest.files
    assert manifest.checksum.hex().encode() in REAL.splitlines()[-1]


def test_crc_is_printed_in_memory_order() -> None:
    # The CRC-32C of "15\n" is 0x2247748a.
    assert Manifest.parse(REAL).files["PG_VERSION"].checksum == crc32c_bytes(0x2247748A)


def test_fields_of_a_file_may_come_in_any_order_and_checksums_in_either_case() -> None:
    data = with_file(
        '"Checksum": "AbCd0123", "Size": 5, "Checksum-Algorithm": "CRC32C", "Path": "x"'
    )
    assert Manifest.parse(data).files == {
        "x": ManifestFile(5, "CRC32C", bytes.fromhex("abcd0123"), None)
    }


def test_file_without_checksum_is_allowed() -> None:
    file = Manifest.parse(with_file('"Path": "x", "Size": 5')).files["x"]
    assert (file.algorithm, file.checksum) == (NO_CHECKSUM, b"")


def test_encoded_path_may_be_used_for_any_path() -> None:
    data = with_file('"Encoded-Path": "6772C3BCC39F65FF", "Size": 0')
    assert list(Manifest.parse(data).files) == ["grüße\udcff"]


# The malformations of pg_verifybackup's 005_bad_manifest.pl, and their neighbours.
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "ends unexpectedly", id="empty"),
        pytest.param(b"\n\n\n", "ends unexpectedly", id="blank lines"),
        pytest.param(b"{", "ends unexpectedly", id="truncated JSON"),
        pytest.param(REAL[:70_000], "ends unexpectedly|not JSON at line", id="cut in the middle"),
        pytest.param(b"{}", "expected .*Version. as its first field", id="empty object"),
        pytest.param(b"[]", "not an object", id="array"),
        pytest.param(b"1", "not an object", id="number"),
        pytest.param(b'"Files"', "not an object", id="string"),
        pytest.param(b"[" * 100_000, "nested too deep", id="nested arrays"),
        pytest.param(b'{"a":' * 100_000, "nested too deep", id="nested objects"),
        pytest.param(sealed(VERSION + ', "Files": [1,]'), "not JSON at line 1", id="comma"),
        pytest.param(sealed(VERSION + ', "Files": NaN'), "NaN is not JSON", id="NaN"),
        pytest.param(REAL + b"{}\n", "not JSON at line 976", id="text after the end"),
        pytest.param(b"\xef\xbb\xbf" + REAL, "not JSON at line 1", id="byte order mark"),
        pytest.param(REAL.decode().encode("utf-16"), "byte 0 is not UTF-8", id="UTF-16"),
        pytest.param(with_file('"Path": "\xff"').decode().encode("latin-1"), "UTF-8", id="latin"),
        pytest.param(b'{"not-expected": 1}', "expected .*Version. as its first", id="first field"),
        pytest.param(
            sealed('{"Files": [], "PostgreSQL-Backup-Manifest-Version": 1, "WAL-Ranges": []'),
            "expected .*Version. as its first",
            id="version not first",
        ),
        pytest.param(
            sealed('{"PostgreSQL-Backup-Manifest-Version": "phooey"'),
            "version is not an integer",
            id="version is text",
        ),
        pytest.param(
            sealed('{"PostgreSQL-Backup-Manifest-Version": 1.0'),
            "version is not an integer",
            id="version is a fraction",
        ),
        pytest.param(
            sealed('{"PostgreSQL-Backup-Manifest-Version": true'),
            "version is not an integer",
            id="version is a truth value",
        ),
        pytest.param(
            sealed('{"PostgreSQL-Backup-Manifest-Version": 9876599'),
            "unexpected manifest version 9876599",
            id="version unknown",
        ),
        pytest.param(
            sealed('{"PostgreSQL-Backup-Manifest-Version": 1' + "0" * 5000),
            "too many digits",
            id="version of 5001 digits",
        ),
        pytest.param(
            sealed('{"PostgreSQL-Backup-Manifest-Version": 2, "Files": [], "WAL-Ranges": []'),
            "system identifier is missing",
            id="version 2 without system identifier",
        ),
        pytest.param(
            sealed(
                '{"PostgreSQL-Backup-Manifest-Version": 2, "System-Identifier": "7", '
                '"Files": [], "WAL-Ranges": []'
            ),
            "system identifier is missing or not a 64-bit integer",
            id="system identifier is text",
        ),
        pytest.param(
            sealed(
                '{"PostgreSQL-Backup-Manifest-Version": 2, '
                '"System-Identifier": 18446744073709551616, "Files": [], "WAL-Ranges": []'
            ),
            "system identifier is missing or not a 64-bit integer",
            id="system identifier too large",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": [], "WAL-Ranges": [], "Oops": 1'),
            'unrecognized top-level field "Oops"',
            id="top-level field unknown",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": [], "WAL-Ranges": [], "Files": []'),
            "a field is given twice",
            id="top-level field twice",
        ),
        pytest.param(sealed(VERSION + ', "WAL-Ranges": []'), 'missing "Files"', id="no files"),
        pytest.param(sealed(VERSION + ', "Files": []'), 'missing "WAL-Ranges"', id="no ranges"),
        pytest.param(
            sealed(VERSION + ', "Files": true, "WAL-Ranges": []'),
            '"Files" is not an array',
            id="files is a truth value",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": {}, "WAL-Ranges": []'),
            '"Files" is not an array',
            id="files is an object",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": [], "WAL-Ranges": 1'),
            '"WAL-Ranges" is not an array',
            id="ranges is a number",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": [[]], "WAL-Ranges": []'),
            '"Files" contains something that is not an object',
            id="file is an array",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": ["x"], "WAL-Ranges": []'),
            '"Files" contains something that is not an object',
            id="file is a string",
        ),
        pytest.param(with_file(""), "missing path name", id="file without fields"),
        pytest.param(with_file('"Size": 1'), "missing path name", id="path missing"),
        pytest.param(with_file('"Checksum": "00"'), "missing path name", id="only a checksum"),
        pytest.param(
            with_file('"Path": "a", "Encoded-Path": "61", "Size": 1'),
            "both path name and encoded path name",
            id="both path forms",
        ),
        pytest.param(
            with_file('"Path": "a", "Size": 1, "Oops": 1'),
            'unexpected file field "Oops"',
            id="file field unknown",
        ),
        pytest.param(
            with_file('"Oops": 1'), 'unexpected file field "Oops"', id="only an unknown file field"
        ),
        pytest.param(
            with_file('"Path": "a", "Size": 1, "Size": 2'), "given twice", id="file field twice"
        ),
        pytest.param(with_file('"Path": 7, "Size": 1'), "not a string", id="path is a number"),
        pytest.param(with_file('"Path": "", "Size": 1'), "path name is empty", id="path empty"),
        pytest.param(
            with_file('"Path": "a\\u0000b", "Size": 1'), "contains a zero byte", id="path with zero"
        ),
        pytest.param(
            with_file('"Path": "a\\udcff", "Size": 1'), "half of a surrogate", id="path surrogate"
        ),
        pytest.param(
            with_file('"Encoded-Path": "", "Size": 1'), "path name is empty", id="encoded empty"
        ),
        pytest.param(
            with_file('"Encoded-Path": "610062", "Size": 1'), "zero byte", id="encoded with zero"
        ),
        pytest.param(
            with_file('"Encoded-Path": "123", "Size": 1'),
            "encoded path name is not a string of hexadecimal",
            id="encoded path of odd length",
        ),
        pytest.param(
            with_file('"Encoded-Path": "0x", "Size": 1'),
            "encoded path name is not a string of hexadecimal",
            id="encoded path not hexadecimal",
        ),
        pytest.param(
            with_file('"Encoded-Path": "61 62", "Size": 1'),
            "encoded path name is not a string of hexadecimal",
            id="encoded path with a space",
        ),
        pytest.param(
            with_file('"Encoded-Path": 61, "Size": 1'),
            "encoded path name is not a string of hexadecimal",
            id="encoded path is a number",
        ),
        pytest.param(with_file('"Path": "x"'), 'missing size of file "x"', id="size missing"),
        pytest.param(
            with_file('"Path": "x", "Size": "Oops"'), 'size of file "x" is not', id="size is text"
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1.5'),
            'size of file "x" is not',
            id="size is a fraction",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": true'), 'size of file "x" is not', id="size is true"
        ),
        pytest.param(
            with_file('"Path": "x", "Size": -1'), 'size of file "x" is not', id="size negative"
        ),
        pytest.param(
            with_file(f'"Path": "x", "Size": {2**63}'),
            'size of file "x" is not',
            id="size too large",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Last-Modified": 5'),
            'last modification of file "x" is not a string',
            id="time is a number",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1}, {"Path": "x", "Size": 1'),
            'duplicate path name "x"',
            id="duplicate path",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1}, {"Encoded-Path": "78", "Size": 1'),
            'duplicate path name "x"',
            id="duplicate path, once encoded",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum": "00000000"'),
            'checksum without algorithm for file "x"',
            id="checksum without algorithm",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum-Algorithm": "MD5", "Checksum": "00"'),
            'unrecognized checksum algorithm "MD5" for file "x"',
            id="algorithm unknown",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum-Algorithm": {}, "Checksum": "00"'),
            "unrecognized checksum algorithm",
            id="algorithm is an object",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "0"'),
            'checksum of file "x" is not a string of hexadecimal',
            id="checksum of odd length",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": 1'),
            'checksum of file "x" is not a string of hexadecimal',
            id="checksum is a number",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "00"'),
            'checksum of file "x" has 1 bytes, but CRC32C has 4',
            id="checksum too short",
        ),
        pytest.param(
            with_file('"Path": "x", "Size": 1, "Checksum-Algorithm": "SHA256"'),
            'checksum of file "x" has 0 bytes, but SHA256 has 32',
            id="algorithm without checksum",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": [], "WAL-Ranges": [1]'),
            '"WAL-Ranges" contains something that is not a range',
            id="range is a number",
        ),
        pytest.param(
            sealed(VERSION + ', "Files": [], "WAL-Ranges": [{"Path": "x", "Size": 1}]'),
            '"WAL-Ranges" contains something that is not a range',
            id="range is a file",
        ),
        pytest.param(
            with_range('"Start-LSN": "0/0", "End-LSN": "0/0"'),
            "without .Timeline",
            id="no timeline",
        ),
        pytest.param(
            with_range('"Timeline": 1, "End-LSN": "0/0"'), "without .Start-LSN", id="no start"
        ),
        pytest.param(
            with_range('"Timeline": 1, "Start-LSN": "0/0"'), "without .End-LSN", id="no end"
        ),
        pytest.param(
            with_range('"Timeline": 1, "Start-LSN": "0/0", "End-LSN": "0/0", "Oops": 1'),
            'unexpected WAL range field "Oops"',
            id="range field unknown",
        ),
        pytest.param(
            with_range('"Timeline": "1", "Start-LSN": "0/0", "End-LSN": "0/0"'),
            "timeline of WAL range is not an integer",
            id="timeline is text",
        ),
        pytest.param(
            with_range('"Timeline": 0, "Start-LSN": "0/0", "End-LSN": "0/0"'),
            "invalid WAL range",
            id="timeline zero",
        ),
        pytest.param(
            with_range('"Timeline": 1, "Start-LSN": "oops", "End-LSN": "0/0"'),
            "invalid WAL range",
            id="start unparsable",
        ),
        pytest.param(
            with_range('"Timeline": 1, "Start-LSN": "0/0", "End-LSN": 5'),
            "invalid WAL range",
            id="end is a number",
        ),
        pytest.param(
            with_range('"Timeline": 1, "Start-LSN": "0/2", "End-LSN": "0/1"'),
            "WAL range ends at 0/1 before it starts at 0/2",
            id="range backwards",
        ),
        pytest.param(
            f'{VERSION}, "Files": [], "WAL-Ranges": []}}\n\n'.encode(),
            "it has no checksum",
            id="no manifest checksum",
        ),
        pytest.param(
            f'{VERSION}, "Manifest-Checksum": "", "Files": [], "WAL-Ranges": []}}\n\n'.encode(),
            "expected .Manifest-Checksum. as its last field",
            id="manifest checksum not last",
        ),
        pytest.param(
            f'{VERSION}, "Files": [], "WAL-Ranges": [], "Manifest-Checksum": "00"}}\n'.encode(),
            "expected at least 2 lines",
            id="one line",
        ),
        pytest.param(REAL[:-1], "not newline-terminated", id="no newline at the end"),
        pytest.param(
            f'{VERSION}, "Files": [], "WAL-Ranges": [],\n"Manifest-Checksum": null}}\n'.encode(),
            "manifest checksum is not a string of hexadecimal",
            id="manifest checksum is null",
        ),
        pytest.param(
            f'{VERSION}, "Files": [], "WAL-Ranges": [],\n"Manifest-Checksum": "zz"}}\n'.encode(),
            "manifest checksum is not a string of hexadecimal",
            id="manifest checksum not hexadecimal",
        ),
        pytest.param(
            f'{VERSION}, "Files": [], "WAL-Ranges": [],\n"Manifest-Checksum": "00"}}\n'.encode(),
            "manifest checksum does not match",
            id="manifest checksum too short",
        ),
        pytest.param(
            REAL.replace(b'"Size": 8192', b'"Size": 8193', 1),
            "manifest checksum does not match",
            id="content changed",
        ),
        pytest.param(
            REAL.replace(b'"WAL-Ranges": [', b' "WAL-Ranges": [', 1),
            "manifest checksum does not match",
            id="white space changed",
        ),
    ],
)
def test_malformed_manifest_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptData, match=f"could not parse backup manifest: .*{reason}"):
        Manifest.parse(data)


def test_no_cut_of_a_manifest_is_accepted_or_crashes() -> None:
    builder = ManifestBuilder(17, 7)
    builder.add_file("grüße", 1, 0, "CRC32C", bytes(4))
    data = builder.finish([RANGE])
    for end in range(len(data)):
        with pytest.raises(CorruptData):
            Manifest.parse(data[:end])


def test_no_changed_byte_is_accepted_or_crashes() -> None:
    builder = ManifestBuilder(17, 7)
    builder.add_file("x", 1, 0, "CRC32C", bytes(4))
    data = builder.finish([RANGE])
    accepted = []
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            try:
                Manifest.parse(bytes(damaged))
            except CorruptData:
                continue
            accepted.append(chr(damaged[at]))
    # Only the case of hexadecimal digits of the checksum itself says nothing.
    assert set("".join(accepted)) <= set("ABCDEF")


def test_manifest_of_100000_files_stays_small() -> None:
    builder = ManifestBuilder(17, 7)
    for number in range(100_000):
        builder.add_file(f"base/16384/{number}", number, number, "CRC32C", b"\1\2\3\4")
    manifest = Manifest.parse(builder.finish([RANGE]))
    assert len(manifest.files) == 100_000
    assert manifest.files["base/16384/99999"].size == 99_999
