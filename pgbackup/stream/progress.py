"""Progress: a link that only looks, and tells how many archive bytes have passed."""

from collections.abc import Callable

from pgbackup.stream.sink import BackupState, Sink


class Progress(Sink):
    """Count plain archive bytes into the state, and report each step.

    report: called with the number of new bytes, on the thread of the source.
    """

    def __init__(self, successor: Sink, report: Callable[[int], object]) -> None:
        super().__init__(successor)
        self._report = report
        self._state: BackupState | None = None
        self.archive_sizes: dict[str, int] = {}
        self._name = ""

    def begin_backup(self, state: BackupState) -> None:
        self._state = state
        self.successor.begin_backup(state)

    def begin_archive(self, name: str) -> None:
        self._name = name
        self.archive_sizes[name] = 0
        self.successor.begin_archive(name)

    def archive_contents(self, length: int) -> None:
        assert self._state is not None
        self._state.bytes_done += length
        self.archive_sizes[self._name] += length
        self._report(length)
        self.successor.archive_contents(length)
