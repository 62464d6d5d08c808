"""A base backup from a server: BASE_BACKUP over the replication protocol, into a sink.

Speaks both forms: one COPY per tablespace (13, 14) and the single typed COPY (15 and up). A run
ends well only when the server has completed the command; its end position alone means nothing.
Checksum failures that the server reports do not fail the run: all data have arrived by then, and
the outcome carries the server's words.

Never interprets what is inside an archive, and copies each byte once: from libpq's memory into
the sink's buffer.

Source: pg_basebackup.c, BaseBackup and ReceiveArchiveStream (PostgreSQL 18).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pgbackup.errors import ProtocolViolation, Refused, ServerError
from pgbackup.pg.lsn import WalPosition
from pgbackup.pg.tar import END_OF_ARCHIVE
from pgbackup.replication.client import (
    expect_end,
    expect_event,
    expect_result,
    number,
    position,
    text,
)
from pgbackup.replication.transport import CopyBegin, CopyDone, Transport
from pgbackup.stream.sink import BackupState, Sink, Tablespace, feed
from pgbackup.wire import copydata
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.commands import PARENTHESES_SINCE

DATA_CORRUPTED = "XX001"

_HINTS = {
    "55000": "Set wal_level = replica (or logical) on the server and restart it.",
    "53300": "Raise max_wal_senders on the server; a backup needs two connections.",
    "42501": "Give the role the REPLICATION attribute.",
}


@dataclass(frozen=True, slots=True)
class BackupOutcome:
    """What a source has sent.

    start, stop: WAL from `start` up to `stop` is needed to use the backup.
    warnings:    what the server warned about, in its own words.
    is_damaged:  the server found pages whose checksum is wrong.
    has_label:   there is a backup_label; only a copy of a stopped server needs none.
    """

    start: WalPosition
    stop: WalPosition
    tablespaces: tuple[Tablespace, ...]
    warnings: tuple[str, ...]
    is_damaged: bool
    has_label: bool = True


def receive_backup(transport: Transport, command: BaseBackup, sink: Sink) -> BackupOutcome:
    """Run BASE_BACKUP and feed the sink; the caller cleans the sink up.

    Raises: ServerError, ConnectionFailed, ProtocolViolation, and what the sink raises.
    """
    transport.notices.clear()
    transport.send(command)
    try:
        state = _begin(transport)
    except ServerError as error:
        raise _with_hint(error) from error
    sink.begin_backup(state)
    has_manifest = command.manifest_checksums is not None
    if transport.server_major >= PARENTHESES_SINCE:
        _TypedCopy(state, sink, has_manifest).receive(transport)
    else:
        _receive_plain_copies(transport, state, sink, has_manifest)
    end = expect_result(transport, 2)
    stop = position(end.rows[0][0], end.rows[0][1])
    is_damaged = _receive_verdict(transport)
    sink.end_backup(stop)
    return BackupOutcome(state.start, stop, state.tablespaces, tuple(transport.notices), is_damaged)


def _begin(transport: Transport) -> BackupState:
    start = expect_result(transport, 2)
    listing = expect_result(transport, 3)
    tablespaces = tuple(_tablespace(*row[:3]) for row in listing.rows)
    if [t.oid for t in tablespaces].count(None) != 1 or tablespaces[-1].oid is not None:
        raise ProtocolViolation("the server's tablespace list does not end in its data directory")
    sizes = [t.size for t in tablespaces if t.size is not None]
    total = sum(sizes) if len(sizes) == len(tablespaces) else None
    return BackupState(position(start.rows[0][0], start.rows[0][1]), tablespaces, total)


def _tablespace(oid: bytes | None, location: bytes | None, size: bytes | None) -> Tablespace:
    found = Tablespace(
        None if oid is None else number(oid),
        "" if location is None else text(location),
        None if size is None else number(size) * 1024,
    )
    place = found.location
    if found.oid is not None and not place.startswith("/") and place != f"pg_tblspc/{found.oid}":
        # Servers resolve it from another directory than the link is in, and then find nothing.
        raise Refused(
            f'could not back up tablespace "{found.oid}": its link leads to "{place}", which is no'
            " absolute path, and the server would leave it out",
            hint="Stop the server and make the link in pg_tblspc anew; or back up with --pgdata.",
        )
    return found


def _receive_plain_copies(
    transport: Transport, state: BackupState, sink: Sink, has_manifest: bool
) -> None:
    """The form of 13 and 14. Source: basebackup.c, perform_base_backup (PostgreSQL 14)."""
    for tablespace in state.tablespaces:
        sink.begin_archive(tablespace.archive_name)
        _receive_plain_copy(transport, _Filler(sink, sink.archive_contents))
        feed(sink, memoryview(END_OF_ARCHIVE))
        sink.end_archive()
    if has_manifest:
        sink.begin_manifest()
        _receive_plain_copy(transport, _Filler(sink, sink.manifest_contents))
        sink.end_manifest()


def _receive_plain_copy(transport: Transport, filler: "_Filler") -> None:
    _expect_copy(transport)
    receive = transport.receive
    while not isinstance(message := receive(None), CopyDone):
        if not isinstance(message, memoryview):
            raise ProtocolViolation("the server interrupted its base backup")
        filler.add(message)
    filler.flush()


def _expect_copy(transport: Transport) -> None:
    event = expect_event(transport)
    if not isinstance(event, CopyBegin):
        raise ProtocolViolation("the server did not begin to copy its base backup")


def _receive_verdict(transport: Transport) -> bool:
    try:
        expect_end(transport)
    except ServerError as error:
        if error.sqlstate == DATA_CORRUPTED:
            return True
        raise
    return False


def _with_hint(error: ServerError) -> ServerError:
    return ServerError(
        error.message,
        sqlstate=error.sqlstate,
        detail=error.detail,
        hint=_HINTS.get(error.sqlstate, error.hint),
    )


class _TypedCopy:
    """The single COPY of 15 and up: archives in the order of the tablespaces, then the manifest.

    Source: basebackup_copy.c (PostgreSQL 18).
    """

    def __init__(self, state: BackupState, sink: Sink, has_manifest: bool) -> None:
        self._sink = sink
        self._due: deque[str | None] = deque(t.archive_name for t in state.tablespaces)
        if has_manifest:
            self._due.append(None)
        self._filler: _Filler | None = None
        self._end: Callable[[], None] = lambda: None

    def receive(self, transport: Transport) -> None:
        """Read to the end of the COPY. Raises: ProtocolViolation."""
        _expect_copy(transport)
        while not isinstance(message := transport.receive(None), CopyDone):
            if not isinstance(message, memoryview):
                raise ProtocolViolation("the server interrupted its base backup")
            if len(message) and message[0] == copydata.CONTENTS:
                if self._filler is None:
                    raise ProtocolViolation("the server sent bytes before naming an archive")
                self._filler.add(message[1:])
            else:
                self._control(message)
        if self._due:
            due = self._due[0] or "backup_manifest"
            raise ProtocolViolation(f'the server ended its base backup before "{due}"')
        self._end_part()

    def _control(self, message: memoryview) -> None:
        kind = message[0] if len(message) else 0
        if kind == copydata.PROGRESS:
            copydata.check_length(message, copydata.PROGRESS_LENGTH)
        elif kind == copydata.NEW_ARCHIVE:
            self._begin_archive(copydata.parse_new_archive(message).name)
        elif kind == copydata.MANIFEST:
            copydata.check_length(message, 1)
            self._take_due(None)
            self._sink.begin_manifest()
            self._filler = _Filler(self._sink, self._sink.manifest_contents)
            self._end = self._sink.end_manifest
        else:
            raise ProtocolViolation(f"the server sent an unknown base backup message {kind}")

    def _begin_archive(self, name: str) -> None:
        self._take_due(name)
        self._sink.begin_archive(name)
        self._filler = _Filler(self._sink, self._sink.archive_contents)
        self._end = self._sink.end_archive

    def _take_due(self, name: str | None) -> None:
        """End the part that was being sent, if `name` is what has to follow it."""
        if not self._due or self._due[0] != name:
            raise ProtocolViolation(
                f'the server sent "{name or "backup_manifest"}" where it was not due'
            )
        self._end_part()
        self._due.popleft()

    def _end_part(self) -> None:
        if self._filler is not None:
            self._filler.flush()
        self._end()


class _Filler:
    """Gather messages in the sink's buffer, and hand over full buffers."""

    __slots__ = ("_buffer", "_contents", "_fill", "_sink")

    def __init__(self, sink: Sink, contents: Callable[[int], None]) -> None:
        self._sink = sink
        self._contents = contents
        self._buffer = sink.buffer
        self._fill = 0

    def add(self, data: memoryview) -> None:
        while (end := self._fill + len(data)) >= len(self._buffer):
            split = len(self._buffer) - self._fill
            self._buffer[self._fill :] = data[:split]
            self._fill += split
            self.flush()
            if not (data := data[split:]):
                return
        self._buffer[self._fill : end] = data
        self._fill = end

    def flush(self) -> None:
        if self._fill:
            self._contents(self._fill)
            self._buffer, self._fill = self._sink.buffer, 0
