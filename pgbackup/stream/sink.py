"""Sink: what a base backup flows into, and the state that flows with it.

A backup is a series of archives (tar files, one per tablespace, the main data directory last)
and then, usually, a manifest. A source calls one sink; that sink does one task and hands on to
its successor; the last one is the end: a repository, a directory, a connection, nothing.

The receiver owns the memory: a source writes into `sink.buffer` and then says how many bytes. A
link that only looks shares its successor's buffer; a link that transforms lends its own. After
every contents call `buffer` must be read again, because the end may have handed the full one to
its writer.

Contents of an archive can also be deferred: a source says how long they are and who will write
them, and goes on. A link that has threads lets these do it; every other one does it at once.

Source: basebackup_sink.h (PostgreSQL 18).
"""

from collections.abc import Callable
from dataclasses import dataclass

from pgbackup.pg.lsn import WalPosition

Fill = Callable[[memoryview], None]
"""Writes all bytes of the memory it is given, on any thread; what it raises ends the backup."""

LARGEST_ROOM = 128 * 1024
"""Bytes; every buffer of a chain is that long when it is empty."""


@dataclass(frozen=True, slots=True)
class Tablespace:
    """One row of the server's tablespace list.

    oid:      None for the main data directory.
    location: absolute path on the server; empty for the main data directory.
    size:     estimated bytes, None when no estimate was asked for.
    """

    oid: int | None
    location: str
    size: int | None

    @property
    def archive_name(self) -> str:
        """The name of this tablespace's archive."""
        return "base.tar" if self.oid is None else f"{self.oid}.tar"


@dataclass(slots=True)
class BackupState:
    """Facts about a running backup, shared by all links.

    start, tablespaces: set by the source before `begin_backup`, never changed afterwards.
    bytes_total:        sum of the estimates, or None.
    bytes_done:         archive bytes seen so far; only Progress moves it.
    """

    start: WalPosition
    tablespaces: tuple[Tablespace, ...]
    bytes_total: int | None = None
    bytes_done: int = 0


class Sink:
    """A link that forwards everything. Subclasses override what they mean, nothing else.

    Calls come in this order, `[]` any number of times:
    begin_backup [begin_archive [archive_contents | archive_later] end_archive]
    (begin_manifest [manifest_contents] end_manifest)? end_backup; cleanup always comes last,
    also after an error, and must not raise for a backup that failed.
    """

    def __init__(self, successor: "Sink") -> None:
        self.successor = successor

    @property
    def buffer(self) -> memoryview:
        """Memory to write the next bytes into; valid until the next contents call."""
        return self.successor.buffer

    def begin_backup(self, state: BackupState) -> None:
        """Called once, before anything else; `state.start` and `state.tablespaces` are set."""
        self.successor.begin_backup(state)

    def begin_archive(self, name: str) -> None:
        """Called before the contents of each archive; `name` ends in .tar plus suffixes."""
        self.successor.begin_archive(name)

    def archive_contents(self, length: int) -> None:
        """Called when `length` > 0 bytes of the archive stand at the start of `buffer`."""
        self.successor.archive_contents(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        """Called when the first `length` > 0 bytes of `buffer` are contents that `fill` will write.

        They are contents of members, never headers. A link that needs no bytes hands this on; one
        that does not override it gets them as `archive_contents`.
        """
        fill(self.buffer[:length])
        self.archive_contents(length)

    def end_archive(self) -> None:
        """Called after the last contents of each archive."""
        self.successor.end_archive()

    def flush(self) -> None:
        """Called within an archive to hand on what is in a buffer that is not full.

        Then `buffer` has at least LARGEST_ROOM bytes, and all that was deferred is being written.
        """
        self.successor.flush()

    def begin_manifest(self) -> None:
        """Called after the last archive, if there is a manifest."""
        self.successor.begin_manifest()

    def manifest_contents(self, length: int) -> None:
        """Called when `length` > 0 bytes of the manifest stand at the start of `buffer`."""
        self.successor.manifest_contents(length)

    def end_manifest(self) -> None:
        """Called after the last manifest contents."""
        self.successor.end_manifest()

    def end_backup(self, stop: WalPosition) -> None:
        """Called once when all data have been handed over; `stop` ends the needed WAL."""
        self.successor.end_backup(stop)

    def cleanup(self) -> None:
        """Called last, whatever happened: stop threads, release buffers, close files."""
        self.successor.cleanup()


class End(Sink):
    """The end of a chain: has no successor, and lends its own buffer."""

    def __init__(self) -> None:
        self.state: BackupState | None = None

    @property
    def buffer(self) -> memoryview:
        raise NotImplementedError

    def begin_backup(self, state: BackupState) -> None:
        self.state = state

    def begin_archive(self, name: str) -> None:
        pass

    def archive_contents(self, length: int) -> None:
        pass

    def end_archive(self) -> None:
        pass

    def flush(self) -> None:
        raise NotImplementedError

    def begin_manifest(self) -> None:
        pass

    def manifest_contents(self, length: int) -> None:
        pass

    def end_manifest(self) -> None:
        pass

    def end_backup(self, stop: WalPosition) -> None:
        pass

    def cleanup(self) -> None:
        pass


def feed(sink: Sink, data: memoryview) -> None:
    """Write archive bytes of any length into a sink, buffer by buffer."""
    offset = 0
    while offset < len(data):
        buffer = sink.buffer
        length = min(len(buffer), len(data) - offset)
        buffer[:length] = data[offset : offset + length]
        sink.archive_contents(length)
        offset += length
