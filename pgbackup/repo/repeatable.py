"""A file on its way into the WAL archive whose content can be read more than once.

What archive_command is given stays where it is until we have answered. So nothing has to be
remembered of it, not even a checksum: if the name is bound already, or is bound by somebody else
meanwhile, the file is read again and compared.
"""

from collections.abc import Callable, Iterable

from pgbackup.errors import Conflict, CorruptData
from pgbackup.pg.lsn import WalFileKind, WalFileName
from pgbackup.repo.seal import SealingCompressor
from pgbackup.repo.segmentwriter import ComparingWriter
from pgbackup.repo.storedwal import StoredWal
from pgbackup.storage.api import Bytes, ObjectWriter, Storage

Content = Callable[[], Iterable[Bytes]]
"""Begins to read the content from its start; raises PgbackupError if that cannot be done."""


def archive_file(
    storage: Storage, system: int, name: str, size: int, content: Content, level: int | None
) -> str:
    """Have a file in the archive, durably: stored now, or found to be there already.

    size:  bytes that the content must have.
    level: of zstd; None stores it plain.

    Returns: the object that holds it.

    Raises: Conflict if other content has the name, the newcomer being kept aside; CorruptData,
    StorageError, UsageError for a name that PostgreSQL would not give.
    """
    file = StoredWal(storage, system, name)
    own = file.object_name(compressed=level is not None)
    other = file.object_name(compressed=level is None)
    found = file.find()
    if found is not None:
        return _compare(file, size, content, found)
    with storage.writer(own) as writer:
        _write(writer, size, content, level, name)
        if storage.exists(other):
            return _compare(file, size, content, other)
        try:
            writer.commit()
        except Conflict:
            return _compare(file, size, content, own)
    if storage.exists(other):
        _settle(file, size, content, own, other)
    return own


def _write(writer: ObjectWriter, size: int, content: Content, level: int | None, name: str) -> None:
    compressor = None if level is None else SealingCompressor(level, size)
    position = 0
    for chunk in content():
        position += len(chunk)
        if position > size:
            break
        writer.write(chunk if compressor is None else compressor.compress(chunk))
    if position != size:
        raise CorruptData(f'could not archive WAL file "{name}": it is not of {size} bytes')
    if compressor is not None:
        writer.write(compressor.flush())


def _compare(file: StoredWal, size: int, content: Content, found: str) -> str:
    """Compare with what is archived, and keep the newcomer aside if it differs.

    An unfinished segment may differ: a receiver has written as much of it as it got, and a server
    that is promoted archives as much as it had, with whatever its file held behind that. Nobody
    needs it, since the next timeline begins with it; that server would archive nothing more.
    """
    try:
        with ComparingWriter(file, size) as writer:
            for chunk in content():
                writer.write(chunk)
            writer.commit()
    except Conflict:
        if not (_is_unfinished(file) and _is_kept(file, content)):
            raise
        return file.conflict
    return found


def _is_unfinished(file: StoredWal) -> bool:
    return WalFileName.parse(file.name).kind is WalFileKind.PARTIAL


def _is_kept(file: StoredWal, content: Content) -> bool:
    """Tell whether this very content is kept aside, durably."""
    if not _is_same(file.object_chunks(file.conflict), content()):
        return False
    file.storage.sync(file.conflict)
    return True


def _settle(file: StoredWal, size: int, content: Content, own: str, other: str) -> None:
    """Withdraw if somebody stored other content in the other form at the same moment."""
    if not _is_same(file.object_chunks(other), content()):
        file.storage.delete(own)
        _compare(file, size, content, other)


def _is_same(archived: Iterable[Bytes], content: Iterable[Bytes]) -> bool:
    """Compare two contents that come in pieces of any size."""
    ahead = b""
    pieces = iter(archived)
    for chunk in content:
        while len(ahead) < len(chunk) and (piece := next(pieces, None)) is not None:
            ahead += piece
        if ahead[: len(chunk)] != chunk:
            return False
        ahead = ahead[len(chunk) :]
    return not ahead and not any(pieces)
