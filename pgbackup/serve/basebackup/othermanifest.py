"""OtherManifest: a link that gives a client other checksums than the stored manifest has.

The files are read as they go by, which costs their decoding where they could have been sent as
they are stored; without checksums, or with other names alone, nothing is looked at.

Source: backup_manifest.c (PostgreSQL 18).
"""

import calendar
import time

from pgbackup.backup.members import ContentHash, content_hash, data_path
from pgbackup.errors import CorruptData
from pgbackup.pg.manifest import NO_CHECKSUM, Manifest, ManifestFile
from pgbackup.pg.manifest_builder import ManifestBuilder
from pgbackup.pg.tar import FILE, TarHeader
from pgbackup.stream.sink import Fill, Sink
from pgbackup.stream.untar import TarWalker

_MAIN = "base"


class OtherManifest(Sink):
    """Replace the manifest that flows past.

    major:     of the server that the backup is of.
    algorithm: of the checksums; None for those that are stored.
    """

    def __init__(
        self, successor: Sink, major: int, algorithm: str | None, *, force_encode: bool
    ) -> None:
        super().__init__(successor)
        self._major = major
        self._algorithm = algorithm
        self._force_encode = force_encode
        self._found: dict[str, tuple[int, bytes]] = {}
        self._manifest = bytearray()
        self._tablespace: int | None = None
        self._walker: TarWalker | None = None
        self._hash: ContentHash | None = None
        self._member = "", 0

    def begin_archive(self, name: str) -> None:
        stem = name.partition(".")[0]
        self._tablespace = None if stem == _MAIN else int(stem)
        self._walker = TarWalker(self, name=name) if looks(self._algorithm) else None
        self.successor.begin_archive(name)

    def archive_contents(self, length: int) -> None:
        if self._walker is not None:
            self._walker.feed(self.successor.buffer[:length])
        self.successor.archive_contents(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        if self._walker is None:
            self.successor.archive_later(length, fill)
        else:
            super().archive_later(length, fill)

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self._hash = None
        if header.type == FILE and self._algorithm is not None:
            self._hash = content_hash(self._algorithm)
            self._member = data_path(self._tablespace, header.name), header.size

    def member_contents(self, data: memoryview) -> None:
        if self._hash is not None:
            self._hash.update(data)

    def end_member(self) -> None:
        if self._hash is not None:
            path, size = self._member
            self._found[path] = size, self._hash.digest()

    def manifest_contents(self, length: int) -> None:
        self._manifest += self.successor.buffer[:length]

    def end_manifest(self) -> None:
        rest = memoryview(self._changed(Manifest.parse(bytes(self._manifest))))
        while rest:
            buffer = self.successor.buffer
            length = min(len(buffer), len(rest))
            buffer[:length] = rest[:length]
            self.successor.manifest_contents(length)
            rest = rest[length:]
        self.successor.end_manifest()

    def _changed(self, manifest: Manifest) -> bytes:
        identifier = manifest.system_identifier or 0
        builder = ManifestBuilder(self._major, identifier, force_encode=self._force_encode)
        for path, file in manifest.files.items():
            mtime = 0 if file.mtime is None else _seconds(file.mtime)
            builder.add_file(path, file.size, mtime, *self._checksum(path, file))
        return builder.finish(manifest.wal_ranges)

    def _checksum(self, path: str, file: ManifestFile) -> tuple[str, bytes]:
        """The algorithm and the checksum of a file. Raises: CorruptData if it did not go by."""
        if self._algorithm is None:
            return file.algorithm, file.checksum
        if not looks(self._algorithm):
            return self._algorithm, b""
        size, checksum = self._found.get(path, (-1, b""))
        if size != file.size:
            raise CorruptData(
                f'could not make a checksum of file "{path}": no archive has it in its size'
            )
        return self._algorithm, checksum


def looks(algorithm: str | None) -> bool:
    """Tell whether checksums that are asked for have to be made of the plain files."""
    return algorithm not in (None, NO_CHECKSUM)


def _seconds(mtime: str) -> int:
    return calendar.timegm(time.strptime(mtime, "%Y-%m-%d %H:%M:%S GMT"))
