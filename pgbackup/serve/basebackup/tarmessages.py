"""How clients of PostgreSQL 13 and 14 want the bytes of an archive cut into messages.

A header is a message of its own, and so is padding; contents never go beyond the end of their
member. The end marker is left out: these clients write it themselves.

Source: basebackup.c, sendFile; pg_basebackup.c, ReceiveTarAndUnpackCopyChunk (PostgreSQL 14)
"""

from collections.abc import Iterator

from pgbackup.pg.tar import BLOCK_SIZE, TarHeader, padding
from pgbackup.storage.api import Bytes


class TarMessages:
    """The state between pieces of one archive."""

    def __init__(self, largest: int) -> None:
        """largest: bytes of a message."""
        self._largest = largest
        self._contents = 0
        self._padding = 0
        self._held = bytearray()
        self._is_over = False

    def cut(self, data: memoryview) -> Iterator[Bytes]:
        """Yield the messages that the next bytes complete. Raises: CorruptData."""
        position = 0
        while position < len(data) and not self._is_over:
            if self._contents:
                length = min(self._contents, self._largest, len(data) - position)
                self._contents -= length
                yield data[position : position + length]
            else:
                wanted = self._padding or BLOCK_SIZE
                length = min(wanted - len(self._held), len(data) - position)
                block: Bytes = data[position : position + length]
                if length < wanted:
                    self._held += block
                    block = bytes(self._held)
                if len(block) == wanted:
                    self._held.clear()
                    yield from self._block(block)
            position += length

    def _block(self, block: Bytes) -> Iterator[Bytes]:
        """A whole header or padding."""
        if self._padding:
            self._padding = 0
            yield block
        elif (header := TarHeader.parse(block)) is None:
            self._is_over = True
        else:
            self._contents, self._padding = header.size, padding(header.size)
            yield block
