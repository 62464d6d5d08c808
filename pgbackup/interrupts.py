"""Signals that ask a command to end, and steps that they must not cut in half.

The command line lets these signals raise an error in the main thread, at whatever instruction it
is. Python's own Thread.start does not stand that, nor does a file that was made and not yet noted
by whoever has to remove it. A thread started while they are held back never gets them.

A finalizer loses such an error; an alarm a moment later raises it again, and is held back alike.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """Let such a signal wait until the block is left. For short steps only."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING_SIGNALS, signal.SIGALRM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
