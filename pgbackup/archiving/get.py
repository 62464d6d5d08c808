"""restore_command: a file of the archive goes where the server wants it, whole or not at all.

Three answers: delivered; proven absent; anything else raises, and means that nobody knows. Absent
is only what the right repository, open before and after the look, does not hold: PostgreSQL ends
recovery at the first segment that is absent, and what comes later is lost.
"""

# ruff: noqa: PTH208 - pathlib is slow to load

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pgbackup.archiving.options import Options
from pgbackup.archiving.server import read_identity
from pgbackup.archiving.spooldir import try_to_remove
from pgbackup.errors import CorruptData, NotFound, StorageError, UsageError, WrongSystem
from pgbackup.pg.lsn import Segment, WalFileKind, WalFileName
from pgbackup.pg.walfile import LONG_HEADER_SIZE, check_segment_header
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.api import Bytes
from pgbackup.storage.durable import FileSystem, storage_errors
from pgbackup.storage.leftovers import remove_leftover, temporary_name
from pgbackup.storage.registry import open_storage

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0


class WalSource(NamedTuple):
    """The archive that belongs to the server.

    segment_size: bytes.
    """

    repository: Repository
    cluster: ClusterRepository
    segment_size: int


def retry(attempt: Callable[[], bool], budget: float) -> bool:
    """Try until there is an answer, or the time is over.

    budget: seconds.

    Raises: PgbackupError of the last attempt; at once, one that does not pass by itself.
    """
    deadline = time.monotonic() + budget
    pause = _FIRST_PAUSE
    while True:
        try:
            return attempt()
        except (StorageError, NotFound, CorruptData):
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def get_file(name: str, target: str, options: Options) -> bool:
    """Deliver a file; False if it is proven absent.

    name:   as %f.
    target: as %p.

    Raises: UsageError for a name that PostgreSQL would not ask for, PgbackupError.
    """
    file = WalFileName.parse(name)
    if file.kind is WalFileKind.OTHER:
        raise UsageError(f"could not get {name!r}: PostgreSQL names no file of its WAL like this")
    source = open_source(options.repo)
    if file.kind is not WalFileKind.SEGMENT:
        return _get_other(source, file, target)
    segment = file.segment(source.segment_size)
    if _get_segment(source, segment, target):
        return True
    if options.partial:
        from pgbackup.archiving.partial import partial_content  # noqa: PLC0415 - rarely needed

        content = partial_content(source, segment)
        if content is not None:
            put_in_place(target, [content])
            return True
    return _prove_absence(source)


def open_source(repo: str) -> WalSource:
    """Open the archive that belongs to the current directory's server.

    Raises: NotFound, WrongSystem if the repository has nothing of it; StorageError.
    """
    repository = Repository.open(open_storage(repo))
    server = read_identity()
    system = repository.only_system() if server is None else server.system_identifier
    cluster = repository.cluster(system)
    facts = cluster.facts()
    if facts is None:
        raise WrongSystem(
            f'could not use repository "{repository.storage.url}": it has nothing of '
            f"system {system}",
            hint='Run "pgbackup list" to see whose backups it holds.',
        )
    if server is not None and server.wal_segment_size != facts.wal_segment_size:
        raise WrongSystem(
            f'could not use repository "{repository.storage.url}": its WAL segments have '
            f"{facts.wal_segment_size} bytes, those of this server {server.wal_segment_size}"
        )
    return WalSource(repository, cluster, facts.wal_segment_size)


def segment_content(source: WalSource, segment: Segment) -> Iterator[bytes] | None:
    """The content of an archived segment, None if it is not in the archive.

    Proven when the iterator is exhausted, not before.

    Raises: CorruptData, WrongSystem, StorageError; most of them while it is read.
    """
    if source.cluster.archive.find(segment.name) is None:
        return None
    return _checked(source, segment)


def _checked(source: WalSource, segment: Segment) -> Iterator[bytes]:
    """Hold back the first bytes until they are known to be the right segment's."""
    head: bytes | None = b""
    for chunk in source.cluster.archive.chunks(segment.name, segment.size):
        if head is None:
            yield chunk
            continue
        head += chunk
        if len(head) >= LONG_HEADER_SIZE:
            check_segment_header(head, segment, source.cluster.system)
            yield head
            head = None


def _get_segment(source: WalSource, segment: Segment, target: str) -> bool:
    content = segment_content(source, segment)
    if content is None:
        return False
    put_in_place(target, content)
    return True


def _get_other(source: WalSource, file: WalFileName, target: str) -> bool:
    archive = source.cluster.archive
    if archive.find(file.text) is None:
        return _prove_absence(source)
    put_in_place(target, archive.chunks(file.text))
    return True


def _prove_absence(source: WalSource) -> bool:
    """Return False if the archive is there to say so.

    A file system that went away leaves an empty directory, in which nothing is found either.

    Raises: PgbackupError otherwise.
    """
    storage = source.repository.storage
    again = Repository.open(storage)
    folders = storage.folders(layout.system_folder(source.cluster.system))
    if again.repository_id != source.repository.repository_id or "wal" not in folders:
        raise NotFound(
            f'could not search repository "{storage.url}": its folder '
            f'"{layout.wal_folder(source.cluster.system)}" is not there'
        )
    return False


def put_in_place(target: str, content: Iterable[Bytes]) -> None:
    """Write a file that is at its name with all of its content, or not at all.

    Raises: StorageError, and whatever the content raises.
    """
    filesystem = FileSystem()
    folder, _, final = target.rpartition("/")
    with storage_errors("write file", target):
        _remove_leftovers(filesystem, folder or ".", final)
        temporary = f"{folder or '.'}/{temporary_name(final)}"
        fd = filesystem.open_new(temporary)
        try:
            try:
                for chunk in content:
                    filesystem.write_all(fd, chunk)
            finally:
                filesystem.close(fd)
            filesystem.rename(temporary, target)
        except BaseException:
            try_to_remove(temporary)
            raise


def _remove_leftovers(filesystem: FileSystem, folder: str, final: str) -> None:
    """Remove what earlier calls for this target left that were killed."""
    names = [name for name in os.listdir(folder) if name.startswith(f".{final}.tmp-")]
    if not names:
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            remove_leftover(filesystem, name, fd)
    finally:
        os.close(fd)
