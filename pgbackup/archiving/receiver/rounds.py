"""A thread that does the same thing every so often, beside the receive loop."""

import threading
from collections.abc import Callable
from typing import Self

PATIENCE = 2.0
"""Seconds that the end of a round is waited for; what it reads from a server may be given up."""


class Rounds:
    """Runs while the block lasts.

    act:      one round; handles what can be expected to fail.
    interval: seconds from the end of one round to the next.
    """

    def __init__(self, act: Callable[[], None], interval: float) -> None:
        self._act = act
        self._interval = interval
        self._is_over = threading.Event()
        self._bug: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def check(self) -> None:
        """Raise what has ended the rounds, if anything has."""
        if self._bug is not None:
            raise self._bug

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._is_over.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            while not self._is_over.wait(self._interval):
                self._act()
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._bug = error
