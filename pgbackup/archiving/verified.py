"""Up to where the WAL archive was verified, remembered in the repository.

Only a convenience: without it everything is read again. It is kept by stretch of segments, not by
timeline, so that what fills a hole later is not taken for verified.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.repo import layout
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.fields import Fields
from pgbackup.repo.repository import ClusterRepository

FORMAT = 1

_LIMIT = 16 << 20  # bytes; one stretch takes about 200


class Verified(NamedTuple):
    """Segments in which everything was right.

    through: behind the last record that is whole in them.
    resume:  where that record begins; a later check begins with its segment.
    """

    first: Segment
    last: Segment
    through: Lsn
    resume: Lsn

    def within(self, stretch: Stretch) -> "Verified | None":
        """What of this is the beginning of a stretch; None if it is not."""
        if self.first.timeline != stretch.timeline:
            return None
        if not self.first.number <= stretch.first.number <= self.last.number:
            return None
        if self.last.number <= stretch.last.number:
            return self._replace(first=stretch.first)
        return Verified(stretch.first, stretch.last, stretch.end, stretch.last.start)


def read_verified(cluster: ClusterRepository, segment_size: int) -> list[Verified]:
    """What was remembered; nothing if it cannot be understood. Raises: StorageError."""
    name = layout.wal_verified_object(cluster.system)
    try:
        fields = Fields.parse(cluster.storage.read(name, _LIMIT), name)
        if fields.number("format") != FORMAT:
            return []
        return [_parse(each, segment_size) for each in fields.groups("stretches")]
    except (NotFound, CorruptData):
        return []


def put_verified(cluster: ClusterRepository, stretches: Iterable[Verified]) -> None:
    """Remember this and nothing else. Raises: StorageError."""
    document = {
        "format": FORMAT,
        "stretches": [
            {
                "first": each.first.name,
                "last": each.last.name,
                "through": str(each.through),
                "resume": str(each.resume),
            }
            for each in stretches
        ],
    }
    with cluster.storage.writer(layout.wal_verified_object(cluster.system)) as writer:
        writer.write((json.dumps(document, indent=2) + "\n").encode())
        writer.commit(replace=True)


def _parse(fields: Fields, segment_size: int) -> Verified:
    return Verified(
        Segment.parse(fields.text("first"), segment_size),
        Segment.parse(fields.text("last"), segment_size),
        fields.lsn("through"),
        fields.lsn("resume"),
    )
