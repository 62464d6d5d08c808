"""Write a backup_manifest as the server writes it, byte for byte."""

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from json.encoder import encode_basestring

from pgbackup.pg.manifest import CHECKSUM_FIELD, NO_CHECKSUM, VERSION_FIELD, WalRange


class ManifestBuilder:
    """Writes a manifest as the server does: files first, WAL ranges after the last file.

    system_identifier: written from version 2 on.
    server_major:      decides about the version.
    force_encode:      write all paths as those are that are not UTF-8.

    Source: backup_manifest.c (PostgreSQL 18)
    """

    def __init__(
        self, server_major: int, system_identifier: int, *, force_encode: bool = False
    ) -> None:
        if server_major >= 17:
            head = (
                f'{{ "{VERSION_FIELD}": 2,\n"System-Identifier": {system_identifier},\n"Files": ['
            )
        else:
            head = f'{{ "{VERSION_FIELD}": 1,\n"Files": ['
        self._text = bytearray(head.encode())
        self._separator = b"\n"
        self._force_encode = force_encode
        self._mtime: float | None = None
        self._modified = ""

    def add_file(
        self,
        path: str,
        size: int,
        mtime: float,
        algorithm: str = NO_CHECKSUM,
        checksum: bytes = b"",
    ) -> None:
        """Append one file.

        path:     relative to the data directory, also for a file of a tablespace.
        mtime:    seconds since 1970; fractions are cut off.
        checksum: bytes as they are to be printed, see crc32c_bytes.
        """
        name = self._name(path.encode("utf-8", "surrogateescape"))
        if mtime != self._mtime:  # files made together are many
            self._mtime = mtime
            self._modified = time.strftime("%Y-%m-%d %H:%M:%S GMT", time.gmtime(mtime // 1))
        fields = f'"Size": {size}, "Last-Modified": "{self._modified}"'
        if algorithm != NO_CHECKSUM:
            fields += f', "Checksum-Algorithm": "{algorithm}", "Checksum": "{checksum.hex()}"'
        self._text += b"%s{ %s, %s }" % (self._separator, name, fields.encode())
        self._separator = b",\n"

    def finish(self, wal_ranges: Iterable[WalRange]) -> bytes:
        """Append the WAL ranges, newest timeline first, and the checksum; return the whole text."""
        ranges = ",\n".join(
            f'{{ "Timeline": {timeline}, "Start-LSN": "{start}", "End-LSN": "{end}" }}'
            for timeline, start, end in wal_ranges
        )
        self._text += f'\n],\n"WAL-Ranges": [\n{ranges}\n],\n'.encode()
        checksum = hashlib.sha256(self._text).hexdigest()
        return bytes(self._text + f'"{CHECKSUM_FIELD}": "{checksum}"}}\n'.encode())

    def _name(self, path: bytes) -> bytes:
        if not self._force_encode:
            with suppress(UnicodeDecodeError):
                return b'"Path": ' + _quoted(path.decode())
        return b'"Encoded-Path": "%s"' % path.hex().encode()


def _quoted(text: str) -> bytes:
    """Quote a JSON string, escaping no more than the server does.

    Source: json.c, escape_json (PostgreSQL 18)
    """
    return encode_basestring(text).encode()
