"""Where the receiver's WAL goes: the archive's directory, published positions, and a compressor.

Opened once per run, when the cluster is known and its lock taken; every new connection begins
again at the start of a segment.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pgbackup.archiving.compressing import SegmentCompressor
from pgbackup.pg.lsn import Lsn, Segment, WalPosition
from pgbackup.replication.published import PositionsWriter
from pgbackup.replication.waldir import WalDirectory
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.repository import ClusterRepository


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
    ) -> None:
        """Open the directory and take over what a killed run left.

        root:  the directory in which the storage's objects are files.
        level: of zstd; None keeps segments plain.
        tell:  is given sentences for people.
        """
        folder = layout.wal_folder(cluster.system)
        cluster.storage.reap(folder)
        with ExitStack() as stack:
            self._compressor: SegmentCompressor | None = None
            if level is not None:
                compressor = SegmentCompressor(cluster.archive, level, tell)
                self._compressor = stack.enter_context(compressor)
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
        return self.directory.write_lsn

    @property
    def flush_lsn(self) -> Lsn:
        return self.directory.flush_lsn

    @property
    def position(self) -> WalPosition:
        """Where the next byte is due."""
        return WalPosition(self.directory.segment.timeline, self.write_lsn)

    def begin(self, position: WalPosition) -> WalPosition:
        """Go on with the segment that holds a position; return that segment's start."""
        self.directory.begin(position)
        self.directory.prepare()
        return self.position

    def follow(self, server_end: Callable[[], Lsn]) -> None:
        """Publish where the server's WAL ends, as far as a stream has learnt it."""
        self._server_end = server_end
        self._publish()

    def write(self, start: Lsn, data: memoryview) -> None:
        segment = self.directory.segment
        self.directory.write(start, data)
        if self.directory.segment != segment:
            self.directory.prepare()
        self._publish()

    def flush(self) -> None:
        self.directory.flush()
        self._publish()

    def release(self) -> None:
        """Let go of the unfinished segment, as it is."""
        self.directory.close_file()

    def finish(self) -> None:
        """Let all finished segments be compressed."""
        if self._compressor is not None:
            self._compressor.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _publish(self) -> None:
        self._positions.publish(self.position, self.flush_lsn, self._server_end())

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
