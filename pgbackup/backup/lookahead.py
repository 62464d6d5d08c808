"""LookAhead: a thread that is ahead of whoever takes what it makes, up to a limit.

Small files would keep the threads that compress waiting, if they were opened and read only when it
is their turn; so they are read while large ones are being compressed. What is made goes over in
batches, since handing over each thing alone would cost more than making it.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from pgbackup.interrupts import held_back

T = TypeVar("T")

BATCH: Final = 64
"""Things handed over at a time."""


class LookAhead(Generic[T]):
    """Iterates over a source on a thread; iterate over it once, and leave its block.

    Always: what waits weighs no more than the limit and one batch.
    """

    def __init__(self, source: Iterator[T], weight: Callable[[T], int], limit: int) -> None:
        """Prepare. weight: of one thing, in the unit of `limit`."""
        self._source = source
        self._weight = weight
        self._limit = limit
        self._condition = threading.Condition()
        self._batches: deque[tuple[int, deque[T]]] = deque()
        self._taken: deque[T] = deque()
        self._waiting = 0
        self._is_over = False
        self._is_left = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="look-ahead", daemon=True)

    def __enter__(self) -> Self:
        with held_back():
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._condition:
            self._is_left = True
            self._condition.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        """Everything, in order. Raises: what the source raised, where it did."""
        while self._take():
            while self._taken:
                yield self._taken.popleft()
        if self._error is not None:
            raise self._error

    def left(self) -> Iterator[T]:
        """What nobody took; once the block is left."""
        yield from self._taken
        for _, batch in self._batches:
            yield from batch

    def _take(self) -> bool:
        """Get the next batch; tell whether there was one."""
        with self._condition:
            self._condition.wait_for(lambda: self._batches or self._is_over)
            if not self._batches:
                return False
            weight, self._taken = self._batches.popleft()
            self._waiting -= weight
            self._condition.notify_all()
            return True

    def _run(self) -> None:
        try:
            self._make()
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._error = error
        with self._condition:
            self._is_over = True
            self._condition.notify_all()

    def _make(self) -> None:
        batch: deque[T] = deque()
        weight = 0
        try:
            for each in self._source:
                batch.append(each)
                weight += self._weight(each)
                if len(batch) == BATCH or weight >= self._limit // 4:
                    if not self._hand_over(weight, batch):
                        return
                    batch, weight = deque(), 0
        finally:
            self._hand_over(weight, batch)

    def _hand_over(self, weight: int, batch: deque[T]) -> bool:
        """Wait until there is room; tell whether anybody wants more."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_left or self._waiting < self._limit)
            self._batches.append((weight, batch))
            self._waiting += weight
            self._condition.notify_all()
            return not self._is_left
