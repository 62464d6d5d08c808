"""Progress: a link that only looks, and tells how many archive bytes have passed."""

from typing import Protocol

from pgbackup.stream.sink import BackupState, Fill, Sink


class Meter(Protocol):
    """Somebody who shows how far a run is. Called on the thread of the source."""

    def begin(self, total: int | None) -> None:
        """The run starts; `total` bytes are expected, if anybody knows."""

    def advance(self, length: int) -> None:
        """So many more bytes have passed."""


class SilentMeter:
    """A Meter that shows nothing."""

    def begin(self, total: int | None) -> None:
        pass

    def advance(self, length: int) -> None:
        pass


class Progress(Sink):
    """Count plain archive bytes into the state, and tell a meter.

    archive_sizes: plain bytes of each archive so far, under its plain name.
    """

    def __init__(self, successor: Sink, meter: Meter) -> None:
        super().__init__(successor)
        self._meter = meter
        self._state: BackupState | None = None
        self._name = ""
        self.archive_sizes: dict[str, int] = {}

    def begin_backup(self, state: BackupState) -> None:
        self._state = state
        self._meter.begin(state.bytes_total)
        self.successor.begin_backup(state)

    def begin_archive(self, name: str) -> None:
        self._name = name
        self.archive_sizes[name] = 0
        self.successor.begin_archive(name)

    def archive_contents(self, length: int) -> None:
        self._count(length)
        self.successor.archive_contents(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        self._count(length)
        self.successor.archive_later(length, fill)

    def _count(self, length: int) -> None:
        assert self._state is not None
        self._state.bytes_done += length
        self.archive_sizes[self._name] += length
        self._meter.advance(length)
