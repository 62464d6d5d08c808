"""A request to stop that a signal handler can make and a loop can wait for."""

import os
import select
from typing import Self


class StopRequest:
    """Not threading.Event: that one's lock is not for signal handlers.

    reason: what was requested, once it is; the first request counts.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    @property
    def is_made(self) -> bool:
        return self.reason is not None

    def make(self, reason: str) -> None:
        """Request the stop; more than once is once."""
        if self.reason is None:
            self.reason = reason
            os.write(self._writer, b"!")

    def wait(self, seconds: float | None) -> bool:
        """Wait until the stop is requested or the time is over, None for ever; tell which."""
        self._poll.poll(None if seconds is None else max(0, round(seconds * 1000)))
        return self.is_made

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
