"""Where the receiver's WAL goes: the archive's directory, published positions, and a compressor.

Opened once per run, when the cluster is known and its lock taken; every new connection begins
again at the start of a segment.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

from pgbackup.archiving.receiver.ahead import MAX_SEGMENT_SIZE, SegmentsAhead
from pgbackup.archiving.receiver.compressing import SegmentCompressor
from pgbackup.pg.lsn import Lsn, Segment, WalPosition
from pgbackup.pg.walfile import check_segment_header
from pgbackup.replication.published import PositionsWriter
from pgbackup.replication.waldir import WalDirectory
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.repository import ClusterRepository
from pgbackup.stream.buffers import PageBuffer


class ReceivedWal:
    """A WalDestination on a file system.

    Always: what is published never runs ahead of the directory.
    """

    def __init__(
        self,
        cluster: ClusterRepository,
        root: str,
        segment_size: int,
        level: int | None,
        tell: Callable[[str], None],
        *,
        may_run_ahead: bool = True,
        moved: Callable[[], object] | None = None,
    ) -> None:
        """Open the directory and take over what a killed run left.

        root:  the directory in which the storage's objects are files.
        level: of zstd; None keeps segments plain.
        tell:  is given sentences for people.
        may_run_ahead: far behind the server, whole segments may wait in memory to be stored.
        moved: is called when more is durable, or another timeline has begun.
        """
        folder = layout.wal_folder(cluster.system)
        cluster.storage.reap(folder)
        with ExitStack() as stack:
            self._compressor: SegmentCompressor | None = None
            if level is not None:
                compressor = SegmentCompressor(cluster.archive, level, tell)
                self._compressor = stack.enter_context(compressor)
            self._ahead: SegmentsAhead | None = None
            if may_run_ahead and segment_size <= MAX_SEGMENT_SIZE:
                ahead = SegmentsAhead(cluster.archive, level, segment_size)
                self._ahead = stack.enter_context(ahead)
            self._system = cluster.system
            self._filling: PageBuffer | None = None
            self._memory: Segment | None = None
            self._filled = 0
            self._is_streaming = False
            self._moved = moved
            self._told: WalPosition | None = None
            self.directory = stack.enter_context(
                WalDirectory(
                    f"{root}/{folder}",
                    cluster.system,
                    segment_size,
                    archived=_archived(cluster.archive),
                    finished=self._compress,
                    compressed_suffix=layout.COMPRESSED_SUFFIX,
                )
            )
            self._positions = PositionsWriter(
                f"{root}/{layout.receiver_positions(cluster.system)}", cluster.system
            )
            stack.callback(self._positions.close)
            self._compress_leftovers(cluster.archive, segment_size)
            self._stack = stack.pop_all()
        self._server_end: Callable[[], Lsn] = lambda: Lsn(0)

    @property
    def write_lsn(self) -> Lsn:
        if self._memory is None:
            return self.directory.write_lsn
        return self._memory.start + self._filled

    @property
    def flush_lsn(self) -> Lsn:
        return self.directory.flush_lsn

    @property
    def position(self) -> WalPosition:
        """Where the next byte is due."""
        return WalPosition(self.directory.segment.timeline, self.write_lsn)

    def begin(self, position: WalPosition) -> WalPosition:
        """Go on with the segment that holds a position; return that segment's start."""
        self.release()
        self.directory.begin(position)
        self.directory.prepare()
        return self.position

    def follow(self, server_end: Callable[[], Lsn]) -> None:
        """Publish where the server's WAL ends, as far as a stream has learnt it."""
        self._server_end = server_end
        self._is_streaming = True
        self._publish()

    def write(self, start: Lsn, data: memoryview) -> None:
        while len(data):
            if self._filling is None and self._is_far_behind():
                self._begin_filling()
            taken = self._write_raw(data) if self._filling is None else self._fill(data)
            data = data[taken:]
        self._take_stored(wait=False)
        self._publish()

    def flush(self) -> None:
        """Make everything durable; a segment that is still coming leaves the memory for a file."""
        self._leave_memory()
        self.directory.flush()
        self._publish()

    def release(self) -> None:
        """Let go of the unfinished segment, as it is."""
        if self._filling is not None:
            self._filling.release()
        if self._ahead is not None:
            self._ahead.forget()
        self._filling = self._memory = None
        self.directory.close_file()
        if self._is_streaming:
            self._is_streaming = False
            self._publish()

    def finish(self) -> None:
        """Let all finished segments be compressed."""
        if self._compressor is not None:
            self._compressor.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._stack.close()

    def _is_far_behind(self) -> bool:
        """Tell whether the server already has the whole segment that begins at write_lsn."""
        if self._ahead is None or self.directory.is_open:
            return False
        segment = self._memory or self.directory.segment
        return self.write_lsn == segment.start and self._server_end() >= segment.end

    def _begin_filling(self) -> None:
        assert self._ahead is not None
        self._memory = self._memory or self.directory.segment
        self._filling = self._ahead.acquire()
        self._filled = 0

    def _fill(self, data: memoryview) -> int:
        """Copy into memory what belongs to the segment there; hand it on when it is whole."""
        assert self._ahead is not None
        assert self._filling is not None
        assert self._memory is not None
        segment, length = self._memory, min(len(data), self._memory.size - self._filled)
        self._filling.view[self._filled : self._filled + length] = data[:length]
        self._filled += length
        if self._filled == segment.size:
            check_segment_header(self._filling.view, segment, self._system)
            self._ahead.add(segment, self._filling)
            self._filling, self._memory, self._filled = None, segment.next(), 0
        return length

    def _write_raw(self, data: memoryview) -> int:
        self._leave_memory()
        segment = self.directory.segment
        piece = data[: segment.end - self.directory.write_lsn]
        self.directory.write(self.directory.write_lsn, piece)
        if self.directory.segment != segment and not self._is_far_behind():
            self.directory.prepare()
        return len(piece)

    def _leave_memory(self) -> None:
        """Have all whole segments stored, and go on in the directory."""
        if self._memory is None:
            return
        self._take_stored(wait=True)
        filling, self._filling, self._memory = self._filling, None, None
        if filling is not None:
            try:
                self.directory.write(self.directory.write_lsn, filling.view[: self._filled])
            finally:
                filling.release()

    def _take_stored(self, *, wait: bool) -> None:
        if self._ahead is not None:
            for segment in self._ahead.take_stored(wait=wait):
                self.directory.skip(segment)
            if wait:
                self._ahead.take_stored(wait=True)  # a failure behind those that were stored

    def _publish(self) -> None:
        self._positions.publish(
            self.position, self.flush_lsn, self._server_end(), is_streaming=self._is_streaming
        )
        durable = WalPosition(self.directory.segment.timeline, self.flush_lsn)
        if self._moved is not None and durable != self._told:
            self._told = durable
            self._moved()

    def _compress(self, segment: Segment) -> None:
        if self._compressor is not None:
            self._compressor.add(segment)

    def _compress_leftovers(self, archive: WalArchive, segment_size: int) -> None:
        for file in archive.segments():
            if not file.is_compressed and file.stored_size == segment_size:
                self._compress(file.name.segment(segment_size))


def _archived(archive: WalArchive) -> Callable[[str], Iterator[bytes] | None]:
    def content(name: str) -> Iterator[bytes] | None:
        return None if archive.find(name) is None else proven(name)

    def proven(name: str) -> Iterator[bytes]:
        yield from archive.chunks(name)
        archive.sync(name)

    return content
