"""What the receiver has of a segment that was never finished: data that it acknowledged.

It is delivered only on demand (wal-get --partial), and only while it is the newest that there is
of its place: a timeline that parted before its end has its own version of what follows.
"""

from pgbackup.archiving.get import WalSource
from pgbackup.errors import CorruptData
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Segment, WalFileKind
from pgbackup.pg.walfile import check_pages

_SUFFIX = ".partial"


def partial_content(source: WalSource, segment: Segment) -> bytes | None:
    """An unfinished segment, filled up with zeros; None if there is none to deliver.

    Raises: CorruptData if a page of it cannot be used, WrongSystem, StorageError.
    """
    archive = source.cluster.archive
    name = segment.name + _SUFFIX
    if archive.find(name) is None or has_newer_timeline(source, segment):
        return None
    data = b"".join(archive.chunks(name))
    if len(data) > segment.size:
        raise CorruptData(
            f'could not get WAL file "{name}": it has {len(data)} bytes and a segment '
            f"{segment.size}"
        )
    data += bytes(segment.size - len(data))
    if not any(data[:8]):
        return None  # made, and nothing received yet
    check_pages(data, segment, source.cluster.system)
    return data


def has_newer_timeline(source: WalSource, segment: Segment) -> bool:
    """Tell whether a timeline of the archive left this one before the end of the segment.

    One without history counts if it has a segment of this number: it cannot be told from where.

    Raises: CorruptData for a history that cannot be read, StorageError.
    """
    archive = source.cluster.archive
    newer = [
        each.name
        for each in archive.files()
        if each.name.timeline is not None and each.name.timeline > segment.timeline
    ]
    known = set()
    for name in newer:
        if name.kind is WalFileKind.HISTORY and name.timeline is not None:
            known.add(name.timeline)
            history = TimelineHistory.parse(name.timeline, archive.read(name.text))
            if any(
                entry.timeline == segment.timeline and entry.switch < segment.end
                for entry in history.entries
            ):
                return True
    return any(
        name.timeline not in known and (name.segment_name or "")[8:] == segment.name[8:]
        for name in newer
    )
