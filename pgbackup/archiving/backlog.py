"""More files that wait to be archived, pushed along with the one that was asked for.

Each leaves a note (marker.py), by which the call that asks for it later returns at once. Nothing
here can fail the call: a file that could not be pushed is tried again when its turn comes.
"""

# ruff: noqa: PTH119 - pathlib is slow to load

import os
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Lock, Semaphore, Thread

from pgbackup.archiving import marker
from pgbackup.archiving.push import PushedFile, Pusher
from pgbackup.errors import PgbackupError
from pgbackup.interrupts import held_back

LIMIT_FILES = 31
LIMIT_BYTES = 1 << 29


class Backlog:
    """The files to push besides the one that was asked for."""

    def __init__(self, pusher: Pusher, spool: str, repo: str) -> None:
        """Touch nothing yet.

        spool: directory of the notes, safe.
        repo:  as the user named it.
        """
        self._pusher = pusher
        self._spool = spool
        self._repo = repo
        self._stop = Event()
        self._next = Lock()
        self._ended = Semaphore(0)

    def push(self, paths: list[str], asked: str, folder: str, jobs: int) -> None:
        """Push the first of the waiting files that were not pushed before, up to the limits.

        paths:  of all waiting files.
        asked:  the one that is pushed already.
        folder: local directory of the repository's objects.
        """
        names = {os.path.basename(path) for path in paths}
        with suppress(OSError):
            marker.forget_others(self._spool, names)
        chosen = list(self._choose(paths, os.path.basename(asked)))
        source = iter(chosen)
        count = min(jobs, len(chosen))
        threads = [Thread(target=self._work, args=(source, folder)) for _ in range(count)]
        try:
            for thread in threads:
                with held_back():
                    thread.start()
            for _ in threads:
                self._ended.acquire()
        finally:
            self._stop.set()
            # Not before: a join that a signal interrupts makes the next return at once (bpo-45274).
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _choose(self, paths: list[str], asked: str) -> Iterator[str]:
        files, size = 0, 0
        for path in paths:
            if os.path.basename(path) == asked or marker.has_note(self._spool, path, self._repo):
                continue
            try:
                size += os.lstat(path).st_size
            except OSError:
                continue
            files += 1
            if files > LIMIT_FILES or size > LIMIT_BYTES:
                return
            yield path

    def _work(self, source: Iterator[str], folder: str) -> None:
        try:
            self._work_off(source, folder)
        finally:
            self._ended.release()

    def _work_off(self, source: Iterator[str], folder: str) -> None:
        while not self._stop.is_set():
            with self._next:
                path = next(source, None)
            if path is None:
                return
            with suppress(PgbackupError, OSError):
                self._push_one(path, folder)

    def _push_one(self, path: str, folder: str) -> None:
        file = PushedFile(path)
        try:
            stored = f"{folder}/{self._pusher.push(file)}"
            if file.is_unchanged():
                marker.leave_note(self._spool, path, self._repo, file.found, stored)
        finally:
            file.close()
