"""Waiting for what another process does."""

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds after which what a test waits for counts as never coming.

Waiting ends when it comes; on a machine that does ten other things that may take a while.
"""


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Look until a condition holds. Raises: AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the time is over"
        time.sleep(0.02)
