"""Packer: how a source that reads files puts the members of an archive into a sink.

Headers and what is small fill the sink's buffers one after the other; large contents are deferred,
piece by piece, and no page of them is cut in two by the end of a buffer. Made for one archive.
"""

from collections.abc import Callable

from pgbackup.stream.sink import LARGEST_ROOM, Fill, Sink


class Packer:
    """Always: what was put and not handed on stands at the start of `_buffer`."""

    def __init__(self, sink: Sink) -> None:
        """Begin, within an archive of the sink."""
        self._sink = sink
        self._buffer = sink.buffer
        self._fill = 0

    def room(self, length: int) -> memoryview:
        """Memory for the next bytes of the archive, to be filled before any other call.

        length: up to LARGEST_ROOM.
        """
        if self._fill + length > len(self._buffer):
            self.hand_on()
            if length > len(self._buffer):
                self.flush()
        start, self._fill = self._fill, self._fill + length
        return self._buffer[start : self._fill]

    def put(self, data: bytes) -> None:
        """Append bytes of any length."""
        for offset in range(0, len(data), LARGEST_ROOM):
            piece = data[offset : offset + LARGEST_ROOM]
            self.room(len(piece))[:] = piece

    def defer(self, length: int, page: int, later: Callable[[int, int], Fill]) -> None:
        """Append contents that are read later, in pieces and on any thread.

        page:  bytes that are never cut in two.
        later: called with offset and length of each piece, for what will read it.
        """
        self.hand_on()
        offset = 0
        while offset < length:
            piece = min(len(self._buffer), length - offset)
            if piece < length - offset:
                piece -= piece % page
            if not piece:
                self.flush()
                continue
            self._sink.archive_later(piece, later(offset, piece))
            self._buffer = self._sink.buffer
            offset += piece

    def hand_on(self) -> None:
        """Let the sink have what was put."""
        if self._fill:
            self._sink.archive_contents(self._fill)
            self._buffer, self._fill = self._sink.buffer, 0

    def flush(self) -> None:
        """Let the whole chain go on with all that was put or deferred."""
        self.hand_on()
        self._sink.flush()
        self._buffer = self._sink.buffer
