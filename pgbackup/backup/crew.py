"""A crew: a few threads that work off a list of tasks.

Started by `run` and joined before it returns, whatever happens. The first error, or an interrupt
in the caller, stops the others at their next `advance`; it is raised in the caller.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

from pgbackup.interrupts import held_back
from pgbackup.stream.progress import Meter

MAX_JOBS = 64
"""Threads; each holds two frames in memory."""

Task = Callable[[], object]


class _Stopped(Exception):
    """Another task has failed; this one ends quietly."""


class Crew:
    """Run tasks on up to `jobs` threads.

    meter: told of the tasks' progress, by one thread at a time.
    """

    def __init__(self, jobs: int, meter: Meter) -> None:
        self._jobs = max(1, min(jobs, MAX_JOBS))
        self._meter = meter
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Semaphore(0)
        self._error: BaseException | None = None

    def run(self, tasks: Iterable[Task]) -> None:
        """Return when all tasks are done. Raises the first error of any."""
        waiting = deque(tasks)
        threads = [
            threading.Thread(target=self._work, args=(waiting,), name=f"crew-{number}")
            for number in range(min(self._jobs, len(waiting)))
        ]
        try:
            for thread in threads:
                with held_back():
                    thread.start()
            for _ in threads:
                self._ended.acquire()
        except BaseException:
            self._stop.set()
            raise
        finally:
            # Not before: a join that a signal interrupts makes the next return at once (bpo-45274).
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error

    def advance(self, length: int) -> None:
        """Tell the meter that so many bytes are done; called by tasks, often.

        Raises: what ends a task whose crew has stopped; not to be caught.
        """
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            self._meter.advance(length)

    def _work(self, waiting: deque[Task]) -> None:
        try:
            self._work_off(waiting)
        finally:
            self._ended.release()

    def _work_off(self, waiting: deque[Task]) -> None:
        while not self._stop.is_set():
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                task()
            except _Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - raised in the owner by run
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._stop.set()
