"""WriteBehind: the thread that writes full buffers while the chain goes on.

Started by the end of a chain, joined when it is closed. It takes buffers and actions in order and
passes each buffer to a target that writes it (a call that releases the GIL). When one fails, the
thread keeps taking buffers so that nobody waits for ever, does nothing more with them, and the
error is raised in the owner at its next call. It makes nothing durable by itself: that is the
business of the actions it is given.
"""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from pgbackup.interrupts import held_back
from pgbackup.stream.buffers import BufferPool, PageBuffer

Target = Callable[[memoryview], object]


class WriteBehind:
    """Buffers to fill, and a thread that writes the full ones.

    Always: `buffer` belongs to the owner, everything put belongs to the thread.
    """

    def __init__(self, *, count: int = 6, size: int = 1024 * 1024) -> None:
        self._pool = BufferPool(count, size)
        self._queue: SimpleQueue[
            tuple[Callable[[], object], PageBuffer | None] | threading.Event | None
        ] = SimpleQueue()
        self._error: BaseException | None = None
        self._page: PageBuffer | None = self._pool.acquire()
        self._fill = 0
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        with held_back():
            self._thread.start()

    @property
    def buffer(self) -> memoryview:
        """Where the next bytes go; read again after each `add`."""
        assert self._page is not None
        return self._page.view[self._fill :]

    def add(self, length: int, target: Target) -> None:
        """Take `length` bytes at the start of `buffer`; write when the buffer is full."""
        self._fill += length
        if self._fill == self._pool.size:
            self._put(target)

    def flush(self, target: Target) -> None:
        """Write what was added, without waiting for it."""
        if self._fill:
            self._put(target)

    def end(self, target: Target, action: Callable[[], object]) -> None:
        """Write what was added, then run `action`, without waiting for either."""
        self.flush(target)
        self.then(action)

    def then(self, action: Callable[[], object]) -> None:
        """Run `action` on the thread, after everything put before."""
        self._check()
        self._queue.put((action, None))

    def wait(self) -> None:
        """Return when everything put has been done. Raises the thread's error."""
        done = threading.Event()
        self._queue.put(done)
        done.wait()
        self._check()

    def close(self) -> None:
        """Stop the thread and give up what was added but not put."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            if self._page is not None:
                self._page.release()
        self._pool.close()

    def _put(self, target: Target) -> None:
        page, fill = self._page, self._fill
        assert page is not None
        self._page, self._fill = None, 0  # an interrupt may come while the next one is awaited
        self._queue.put((partial(target, page.view[:fill]), page))
        self._page = self._pool.acquire()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            action, page = item
            if self._error is None:
                try:
                    action()
                except BaseException as error:  # noqa: BLE001 - raised in the owner by _check
                    self._error = error
            if page is not None:
                page.release()
