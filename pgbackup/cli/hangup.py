"""SIGHUP as servers understand it: read your files again."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def at_hang_up(act: Callable[[], object]) -> Iterator[None]:
    """Let SIGHUP call a function that only notes it, while in the block; it ends nothing.

    Also under nohup: a signal that was sent on purpose looks like one of a terminal that has gone.
    """
    before = signal.signal(signal.SIGHUP, lambda number, frame: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
