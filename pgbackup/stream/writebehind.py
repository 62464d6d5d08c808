"""WriteBehind: the thread that writes full buffers while the chain goes on.

Started by the end of a chain, joined when it is closed. It takes buffers in order and passes each
to a target that writes it (a call that releases the GIL). When the target fails, the thread keeps
taking buffers so that nobody waits for ever, and the error is raised in the owner at its next
call. It never makes anything durable: that is the target's business.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from pgbackup.stream.buffers import BufferPool, PageBuffer

Target = Callable[[memoryview], object]


class WriteBehind:
    """Buffers to fill, and a thread that writes the full ones.

    Always: `buffer` belongs to the owner, everything put belongs to the thread.
    """

    def __init__(self, *, count: int = 6, size: int = 1024 * 1024) -> None:
        self._pool = BufferPool(count, size)
        self._queue: SimpleQueue[tuple[PageBuffer, int, Target] | threading.Event | None] = (
            SimpleQueue()
        )
        self._error: BaseException | None = None
        self._page = self._pool.acquire()
        self._fill = 0
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    @property
    def buffer(self) -> memoryview:
        """Where the next bytes go; read again after each `add`."""
        return self._page.view[self._fill :]

    def add(self, length: int, target: Target) -> None:
        """Take `length` bytes at the start of `buffer`; write when the buffer is full."""
        self._fill += length
        if self._fill == self._pool.size:
            self._put(target)

    def flush(self, target: Target) -> None:
        """Return when everything added has been written. Raises the writer's error."""
        if self._fill:
            self._put(target)
        done = threading.Event()
        self._queue.put(done)
        done.wait()
        self._check()

    def close(self) -> None:
        """Stop the thread and give up what was not flushed."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._page.release()
        self._pool.close()

    def _put(self, target: Target) -> None:
        self._queue.put((self._page, self._fill, target))
        self._page = self._pool.acquire()
        self._fill = 0
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            page, length, target = item
            if self._error is None:
                try:
                    target(page.view[:length])
                except BaseException as error:  # noqa: BLE001 - raised in the owner by _check
                    self._error = error
            page.release()
