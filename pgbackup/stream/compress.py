"""Compress: a link that turns an archive into independent zstd frames with a seek table.

Each full page buffer becomes one frame, compressed on a thread of its own while the caller fills
the next one; frames are handed on in order, by the caller's thread. Deferred contents of a frame
are written by its thread, just before it compresses them. A frame carries its plain size and
zstd's content checksum, so each can be decoded and proven alone. The manifest passes through
untouched: it stays readable byte for byte.

The pool bounds everything: when all buffers are being compressed the caller waits for the oldest.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import zstandard

from pgbackup.interrupts import held_back
from pgbackup.stream.buffers import BufferPool, PageBuffer
from pgbackup.stream.seekable import encode_seek_table
from pgbackup.stream.sink import Fill, Sink, feed

FRAME_SIZE = 4 * 1024 * 1024
"""Plain bytes per frame: the unit of threads, of seeking and of memory."""

MAX_WORKERS = 16
"""Threads; one stream from one backend cannot feed more, and each costs FRAME_SIZE twice."""

CHECKSUM_SIZE = 4
"""Bytes at the end of a frame: the low half of XXH64 of its content (RFC 8878, 3.1.1)."""


@dataclass(frozen=True, slots=True)
class ZstdSettings:
    """level: zstd's 1 to 19; workers: threads, 1 to MAX_WORKERS."""

    level: int = 3
    workers: int = 1


class Compress(Sink):
    """Compress each archive of a backup with zstd.

    Always: the buffer being filled belongs to this link; buffers in `_pending` belong to the
    thread that compresses them, and are released when their frame has been handed on.
    """

    def __init__(
        self, successor: Sink, settings: ZstdSettings, *, frame_size: int = FRAME_SIZE
    ) -> None:
        super().__init__(successor)
        workers = min(settings.workers, MAX_WORKERS)
        self._pool = BufferPool(2 * workers + 1, frame_size)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compress")
        self._compressors: SimpleQueue[zstandard.ZstdCompressor] = SimpleQueue()
        for _ in range(workers):
            self._compressors.put(zstandard.ZstdCompressor(settings.level, write_checksum=True))
        self._pending: deque[tuple[PageBuffer, int, Future[bytes]]] = deque()
        self._entries: list[tuple[int, int, int]] = []
        self._page: PageBuffer | None = None
        self._fill = 0
        self._later: list[tuple[int, int, Fill]] = []
        self._in_archive = False

    @property
    def buffer(self) -> memoryview:
        if not self._in_archive:
            return self.successor.buffer
        if self._page is None:
            self._page = self._pool.acquire()
        return self._page.view[self._fill :]

    def begin_archive(self, name: str) -> None:
        self._in_archive = True
        self._entries = []
        self.successor.begin_archive(name + ".zst")

    def archive_contents(self, length: int) -> None:
        self._fill += length
        if self._fill == self._pool.size:
            self._submit()
        self._hand_on_finished()

    def archive_later(self, length: int, fill: Fill) -> None:
        self._later.append((self._fill, length, fill))
        self.archive_contents(length)

    def flush(self) -> None:
        if self._fill:
            self._submit()
        self._hand_on_finished()

    def end_archive(self) -> None:
        if self._fill:
            self._submit()
        while self._pending:
            self._hand_on()
        feed(self.successor, memoryview(encode_seek_table(self._entries)))
        self._in_archive = False
        self.successor.end_archive()

    def cleanup(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        while self._pending:
            self._pending.popleft()[0].release()
        if self._page is not None:
            self._page.release()
            self._page = None
        self._pool.close()
        self.successor.cleanup()

    def _is_exhausted(self) -> bool:
        return len(self._pending) == self._pool.count

    def _submit(self) -> None:
        assert self._page is not None
        with held_back():  # the first calls start threads
            page, length, later = self._page, self._fill, self._later
            self._page, self._fill, self._later = None, 0, []
            frame = self._threads.submit(self._compress, page, length, later)
            self._pending.append((page, length, frame))

    def _compress(self, page: PageBuffer, length: int, later: list[tuple[int, int, Fill]]) -> bytes:
        compressor = self._compressors.get()
        try:
            for offset, size, fill in later:
                fill(page.view[offset : offset + size])
            return compressor.compress(page.view[:length])
        finally:
            self._compressors.put(compressor)

    def _hand_on_finished(self) -> None:
        """Hand on what is finished, and wait for the oldest if no buffer is left."""
        while self._pending and (self._pending[0][2].done() or self._is_exhausted()):
            self._hand_on()

    def _hand_on(self) -> None:
        page, length, future = self._pending[0]
        frame = future.result()
        self._pending.popleft()
        page.release()
        checksum = int.from_bytes(frame[-CHECKSUM_SIZE:], "little")
        self._entries.append((len(frame), length, checksum))
        feed(self.successor, memoryview(frame))
