"""What PostgreSQL starts: one run of wal-push or wal-get, from the command line to the exit status.

The exit status is all that the server looks at. wal-push ends with 0 or with 1 to 125, never
above, which would end the archiver. wal-get ends with 1 only when a file is proven absent; a
status from 1 to 125 lets recovery end, and the server start, at that point.

Modules are loaded here when it is clear that they are needed.
"""

# ruff: noqa: PLC0415 - every import costs the server time

import gc
import os

from pgbackup.archiving.marker import take_note
from pgbackup.archiving.options import Options, parse_options
from pgbackup.archiving.spooldir import is_safe, make_safe, remove_stale, spool_directory

TYPE_CHECKING = False  # that of typing, which is slow to load
if TYPE_CHECKING:
    from types import FrameType

    from pgbackup.archiving.push import Pusher
    from pgbackup.errors import PgbackupError

DELIVERED = 0
ABSENT = 1
PUSH_FAILED = 1
UNKNOWN = 255
"""Recovery stops: whether the file exists could not be found out."""

_HIGHEST = 125  # of the statuses by which the archiver does not end


def run_hook(verb: str, words: list[str]) -> None:
    """Run a hook, and end the process."""
    gc.disable()  # it would run through what is being loaded, again and again
    os.umask(0o077)
    os._exit(run(verb, words, is_process=True))


def run(verb: str, words: list[str], *, is_process: bool = False) -> int:
    """Run a hook; return its exit status, having said on standard error what went wrong.

    is_process: the process does nothing else, and its signals are ours.
    """
    options = parse_options(verb, words)
    return archive(options, is_process) if verb == "wal-push" else restore(options)


def archive(options: Options, is_process: bool = False) -> int:
    """archive_command."""
    if options.fault is None:
        spool = spool_directory(options.paths[0], options.spool)
        if spool is not None and take_note(spool, options.paths[0], options.repo):
            return DELIVERED
    from pgbackup.errors import PgbackupError

    try:
        options.check()
        if is_process:
            _end_in_order_at_sigterm()
        push(options)
    except PgbackupError as failure:
        say_error(failure)
        return min(max(failure.exit_code, PUSH_FAILED), _HIGHEST)
    return DELIVERED


def push(options: Options) -> None:
    """Push the file that was asked for, then others that wait.

    Raises: PgbackupError if the one that was asked for is not in the archive.
    """
    from pgbackup.archiving.push import PushedFile, Pusher, waiting_files
    from pgbackup.archiving.server import read_identity
    from pgbackup.errors import Interrupted
    from pgbackup.repo.repository import Repository
    from pgbackup.storage.registry import open_storage

    path = options.paths[0]
    file = PushedFile(path)
    try:
        storage = open_storage(options.repo)
        repository = Repository.open(storage, create=True)
        pusher = Pusher(repository, read_identity(), options.level)
        pusher.push(file)
    finally:
        file.close()
    spool, folder = spool_directory(path, options.spool), storage.features.local_path
    if spool is None or folder is None:
        return
    waiting = waiting_files(path)
    try:
        if make_safe(spool) if len(waiting) > 1 else is_safe(spool):
            remove_stale(spool)
            push_ahead(waiting, pusher, spool, folder, options)
    except Interrupted:
        return  # what was asked for is in the archive


def push_ahead(
    waiting: list[str], pusher: "Pusher", spool: str, folder: str, options: Options
) -> None:
    """Push the files that wait besides the one that was asked for, if there are any.

    folder: local directory of the repository's objects.

    Raises: Interrupted.
    """
    path = options.paths[0]
    if waiting in ([], [path]):
        return
    from pgbackup.archiving.backlog import Backlog

    Backlog(pusher, spool, options.repo).push(waiting, path, folder, options.jobs)


def restore(options: Options) -> int:
    """restore_command."""
    spool = None
    if options.fault is None and options.prefetch:
        spool = spool_directory(options.paths[1], options.spool)
    if spool is None:
        return _restore(options)
    from pgbackup.archiving.fetched import fetch_ahead, take

    name, target = options.paths
    answer = DELIVERED if take(spool, name, target, options.repo) else _restore(options)
    if answer == DELIVERED:
        fetch_ahead(spool, name, options.repo)
    return answer


def _restore(options: Options) -> int:
    from pgbackup.archiving.server import is_standby
    from pgbackup.errors import PgbackupError

    try:
        options.check()
        return DELIVERED if get(options) else ABSENT
    except PgbackupError as error:
        say_error(error)
        return ABSENT if is_standby() else UNKNOWN


def get(options: Options) -> bool:
    """Deliver the file; False if it is proven absent.

    Raises: PgbackupError if that could not be found out.
    """
    from pgbackup.archiving.get import get_file, retry

    name, target = options.paths
    return retry(lambda: get_file(name, target, options), options.timeout)


def say(text: str) -> None:
    """A message for the server's log. That nobody listens changes no answer."""
    try:  # noqa: SIM105 - contextlib is slow to load
        os.write(2, f"{text}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        pass


def say_error(error: "PgbackupError") -> None:
    """An error, in PostgreSQL's layout."""
    lines = [f"pgbackup: error: {error.message}"]
    if error.detail:
        lines.append(f"DETAIL: {error.detail}")
    if error.hint:
        lines.append(f"HINT: {error.hint}")
    say("\n".join(lines))


def _end_in_order_at_sigterm() -> None:
    import signal

    from pgbackup.errors import Interrupted

    def interrupt(number: int, frame: "FrameType | None") -> None:
        raise Interrupted("the command was terminated by a signal")

    signal.signal(signal.SIGTERM, interrupt)
