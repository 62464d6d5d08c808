"""backup_manifest: which files a base backup consists of, and the WAL it needs.

A whole manifest is read at once and refused at the first thing that PostgreSQL would not have
written, its own checksum last. Paths are passed on as they are: whoever creates files from them
has to check them. Files are never looked at.
"""

import hashlib
import json
import sys
from binascii import unhexlify
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, Self

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Timeline

NO_CHECKSUM: Final = "NONE"
CHECKSUM_LENGTHS: Final = {  # bytes
    NO_CHECKSUM: 0,
    "CRC32C": 4,
    "SHA224": 28,
    "SHA256": 32,
    "SHA384": 48,
    "SHA512": 64,
}

VERSION_FIELD: Final = "PostgreSQL-Backup-Manifest-Version"
CHECKSUM_FIELD: Final = "Manifest-Checksum"
_TOP_FIELDS = {VERSION_FIELD, "System-Identifier", "Files", "WAL-Ranges", CHECKSUM_FIELD}
_PATH_FIELDS = {"Path", "Encoded-Path"}
_FILE_FIELDS = _PATH_FIELDS | {"Size", "Last-Modified", "Checksum-Algorithm", "Checksum"}
_WAL_RANGE_FIELDS = {"Timeline", "Start-LSN", "End-LSN"}
_MAX_SIZE = 2**63 - 1


class ManifestFile(NamedTuple):
    """One file of a backup.

    size:      bytes.
    algorithm: a key of CHECKSUM_LENGTHS.
    checksum:  bytes in the order in which they are printed; empty for NO_CHECKSUM.
    mtime:     "YYYY-MM-DD HH:MM:SS GMT", or None.
    """

    size: int
    algorithm: str
    checksum: bytes
    mtime: str | None = None


