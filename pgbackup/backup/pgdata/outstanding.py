"""What is being read at one moment by the threads of a backup, for those who have to wait.

A digest needs the pieces of its file in order, and pg_control is read when all other files have
been. Pieces are begun in the order of the archive and each waits only for earlier ones, so nobody
waits for ever, unless a thread gives up; then all do.
"""

import threading
from collections.abc import Callable

from pgbackup.errors import PgbackupError


class Outstanding:
    """Shared by all files of a backup."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._is_given_up = False

    def begin(self) -> None:
        """A piece will be read."""
        with self._condition:
            self._count += 1

    def end(self) -> None:
        """A piece has been read."""
        with self._condition:
            self._count -= 1
            self._condition.notify_all()

    def wait_for_all(self) -> None:
        """Return when everything that was begun has been read. Raises: as wait."""
        self.wait(lambda: self._count == 0)

    def wait(self, is_met: Callable[[], bool]) -> None:
        """Return when a condition is met that the end of a piece brings about.

        Raises: PgbackupError when a thread has given up; its own error tells why.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._is_given_up or is_met())
            if self._is_given_up:
                raise PgbackupError("could not go on: a file could not be read")

    def give_up(self) -> None:
        """Let nobody wait any more: a piece could not be read."""
        with self._condition:
            self._is_given_up = True
            self._condition.notify_all()
