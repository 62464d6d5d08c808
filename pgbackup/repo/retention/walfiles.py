"""A listing of the WAL archive as retention wants it: quick for hundreds of thousands of files."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Segment, Timeline, WalFileKind, WalFileName
from pgbackup.repo import layout
from pgbackup.storage.api import ObjectStat


class ListedFile(NamedTuple):
    """A file of the archive.

    name:     as stored.
    number:   of the segment that it is, or is a part of, or belongs to; 0 for a history.
    size:     bytes of the object.
    modified: when it came, in seconds since 1970-01-01 UTC.
    """

    name: str
    kind: WalFileKind
    timeline: Timeline
    number: int
    size: int
    modified: float


def sort_out(
    objects: Iterable[ObjectStat], folder: str, segment_size: int
) -> tuple[list[ListedFile], list[str]]:
    """Take the names in an archive apart.

    folder: in front of every name.

    Returns: the files in the order given, and the names that no file of this archive has.
    """
    known: list[ListedFile] = []
    unknown: list[str] = []
    segment = re.compile(r"[0-9A-F]{24}").fullmatch
    kind = WalFileKind.SEGMENT  # an attribute of an Enum is slow to get
    per_log = (1 << 32) // segment_size
    timelines: dict[str, Timeline | None] = {}
    for each in objects:
        plain = each.name[len(folder) :].removesuffix(layout.COMPRESSED_SUFFIX)
        if segment(plain):
            digits = plain[:8]
            if digits not in timelines:
                timelines[digits] = WalFileName.parse(plain).timeline
            timeline, low = timelines[digits], int(plain[16:], 16)
            if timeline is not None and low < per_log:
                number = int(plain[8:16], 16) * per_log + low
                known.append(
                    ListedFile(each.name, kind, timeline, number, each.size, each.modified)
                )
            else:
                unknown.append(each.name)
        else:
            file = _other(each, plain, segment_size)
            if file is None:
                unknown.append(each.name)
            else:
                known.append(file)
    return known, unknown


def _other(found: ObjectStat, plain: str, segment_size: int) -> ListedFile | None:
    name = WalFileName.parse(plain)
    if name.timeline is None:
        return None
    number = 0
    if name.kind is not WalFileKind.HISTORY:
        try:
            number = Segment.parse(plain[:24], segment_size).number
        except CorruptData:
            return None
    return ListedFile(found.name, name.kind, name.timeline, number, found.size, found.modified)
