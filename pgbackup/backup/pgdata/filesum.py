"""The checksum of one file for the manifest, from pieces that several threads read."""

import hashlib
from typing import Protocol

from crc32c import crc32c

from pgbackup.backup.crc import join_crc32c
from pgbackup.backup.pgdata.outstanding import Outstanding
from pgbackup.pg.manifest import NO_CHECKSUM, crc32c_bytes

CRC32C = "CRC32C"


class FileSum(Protocol):
    """Pieces come on any thread; each begins where another one ends."""

    def add(self, offset: int, data: memoryview) -> None:
        """Take the piece that begins at `offset`. Raises: PgbackupError if all give up."""

    def digest(self) -> bytes:
        """The checksum as manifests print it, once all pieces were added."""


def new_sum(algorithm: str, outstanding: Outstanding) -> FileSum:
    """Begin a checksum. algorithm: as in a manifest."""
    if algorithm == NO_CHECKSUM:
        return _NoSum()
    if algorithm == CRC32C:
        return _Crc32cSum()
    return _DigestSum(algorithm, outstanding)


class _NoSum:
    def add(self, offset: int, data: memoryview) -> None:
        pass

    def digest(self) -> bytes:
        return b""


class _Crc32cSum:
    """Pieces are taken in any order, and joined at the end."""

    def __init__(self) -> None:
        self._pieces: dict[int, tuple[int, int]] = {}

    def add(self, offset: int, data: memoryview) -> None:
        self._pieces[offset] = (crc32c(data), len(data))

    def digest(self) -> bytes:
        value = 0
        for _, (crc, length) in sorted(self._pieces.items()):
            value = join_crc32c(value, crc, length) if value else crc
        return crc32c_bytes(value)


class _DigestSum:
    """SHA-2 cannot be joined: a piece waits for the one before it."""

    def __init__(self, algorithm: str, outstanding: Outstanding) -> None:
        self._hash = hashlib.new(algorithm.lower(), usedforsecurity=False)
        self._outstanding = outstanding
        self._done = 0

    def add(self, offset: int, data: memoryview) -> None:
        if self._done != offset:
            self._outstanding.wait(lambda: self._done == offset)
        self._hash.update(data)
        self._done += len(data)

    def digest(self) -> bytes:
        return self._hash.digest()
