"""Checksum: a link that only looks, and knows size and CRC-32C of each object that passed."""

from dataclasses import dataclass

from crc32c import crc32c

from pgbackup.stream.sink import Sink


@dataclass(frozen=True, slots=True)
class ObjectChecksum:
    """size: bytes; crc32c: of all of them."""

    size: int
    crc32c: int


class Checksum(Sink):
    """Measure archives and manifest as they pass, under the names the successor sees."""

    def __init__(self, successor: Sink) -> None:
        super().__init__(successor)
        self.archives: dict[str, ObjectChecksum] = {}
        self.manifest: ObjectChecksum | None = None
        self._name = ""
        self._size = 0
        self._crc = 0

    def begin_archive(self, name: str) -> None:
        self._name, self._size, self._crc = name, 0, 0
        self.successor.begin_archive(name)

    def archive_contents(self, length: int) -> None:
        self._add(length)
        self.successor.archive_contents(length)

    def end_archive(self) -> None:
        self.archives[self._name] = ObjectChecksum(self._size, self._crc)
        self.successor.end_archive()

    def begin_manifest(self) -> None:
        self._size, self._crc = 0, 0
        self.successor.begin_manifest()

    def manifest_contents(self, length: int) -> None:
        self._add(length)
        self.successor.manifest_contents(length)

    def end_manifest(self) -> None:
        self.manifest = ObjectChecksum(self._size, self._crc)
        self.successor.end_manifest()

    def _add(self, length: int) -> None:
        self._size += length
        self._crc = crc32c(self.successor.buffer[:length], self._crc)