class WalRange(NamedTuple):
    """WAL of one timeline that recovery needs: [start, end)."""

    timeline: Timeline
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True)
class Manifest:
    """A backup manifest whose checksum was found right.

    system_identifier: None for version 1.
    files:             by path relative to the data directory, in the order of the manifest;
                       bytes that are not UTF-8 as surrogates.
    checksum:          32 bytes, SHA-256 of all lines but the last.
    """

    version: int
    system_identifier: int | None
    files: dict[str, ManifestFile]
    wal_ranges: tuple[WalRange, ...]
    checksum: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a manifest of version 1 (servers 13 to 16) or 2 (17 and later).

        Raises: CorruptData.
        Source: parse_manifest.c, json_parse_manifest (PostgreSQL 18)
        """
        files = _Files()
        top = _top_level(_decode(data, files))
        version = _version(top)
        ranges = _array(top, "WAL-Ranges")
        listed = _array(top, "Files")
        for item in listed:
            if item is not _FILE:
                _file_fields(item)
        return cls(
            version,
            _system_identifier(top, version),
            files.files,
            tuple(_wal_range(item) for item in ranges),
            _verified_checksum(data, top[CHECKSUM_FIELD]),
        )


def crc32c_bytes(value: int) -> bytes:
    """Put a CRC-32C in the order in which manifests print it: that of memory, little-endian."""
    return value.to_bytes(4, "little")


class _File:
    """What is left in the decoded JSON where a file was: nothing, to save memory."""


_FILE = _File()


class _Files:
    """Takes files out of the JSON text while it is being decoded."""

    def __init__(self) -> None:
        self.files: dict[str, ManifestFile] = {}
        self._times: dict[str, str] = {}  # equal times share one text

    def take(self, pairs: list[tuple[str, Any]]) -> "dict[str, Any] | _File":
        fields = dict(pairs)
        if len(fields) != len(pairs):
            _fail("a field is given twice")
        if _PATH_FIELDS.isdisjoint(fields):
            return fields
        path = _path(_file_fields(fields))
        if path in self.files:
            _fail(f'duplicate path name "{path}"')
        algorithm, checksum = _file_checksum(fields, path)
        mtime = fields.get("Last-Modified")
        if mtime is not None:
            if type(mtime) is not str:
                _fail(f'last modification of file "{path}" is not a string')
            mtime = self._times.setdefault(mtime, mtime)
        self.files[path] = ManifestFile(fields["Size"], algorithm, checksum, mtime)
        return _FILE


def _decode(data: bytes, files: _Files) -> object:
    try:
        return json.loads(
            str(data, "utf-8"),
            object_pairs_hook=files.take,
            parse_constant=lambda name: _fail(f"{name} is not JSON"),
        )
    except UnicodeDecodeError as error:
        _fail(f"byte {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if error.pos >= len(error.doc.rstrip()):
            _fail("it ends unexpectedly", detail=f"{error.msg} at {place}.")
        _fail(f"not JSON at {place}", detail=f"{error.msg}.")
    except RecursionError:
        _fail("nested too deep")
    except ValueError:
        _fail("a number has too many digits")


def _top_level(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        _fail("it is not an object")
    names = list(document)
    if not names or names[0] != VERSION_FIELD:
        _fail(f'expected "{VERSION_FIELD}" as its first field')
    if unknown := document.keys() - _TOP_FIELDS:
        _fail(f'unrecognized top-level field "{min(unknown)}"')
    if CHECKSUM_FIELD not in document:
        _fail("it has no checksum")
    if names[-1] != CHECKSUM_FIELD:
        _fail(f'expected "{CHECKSUM_FIELD}" as its last field')
    return document


def _version(top: dict[str, Any]) -> int:
    version = top[VERSION_FIELD]
    if type(version) is not int:
        _fail("manifest version is not an integer")
    if version not in (1, 2):
        _fail(f"unexpected manifest version {version}")
    return version


def _system_identifier(top: dict[str, Any], version: int) -> int | None:
    identifier = top.get("System-Identifier")
    if identifier is None and version == 1:
        return None
    if type(identifier) is not int or not 0 <= identifier < 2**64:
        _fail("system identifier is missing or not a 64-bit integer")
    return identifier


def _array(top: dict[str, Any], name: str) -> list[object]:
    if name not in top:
        _fail(f'missing "{name}"')
    value = top[name]
    if not isinstance(value, list):
        _fail(f'"{name}" is not an array')
    return value


def _file_fields(item: object) -> dict[str, Any]:
    """Check that an element of "Files" has the right fields; their values are checked later."""
    if not isinstance(item, dict):
        _fail('"Files" contains something that is not an object')
    if unknown := item.keys() - _FILE_FIELDS:
        _fail(f'unexpected file field "{min(unknown)}"')
    if _PATH_FIELDS.isdisjoint(item):
        _fail("missing path name")
    return item


def _path(fields: dict[str, Any]) -> str:
    if "Encoded-Path" not in fields:
        path = fields["Path"]
        if type(path) is not str:
            _fail("path name is not a string")
        if not path.isascii():
            _refuse_surrogates(path)
    elif "Path" in fields:
        _fail("both path name and encoded path name")
    else:
        path = _unhex(fields["Encoded-Path"], "encoded path name").decode(
            "utf-8", "surrogateescape"
        )
    if not path or "\0" in path:
        _fail("path name is empty or contains a zero byte")
    size = fields.get("Size")
    if size is None:
        _fail(f'missing size of file "{path}"')
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        _fail(f'size of file "{path}" is not a 63-bit integer')
    return path


def _refuse_surrogates(path: str) -> None:
    # Written as an escape, half a surrogate pair would pass for a byte that is not UTF-8.
    try:
        path.encode()
    except UnicodeEncodeError:
        _fail("path name contains half of a surrogate pair")


def _file_checksum(fields: dict[str, Any], path: str) -> tuple[str, bytes]:
    if "Checksum-Algorithm" not in fields:
        if "Checksum" in fields:
            _fail(f'checksum without algorithm for file "{path}"')
        return NO_CHECKSUM, b""
    algorithm = fields["Checksum-Algorithm"]
    if type(algorithm) is not str or algorithm not in CHECKSUM_LENGTHS:
        _fail(f'unrecognized checksum algorithm "{algorithm}" for file "{path}"')
    checksum = _unhex(fields.get("Checksum", ""), f'checksum of file "{path}"')
    if len(checksum) != CHECKSUM_LENGTHS[algorithm]:
        _fail(
            f'checksum of file "{path}" has {len(checksum)} bytes, '
            f"but {algorithm} has {CHECKSUM_LENGTHS[algorithm]}"
        )
    return sys.intern(algorithm), checksum


def _wal_range(item: object) -> WalRange:
    if not isinstance(item, dict):
        _fail('"WAL-Ranges" contains something that is not a range')
    if unknown := item.keys() - _WAL_RANGE_FIELDS:
        _fail(f'unexpected WAL range field "{min(unknown)}"')
    if missing := _WAL_RANGE_FIELDS - item.keys():
        _fail(f'WAL range without "{min(missing)}"')
    timeline = item["Timeline"]
    if type(timeline) is not int:
        _fail("timeline of WAL range is not an integer")
    try:
        wal_range = WalRange(
            Timeline(timeline), Lsn.parse(str(item["Start-LSN"])), Lsn.parse(str(item["End-LSN"]))
        )
    except CorruptData as error:
        _fail("invalid WAL range", detail=f"{error}.")
    if wal_range.start > wal_range.end:
        _fail(f"WAL range ends at {wal_range.end} before it starts at {wal_range.start}")
    return wal_range


def _verified_checksum(data: bytes, expected: object) -> bytes:
    """Check the last line against all lines before it.

    Source: parse_manifest.c, verify_manifest_checksum (PostgreSQL 18)
    """
    if data.count(b"\n") < 2:
        _fail("expected at least 2 lines")
    if not data.endswith(b"\n"):
        _fail("last line is not newline-terminated")
    end = data.rfind(b"\n", 0, -1) + 1
    checksum = _unhex(expected, "manifest checksum")
    if hashlib.sha256(memoryview(data)[:end]).digest() != checksum:
        _fail("manifest checksum does not match")
    return checksum


def _unhex(text: object, what: str) -> bytes:
    try:
        return unhexlify(text if isinstance(text, str) else "not text")
    except ValueError:
        _fail(f"{what} is not a string of hexadecimal bytes")


def _fail(reason: str, detail: str | None = None) -> NoReturn:
    raise CorruptData(f"could not parse backup manifest: {reason}", detail=detail)
