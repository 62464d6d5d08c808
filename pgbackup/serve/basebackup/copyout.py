"""The end of the chain that sends a base backup to a client, in both forms of the protocol.

Servers from 15 on send one COPY whose messages say what they are; before, there is one for each
archive. Pages are sent where they lie: headers of messages go out beside them in the same call.
A page may be filled by a thread while the one before is sent.

Source: basebackup_copy.c (PostgreSQL 18); basebackup.c, perform_base_backup (PostgreSQL 14)
"""

import time
from collections.abc import Iterable
from typing import Final, Protocol

from pgbackup.pg.lsn import WalPosition
from pgbackup.serve.basebackup.pagesahead import PagesAhead
from pgbackup.serve.basebackup.tarmessages import TarMessages
from pgbackup.storage.api import Bytes
from pgbackup.stream.sink import BackupState, End, Fill, Sink, Tablespace
from pgbackup.wire import backend, copydata
from pgbackup.wire.commands import PARENTHESES_SINCE

LARGEST_MESSAGE: Final = 64 * 1024
"""Bytes of contents in one message. Servers send half of it, which costs libpq three times the CPU.
See scripts/bench/serve.py."""

PROGRESS_INTERVAL: Final = 1.0
"""Seconds between two progress messages within an archive."""

_POSITION = (("recptr", backend.TEXT), ("tli", backend.INT8))
_TABLESPACES = (
    ("spcoid", backend.OID),
    ("spclocation", backend.TEXT),
    ("size", backend.INT8),
)
_SELECT = "SELECT"
_KILOBYTE = 1024


class Outgoing(Protocol):
    """Somebody who takes what a client shall get."""

    def send(self, *parts: Bytes) -> None:
        """Send buffers one after the other. Raises: ConnectionFailed."""


def copy_out(client: Outgoing, major: int, *, sends_contents: bool = True) -> Sink:
    """The end of a chain for the clients of a server of this major.

    sends_contents: False for the target `blackhole`; from 15 on.
    """
    if major >= PARENTHESES_SINCE:
        return TypedCopyOut(client, sends_contents=sends_contents)
    return PlainCopyOut(client)


class CopyOut(End):
    """What both forms share: result sets, and pages that are sent in order."""

    def __init__(self, client: Outgoing) -> None:
        super().__init__()
        self._client = client
        self._pages = PagesAhead(self._send_page)

    @property
    def buffer(self) -> memoryview:
        return self._pages.buffer

    def begin_backup(self, state: BackupState) -> None:
        super().begin_backup(state)
        self._send_position(state.start)
        rows = [backend.data_row(_row(tablespace)) for tablespace in state.tablespaces]
        self._client.send(
            backend.row_description(_TABLESPACES), *rows, backend.command_complete(_SELECT)
        )

    def archive_contents(self, length: int) -> None:
        self._pages.add(length)

    def archive_later(self, length: int, fill: Fill) -> None:
        self._pages.add_later(length, fill)

    def flush(self) -> None:
        self._pages.put()

    def manifest_contents(self, length: int) -> None:
        self._pages.add(length)

    def end_backup(self, stop: WalPosition) -> None:
        self._send_position(stop)

    def cleanup(self) -> None:
        self._pages.close()

    def _send_page(self, page: memoryview) -> None:
        raise NotImplementedError

    def _send_position(self, position: WalPosition) -> None:
        self._client.send(
            backend.row_description(_POSITION),
            backend.data_row((str(position.lsn), int(position.timeline))),
            backend.command_complete(_SELECT),
        )


class TypedCopyOut(CopyOut):
    """The single COPY from 15 on."""

    def __init__(self, client: Outgoing, *, sends_contents: bool = True) -> None:
        super().__init__(client)
        self._sends_contents = sends_contents
        self._in_archive = False
        self._last_progress = time.monotonic()

    def begin_backup(self, state: BackupState) -> None:
        super().begin_backup(state)
        self._client.send(backend.copy_out_response())

    def begin_archive(self, name: str) -> None:
        assert self.state is not None
        tablespaces = self.state.tablespaces
        location = next(each.location for each in tablespaces if _is_archive_of(each, name))
        self._in_archive = True
        self._send_message(copydata.new_archive(copydata.NewArchive(name, location)))

    def end_archive(self) -> None:
        self._pages.send_all()
        self._in_archive = False
        self._send_progress()

    def begin_manifest(self) -> None:
        self._send_message(copydata.BEGIN_MANIFEST)

    def end_manifest(self) -> None:
        self._pages.send_all()

    def end_backup(self, stop: WalPosition) -> None:
        self._client.send(backend.copy_done())
        super().end_backup(stop)

    def _send_page(self, page: memoryview) -> None:
        if self._sends_contents:
            parts: list[Bytes] = []
            for offset in range(0, len(page), LARGEST_MESSAGE):
                contents = page[offset : offset + LARGEST_MESSAGE]
                header = backend.copy_data_header(len(contents) + len(copydata.CONTENTS_PREFIX))
                parts += (header + copydata.CONTENTS_PREFIX, contents)
            self._client.send(*parts)
        if self._in_archive and time.monotonic() - self._last_progress >= PROGRESS_INTERVAL:
            self._send_progress()

    def _send_progress(self) -> None:
        assert self.state is not None
        self._last_progress = time.monotonic()
        self._send_message(copydata.progress(self.state.bytes_done))

    def _send_message(self, payload: bytes) -> None:
        self._client.send(backend.copy_data_header(len(payload)), payload)


class PlainCopyOut(CopyOut):
    """One COPY for each archive and one for the manifest, before 15."""

    def __init__(self, client: Outgoing) -> None:
        super().__init__(client)
        self._archive: TarMessages | None = None

    def begin_archive(self, name: str) -> None:
        self._archive = TarMessages(LARGEST_MESSAGE)
        self._client.send(backend.copy_out_response())

    def end_archive(self) -> None:
        self._end_copy()
        self._archive = None

    def begin_manifest(self) -> None:
        self._client.send(backend.copy_out_response())

    def end_manifest(self) -> None:
        self._end_copy()

    def _end_copy(self) -> None:
        self._pages.send_all()
        self._client.send(backend.copy_done())

    def _send_page(self, page: memoryview) -> None:
        parts: list[Bytes] = []
        for contents in self._messages(page):
            parts += (backend.copy_data_header(len(contents)), contents)
        self._client.send(*parts)

    def _messages(self, page: memoryview) -> Iterable[Bytes]:
        if self._archive is not None:
            return self._archive.cut(page)
        return (
            page[offset : offset + LARGEST_MESSAGE]
            for offset in range(0, len(page), LARGEST_MESSAGE)
        )


def _is_archive_of(tablespace: Tablespace, name: str) -> bool:
    """Whether an archive is that of a tablespace, compressed or not."""
    plain = tablespace.archive_name
    return name == plain or name.startswith(plain + ".")


def _row(tablespace: Tablespace) -> tuple[str | int | None, ...]:
    size = None if tablespace.size is None else tablespace.size // _KILOBYTE
    location = tablespace.location if tablespace.oid is not None else None
    return (tablespace.oid, location, size)
