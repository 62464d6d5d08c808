"""Built manifests are those of the server, and are understood again."""

import calendar
import hashlib
import lzma
import time
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.manifest import CHECKSUM_LENGTHS, Manifest, WalRange
from pgbackup.pg.manifest_builder import ManifestBuilder

DATA = Path(__file__).parent / "data"
RANGE = WalRange(Timeline(1), Lsn.parse("0/2000028"), Lsn.parse("0/2000100"))


def seconds(mtime: str | None) -> int:
    assert mtime is not None
    return calendar.timegm(time.strptime(mtime, "%Y-%m-%d %H:%M:%S GMT"))


@pytest.mark.parametrize("major", [15, 17])
def test_manifest_of_postgres_is_built_byte_for_byte(major: int) -> None:
    data = lzma.decompress((DATA / f"backup_manifest_{major}.xz").read_bytes())
    manifest = Manifest.parse(data)
    builder = ManifestBuilder(major, manifest.system_identifier or 0)
    for path, file in manifest.files.items():
        builder.add_file(path, file.size, seconds(file.mtime), file.algorithm, file.checksum)
    assert builder.finish(manifest.wal_ranges) == data


@pytest.mark.parametrize("major", [13, 14, 15, 16])
def test_servers_before_17_get_version_1_without_system_identifier(major: int) -> None:
    manifest = Manifest.parse(ManifestBuilder(major, 42).finish([RANGE]))
    assert (manifest.version, manifest.system_identifier) == (1, None)


@pytest.mark.parametrize("identifier", [7711032448206929256, 2**64 - 1])
def test_servers_from_17_on_get_version_2_with_the_exact_identifier(identifier: int) -> None:
    manifest = Manifest.parse(ManifestBuilder(17, identifier).finish([RANGE]))
    assert (manifest.version, manifest.system_identifier) == (2, identifier)


def test_version_2_is_laid_out_as_documented() -> None:
    builder = ManifestBuilder(18, 7711032448206929256)
    builder.add_file("base/5/1259", 122880, 1795364652.9, "CRC32C", bytes.fromhex("536f950b"))
    builder.add_file("empty", 0, 0)
    data = builder.finish([RANGE, RANGE._replace(timeline=Timeline(2))])
    lines = data.decode().splitlines(keepends=True)
    assert lines[:-1] == [
        '{ "PostgreSQL-Backup-Manifest-Version": 2,\n',
        '"System-Identifier": 7711032448206929256,\n',
        '"Files": [\n',
        '{ "Path": "base/5/1259", "Size": 122880, "Last-Modified": "2026-11-22 16:24:12 GMT", '
        '"Checksum-Algorithm": "CRC32C", "Checksum": "536f950b" },\n',
        '{ "Path": "empty", "Size": 0, "Last-Modified": "1970-01-01 00:00:00 GMT" }\n',
        "],\n",
        '"WAL-Ranges": [\n',
        '{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" },\n',
        '{ "Timeline": 2, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }\n',
        "],\n",
    ]
    expected = hashlib.sha256("".join(lines[:-1]).encode()).hexdigest()
    assert lines[-1] == f'"Manifest-Checksum": "{expected}"}}\n'


@pytest.mark.parametrize(
    "path",
    [
        "base/1/1259",
        "with space",
        'quote " and \\ backslash',
        "tab\tnewline\nbell\x07delete\x7f",
        "grüße/日本/🐘",
        "bytes \udc80\udcff",
        "../escape",
        "/etc/passwd",
        "x" * 5000,
    ],
)
def test_any_path_survives_being_written_and_read(path: str) -> None:
    builder = ManifestBuilder(17, 1)
    builder.add_file(path, 1, 0)
    data = builder.finish([])
    assert list(Manifest.parse(data).files) == [path]
    assert (b'"Encoded-Path"' in data) == ("\udc80" in path)


@pytest.mark.parametrize("algorithm", sorted(CHECKSUM_LENGTHS))
def test_every_algorithm_survives_being_written_and_read(algorithm: str) -> None:
    checksum = bytes(range(CHECKSUM_LENGTHS[algorithm]))
    builder = ManifestBuilder(15, 1)
    builder.add_file("x", 1, 0, algorithm, checksum)
    file = Manifest.parse(builder.finish([])).files["x"]
    assert (file.algorithm, file.checksum) == (algorithm, checksum)


def test_every_path_can_be_hexadecimal() -> None:
    builder = ManifestBuilder(15, 1, force_encode=True)
    builder.add_file("PG_VERSION", 3, 0)
    text = builder.finish([])
    assert b'{ "Encoded-Path": "50475f56455253494f4e", "Size": 3,' in text
    assert b'"Path"' not in text
