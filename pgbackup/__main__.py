"""Start of the program: the WAL hooks take the import-light way, everything else goes to `cli`."""

import os
import sys

TYPE_CHECKING = False  # that of typing, which is slow to load
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]

HOOKS = {"wal-push": 1, "wal-get": 255}
"""The WAL hooks, and the exit status of each when it breaks down.

Python would end with 1, which from wal-get means: there is no such file, end recovery here.
"""

HELP = ("--help", "-?")

_STREAMS = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
"""How /dev/null takes the place of a standard stream that is closed.

Nothing can be read from the first, and no answer written to the second: these are errors then.
"""


def main() -> None:
    """Run the command line and exit with its status."""
    _open_streams()
    verb, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if verb in HOOKS and not any(word in HELP for word in words):
        sys.excepthook = _ending_with(HOOKS[verb])
        from pgbackup.archiving.command import run_hook  # noqa: PLC0415 - only the hooks need it

        run_hook(verb, words)
    try:
        from pgbackup.cli.app import run  # noqa: PLC0415 - slow to load; the hooks do not need it
    except KeyboardInterrupt:  # once loaded, it takes signals itself
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


def _open_streams() -> None:
    """Let no file of ours get the number of a standard stream: messages would go into it."""
    for descriptor, flags in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free


def _ending_with(status: int) -> "Hook":
    """What tells of an error that nobody expected, and ends the process."""

    def end(
        kind: type[BaseException], error: BaseException, traceback: "TracebackType | None"
    ) -> None:
        try:
            sys.__excepthook__(kind, error, traceback)
        finally:
            os._exit(status)

    return end


if __name__ == "__main__":
    main()
