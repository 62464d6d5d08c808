"""Taking WAL from a stream as a connection does: waiting on its descriptor."""

import select
from collections.abc import Iterator

from pgbackup.serve.wal.walstream import HEADROOM, PIECE_SIZE, WalStream


def pieces(stream: WalStream, start: int, end: int | None = None) -> Iterator[bytes]:
    """Take pieces up to a position, or to the end of the timeline; they join and are not large."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    position = start
    while not stream.is_over and (end is None or position < end):
        taken = stream.take()
        if not taken:
            assert poll.poll(30_000), "nothing came for half a minute"
            continue
        (piece,) = taken
        assert piece.start == position
        assert 0 < len(piece.data) <= PIECE_SIZE
        assert len(piece.buffer.headroom) == HEADROOM
        position += len(piece.data)
        data = bytes(piece.data)
        piece.buffer.release()
        yield data
