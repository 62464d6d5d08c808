"""Holes in the WAL archive that a receiver knows of, and why they are there.

One document for each cluster, which only the holder of the receiver's lock writes. A hole that is
filled later stays in it and is a hole no more: what is missing is decided by what is there.
"""

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Segment
from pgbackup.repo import layout
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.fields import Fields
from pgbackup.repo.repository import ClusterRepository

FORMAT = 1

_LIMIT = 16 << 20  # bytes; a hole takes about 200


class KnownHole(NamedTuple):
    """Segments that a receiver could not get.

    reason:      in words.
    found:       when, UTC.
    is_accepted: the receiver went on behind it, and does not try again.
    """

    stretch: Stretch
    reason: str
    found: datetime
    is_accepted: bool


def read_known_holes(cluster: ClusterRepository, segment_size: int) -> list[KnownHole]:
    """All that were recorded. Raises: CorruptData, StorageError."""
    try:
        return _read(cluster, segment_size)
    except CorruptData as error:
        place = shlex.quote(cluster.storage.locate(layout.wal_holes_object(cluster.system)))
        raise CorruptData(
            error.message,
            detail=error.detail,
            hint=f"It only tells why WAL is missing; to go on without it, type: rm {place}",
        ) from error


def _read(cluster: ClusterRepository, segment_size: int) -> list[KnownHole]:
    name = layout.wal_holes_object(cluster.system)
    try:
        fields = Fields.parse(cluster.storage.read(name, _LIMIT), cluster.storage.locate(name))
    except NotFound:
        return []
    if fields.number("format") != FORMAT:
        raise CorruptData(f'could not read "{fields.name}": its format is not known')
    return [_parse(each, segment_size) for each in fields.groups("holes")]


def put_known_holes(cluster: ClusterRepository, new: Sequence[KnownHole]) -> None:
    """Record holes, durably; they take the place of older ones that begin within them.

    Raises: CorruptData, StorageError.
    """
    if not new:
        return
    size = new[0].stretch.first.size
    kept = [
        each
        for each in read_known_holes(cluster, size)
        if not any(each.stretch.first in hole.stretch for hole in new)
    ]
    document = {"format": FORMAT, "holes": [_document(each) for each in (*kept, *new)]}
    with cluster.storage.writer(layout.wal_holes_object(cluster.system)) as writer:
        writer.write((json.dumps(document, indent=2) + "\n").encode())
        writer.commit(replace=True)


def _document(hole: KnownHole) -> dict[str, object]:
    return {
        "first": hole.stretch.first.name,
        "last": hole.stretch.last.name,
        "reason": hole.reason,
        "found": hole.found.astimezone(UTC).isoformat(timespec="seconds"),
        "is_accepted": hole.is_accepted,
    }


def _parse(fields: Fields, segment_size: int) -> KnownHole:
    return KnownHole(
        Stretch(
            Segment.parse(fields.text("first"), segment_size),
            Segment.parse(fields.text("last"), segment_size),
        ),
        fields.text("reason"),
        fields.time("found"),
        fields.truth("is_accepted"),
    )
