"""Pages of a base backup that a thread fills ahead of the socket.

The owner fills pages or says who will; each full page goes, in order, to a function that sends it,
on the owner's thread. Contents that are written later are written by a thread of this class, page
by page, while the owner sends the pages before. The pool bounds everything: when all pages wait to
be sent, the owner waits for the oldest and sends it.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pgbackup.stream.buffers import BufferPool, PageBuffer
from pgbackup.stream.compress import FRAME_SIZE
from pgbackup.stream.sink import Fill

PAGES = 2
"""One is being sent and one is being filled; a third one was measured to gain nothing."""


@dataclass(slots=True)
class _Page:
    """fill: bytes at its start that have been or will be written."""

    buffer: PageBuffer
    fill: int = 0
    later: list[tuple[int, int, Fill]] = field(default_factory=list)
    written: Future[None] | None = None

    def write(self) -> None:
        for offset, length, fill in self.later:
            fill(self.buffer.view[offset : offset + length])


class PagesAhead:
    """Always: the page being filled is the owner's; those in `_waiting` are full, or the thread's.

    send: called with each full page, of up to `size` bytes.
    size: bytes of a page; a stored frame fits into the default.
    """

    def __init__(self, send: Callable[[memoryview], None], *, size: int = FRAME_SIZE) -> None:
        self._send = send
        self._pool = BufferPool(PAGES, size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages-ahead")
        self._page: _Page | None = None
        self._waiting: deque[_Page] = deque()

    @property
    def buffer(self) -> memoryview:
        """Where the next bytes go; read again after each call."""
        page = self._current()
        return page.buffer.view[page.fill :]

    def add(self, length: int) -> None:
        """Take `length` bytes at the start of `buffer`."""
        page = self._current()
        page.fill += length
        if page.fill == self._pool.size:
            self.put()

    def add_later(self, length: int, fill: Fill) -> None:
        """Have the first `length` bytes of `buffer` written by the thread."""
        page = self._current()
        page.later.append((page.fill, length, fill))
        self.add(length)

    def put(self) -> None:
        """Begin a new page if there is anything in this one, and send older ones that are ready."""
        page = self._page
        if page is None or not page.fill:
            return
        self._page = None
        if page.later:
            page.written = self._thread.submit(page.write)
        self._waiting.append(page)
        while self._has_next() and (self._is_ready() or len(self._waiting) == self._pool.count):
            self._send_oldest()

    def send_all(self) -> None:
        """Return when all that was added has been sent."""
        self.put()
        while self._waiting:
            self._send_oldest()

    def close(self) -> None:
        """Stop the thread, and give up what has not been sent."""
        self._thread.shutdown(cancel_futures=True)
        for page in self._waiting:
            page.buffer.release()
        self._waiting.clear()
        if self._page is not None:
            self._page.buffer.release()
            self._page = None
        self._pool.close()

    def _current(self) -> _Page:
        if self._page is None:
            self._page = _Page(self._pool.acquire())
        return self._page

    def _has_next(self) -> bool:
        """Whether the thread has something to do while the oldest page is sent."""
        return len(self._waiting) > 1

    def _is_ready(self) -> bool:
        written = self._waiting[0].written
        return written is None or written.done()

    def _send_oldest(self) -> None:
        page = self._waiting[0]
        if page.written is not None:
            page.written.result()
        self._send(page.buffer.view[: page.fill])
        self._waiting.popleft()
        page.buffer.release()
