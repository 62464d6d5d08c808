"""archive_command: a file of pg_wal goes into the repository, durably, and never over another.

A success means that the object, its name and the folders above are on disk. Everything is checked
that can be told from the file's beginning before a byte is written: its name, its page header,
whose it is, and that it is whole.
"""

# ruff: noqa: PTH119, PTH120, PTH208 - pathlib is slow to load

import os
import stat
from collections.abc import Iterator

from pgbackup.archiving.marker import is_settled
from pgbackup.archiving.server import ServerIdentity
from pgbackup.errors import CorruptData, NotFound, Refused, UsageError, WrongSystem
from pgbackup.pg.lsn import WalFileKind, WalFileName
from pgbackup.pg.walfile import LONG_HEADER_SIZE, LongHeader, check_segment_header
from pgbackup.repo.repeatable import archive_file
from pgbackup.repo.repository import Repository
from pgbackup.storage.durable import storage_errors

_CHUNK = 1 << 20  # bytes
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READY = ".ready"
_SMALL = 1 << 20  # bytes; history files are far smaller


class PushedFile:
    """A file that the server wants archived, open for reading.

    found: the file before its first byte was read.
    """

    def __init__(self, path: str) -> None:
        """Open the file.

        path: relative to the current directory, or absolute.

        Raises: UsageError for a name that PostgreSQL would not give, NotFound, StorageError.
        """
        self.path = path
        self.name = WalFileName.parse(os.path.basename(path))
        if self.name.kind is WalFileKind.OTHER:
            raise UsageError(
                f'could not archive "{path}": PostgreSQL names no file of its WAL like this'
            )
        with storage_errors("archive WAL file", path):
            self._fd = os.open(path, _FLAGS)
            self.found = os.fstat(self._fd)
        if not stat.S_ISREG(self.found.st_mode):
            os.close(self._fd)
            raise Refused(f'could not archive "{path}": it is not a regular file')

    def close(self) -> None:
        os.close(self._fd)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.found.st_size

    def read(self) -> Iterator[bytes]:
        """Yield the content from its start. Raises: StorageError."""
        offset = 0
        while True:
            with storage_errors("read WAL file", self.path):
                chunk = os.pread(self._fd, _CHUNK, offset)
            if not chunk:
                return
            yield chunk
            offset += len(chunk)

    def header(self) -> LongHeader:
        """The header of a segment's first page, checked against name, size and itself.

        Raises: CorruptData, WrongSystem, StorageError.
        """
        with storage_errors("read WAL file", self.path):
            data = os.pread(self._fd, LONG_HEADER_SIZE, 0)
        try:
            header = LongHeader.parse(data)
        except CorruptData as error:
            raise CorruptData(
                f'could not archive WAL file "{self.path}": {error.message}', hint=error.hint
            ) from error
        if header.segment_size != self.size:
            raise CorruptData(
                f'could not archive WAL file "{self.path}": it has {self.size} bytes, and its '
                f"header says {header.segment_size}"
            )
        segment = self.name.segment(header.segment_size)
        return check_segment_header(data, segment, header.system_identifier)

    def is_unchanged(self) -> bool:
        """Tell whether what was read is what the file holds, as far as its times can show."""
        now = os.fstat(self._fd)
        fields = ("st_size", "st_mtime_ns", "st_ctime_ns")
        return is_settled(self.found) and all(
            getattr(now, field) == getattr(self.found, field) for field in fields
        )


class Pusher:
    """Pushes files of one server into one repository. Safe to use from several threads."""

    def __init__(
        self, repository: Repository, server: ServerIdentity | None, level: int | None
    ) -> None:
        """Touch nothing yet.

        server: whose data directory we run in, if that is known.
        level:  of zstd; None stores plain.
        """
        self._repository = repository
        self._server = server
        self._level = level

    def push(self, file: PushedFile) -> str:
        """Have a file in the archive.

        Returns: the object that holds it.

        Raises: Conflict, CorruptData, WrongSystem, Refused, StorageError.
        """
        is_segment = file.name.kind in (WalFileKind.SEGMENT, WalFileKind.PARTIAL)
        identity = self._identity(file) if is_segment else self._identity_nearby(file)
        cluster = self._repository.cluster(identity.system_identifier)
        if identity.major is not None:
            cluster.bind(identity.major * 10000, identity.wal_segment_size)
        return archive_file(
            cluster.storage,
            cluster.system,
            file.name.text,
            file.size,
            file.read,
            self._level if is_segment else None,
        )

    def _identity(self, file: PushedFile) -> ServerIdentity:
        """Whose a segment is, by its own header."""
        header = file.header()
        found = ServerIdentity(header.system_identifier, header.server_major, header.segment_size)
        server = self._server
        if server is not None and server.system_identifier != found.system_identifier:
            raise WrongSystem(
                f'could not archive WAL file "{file.path}": it is of system '
                f"{found.system_identifier}, and this server is {server.system_identifier}"
            )
        return found

    def _identity_nearby(self, file: PushedFile) -> ServerIdentity:
        """Whose a file without page header is: the server's, or that of the segments around it."""
        if file.size > _SMALL:
            raise CorruptData(f'could not archive "{file.path}": it is implausibly large')
        if self._server is not None:
            return self._server
        folder = os.path.dirname(file.path) or "."
        with storage_errors("list directory", folder):
            names = sorted(os.listdir(folder))
        for name in names:
            if WalFileName.parse(name).kind is WalFileKind.SEGMENT:
                return self._identity_of(f"{folder}/{name}")
        raise NotFound(
            f'could not archive "{file.path}": nothing tells which cluster it is of',
            hint="Run the command in the server's data directory, as archive_command does.",
        )

    def _identity_of(self, path: str) -> ServerIdentity:
        neighbour = PushedFile(path)
        try:
            return self._identity(neighbour)
        finally:
            neighbour.close()


def waiting_files(path: str) -> list[str]:
    """The paths of all files that the server wants archived, in the order of the server.

    path: of one of them; the list is empty where it has no archive_status beside it.
    """
    folder = os.path.dirname(path) or "."
    try:
        entries = os.listdir(f"{folder}/archive_status")
    except OSError:
        return []
    names = [
        WalFileName.parse(entry.removesuffix(_READY)) for entry in entries if entry.endswith(_READY)
    ]
    wanted = [name for name in names if name.kind is not WalFileKind.OTHER]
    wanted.sort(key=lambda name: (name.kind is not WalFileKind.HISTORY, name.text))
    return [f"{folder}/{name.text}" for name in wanted]
