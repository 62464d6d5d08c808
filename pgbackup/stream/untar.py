"""Walk the members of a tar stream, whatever the size of the pieces it arrives in.

The walker knows headers, padding and the end marker; what to do with a member is its handler's
business. It never opens a file and trusts nothing: a stream that ends inside a member, or goes on
after its end marker, is an error.
"""

from typing import Protocol

from pgbackup.errors import CorruptData
from pgbackup.pg.tar import BLOCK_SIZE, TarHeader, padding


class MemberHandler(Protocol):
    """What happens to the members of a tar stream, in order."""

    def begin_member(self, header: TarHeader, offset: int) -> None:
        """A member starts; `offset` is where its header stands in the archive, in bytes."""

    def member_contents(self, data: memoryview) -> None:
        """Some of the member's bytes; not kept after return. Empty files get no call."""

    def end_member(self) -> None:
        """All of the member's bytes have been seen."""


class TarWalker:
    """Cut a tar stream into members.

    offset:     position of the next byte in the archive; start anywhere a header stands.
    end_offset: where the end marker stands, once it has been seen.
    """

    def __init__(self, handler: MemberHandler, *, offset: int = 0, name: str = "archive") -> None:
        self._handler = handler
        self._name = name
        self._partial = bytearray()
        self._contents = 0
        self._padding = 0
        self.offset = offset
        self.end_offset: int | None = None

    @property
    def is_inside_header(self) -> bool:
        """Whether a header has begun and not ended."""
        return bool(self._partial)

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the stream. Raises: CorruptData."""
        position = 0
        while position < len(data):
            if self._contents:
                position += self._feed_contents(data[position:])
            elif self._padding:
                length = min(self._padding, len(data) - position)
                self._padding -= length
                self.offset += length
                position += length
            else:
                position += self._feed_header(data, position)

    def skip(self, length: int) -> None:
        """Pass over so many bytes of the member's contents; the handler does not get them."""
        if length > self._contents:
            raise ValueError("only contents of one member can be passed over")
        self._advance(length)

    def finish(self, *, is_whole: bool = False) -> None:
        """Say that the stream is over.

        is_whole: it was the rest of an archive, so its end marker has to have come.

        Raises: CorruptData when the end came too early.
        """
        if self._contents or self._padding or self._partial:
            raise CorruptData(f'could not read "{self._name}": it ends inside a member')
        if is_whole and self.end_offset is None:
            raise CorruptData(f'could not read "{self._name}": it ends without its end marker')

    def _feed_contents(self, data: memoryview) -> int:
        length = min(self._contents, len(data))
        self._handler.member_contents(data[:length])
        self._advance(length)
        return length

    def _advance(self, length: int) -> None:
        self._contents -= length
        self.offset += length
        if not self._contents:
            self._handler.end_member()

    def _feed_header(self, data: memoryview, position: int) -> int:
        length = min(BLOCK_SIZE - len(self._partial), len(data) - position)
        piece = data[position : position + length]
        if length == BLOCK_SIZE:
            self._header(piece)
            return length
        self._partial += piece
        if len(self._partial) == BLOCK_SIZE:
            block, self._partial = self._partial, bytearray()
            self._header(memoryview(block))
        return length

    def _header(self, block: memoryview) -> None:
        header = TarHeader.parse(block)
        start = self.offset
        self.offset += BLOCK_SIZE
        if header is None:
            if self.end_offset is None:
                self.end_offset = start
            return
        if self.end_offset is not None:
            raise CorruptData(f'could not read "{self._name}": a member follows its end marker')
        self._contents = header.size
        self._padding = padding(header.size)
        self._handler.begin_member(header, start)
        if not header.size:
            self._handler.end_member()
