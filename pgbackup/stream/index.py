"""The member index of an archive: where each member starts.

One line a member, in archive order: header offset, content size, tar type, name, separated by
tabs; type and name are percent-encoded. It lets a reader reach a single file, and several readers
share an archive, without walking it. It is an aid, never the truth: readers compare it with the
headers they find.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from pgbackup.errors import CorruptData
from pgbackup.pg.tar import TarHeader
from pgbackup.stream.sink import Fill, Sink
from pgbackup.stream.untar import TarWalker

SAFE_IN_NAMES = "/+=@,:~"

_LINE = re.compile(rb"([0-9]{1,20})\t([0-9]{1,20})\t([^\t]+)\t([^\t]+)")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """offset: where the header stands, in bytes of the plain archive; size: content bytes."""

    offset: int
    size: int
    type: str
    name: str


def encode_entry(header: TarHeader, offset: int) -> bytes:
    """One line of the index."""
    kind = quote(header.type, safe="", encoding="latin-1")
    name = quote_from_bytes(header.name.encode("utf-8", "surrogateescape"), SAFE_IN_NAMES)
    return f"{offset}\t{header.size}\t{kind}\t{name}\n".encode("ascii")


def decode_index(data: bytes, name: str) -> list[IndexEntry]:
    """Read an index object. Raises: CorruptData."""
    entries = []
    previous = -1
    *lines, rest = data.split(b"\n")
    if rest:
        raise CorruptData(f'could not read index "{name}": its last line is cut off')
    for line in lines:
        fields = _LINE.fullmatch(line)
        if fields is None:
            raise CorruptData(f'could not read index "{name}": a line is not of its format')
        kind = unquote_to_bytes(fields[3]).decode("latin-1")
        member = unquote_to_bytes(fields[4]).decode("utf-8", "surrogateescape")
        entry = IndexEntry(int(fields[1]), int(fields[2]), kind, member)
        if entry.offset <= previous:
            raise CorruptData(f'could not read index "{name}": its offsets do not ascend')
        previous = entry.offset
        entries.append(entry)
    return entries


class TarIndex(Sink):
    """A link that only looks: notes each member of each archive, and hands over the index.

    put_index: called at the end of an archive with its plain name and the encoded index.
    """

    def __init__(self, successor: Sink, put_index: Callable[[str, bytes], object]) -> None:
        super().__init__(successor)
        self._put_index = put_index
        self._lines: list[bytes] = []
        self._archive = ""
        self._walker = TarWalker(self)
        self.members = 0

    def begin_archive(self, name: str) -> None:
        self._archive = name
        self._lines = []
        self._walker = TarWalker(self, name=name)
        self.successor.begin_archive(name)

    def archive_contents(self, length: int) -> None:
        self._walker.feed(self.successor.buffer[:length])
        self.successor.archive_contents(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        self._walker.skip(length)
        self.successor.archive_later(length, fill)

    def end_archive(self) -> None:
        self._walker.finish(is_whole=True)
        self.successor.end_archive()
        self._put_index(self._archive, b"".join(self._lines))

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self._lines.append(encode_entry(header, offset))
        self.members += 1

    def member_contents(self, data: memoryview) -> None:
        pass

    def end_member(self) -> None:
        pass
