"""The member index of an archive: where each member starts.

One line a member, in archive order: header offset, content size, tar type, percent-encoded name,
separated by tabs. It lets a reader reach a single file, and several readers share an archive,
without walking it. It is an aid, never the truth: readers compare it with the headers they find.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pgbackup.errors import CorruptData
from pgbackup.pg.tar import TarHeader
from pgbackup.stream.sink import Sink
from pgbackup.stream.untar import TarWalker

SAFE_IN_NAMES = "/+=@,:~"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """offset: where the header stands, in bytes of the plain archive; size: content bytes."""

    offset: int
    size: int
    type: str
    name: str


def encode_entry(header: TarHeader, offset: int) -> bytes:
    """One line of the index."""
    name = quote_from_bytes(header.name.encode("utf-8", "surrogateescape"), SAFE_IN_NAMES)
    return f"{offset}\t{header.size}\t{header.type}\t{name}\n".encode("ascii")


def decode_index(data: bytes, name: str) -> list[IndexEntry]:
    """Read an index object. Raises: CorruptData."""
    entries = []
    previous = -1
    for line in data.splitlines():
        fields = line.decode("ascii", "replace").split("\t")
        if len(fields) != 4 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise CorruptData(f'could not read index "{name}": a line is not of its format')
        member = unquote_to_bytes(fields[3]).decode("utf-8", "surrogateescape")
        entry = IndexEntry(int(fields[0]), int(fields[1]), fields[2], member)
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

    def end_archive(self) -> None:
        self._walker.finish()
        self.successor.end_archive()
        self._put_index(self._archive, b"".join(self._lines))

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self._lines.append(encode_entry(header, offset))
        self.members += 1

    def member_contents(self, data: memoryview) -> None:
        pass

    def end_member(self) -> None:
        pass
