"""`pgbackup serve --receive` beside a real server, and clients of it."""

import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pgbackup.pg.lsn import Lsn
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.serve.entry.listener import user_name
from pgbackup.wire.messages import XLogData, parse_stream_message
from tests.cli import program
from tests.waiting import PATIENCE, wait_for

NAME = "relay"
"""Of the receiver, in the server's pg_stat_replication."""


class Relay:
    """A run that ends with a with block, in good order; `kill9` is the other way.

    repo: DIRECTORY/repo, empty or not.
    """

    def __init__(self, directory: Path, upstream: str, *words: object) -> None:
        """upstream: connection string of the server, without an application name."""
        self.directory = directory
        self.repo = directory / "repo"
        self._place = tempfile.TemporaryDirectory(prefix="pgb-relay-")  # a short path
        self.socket = Path(self._place.name) / "socket"
        self._words = (
            "serve", "-B", self.repo, "--listen", self.socket, "--grace", "20",
            "--receive", f"{upstream} application_name={NAME}", *words,
        )  # fmt: skip
        self.running: program.Running | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.running is not None and kind is None:
            self.stop()
        self.kill9()
        self._place.cleanup()

    def start(self) -> None:
        self.running = program.begin(self.directory, *self._words)

    def wait(self) -> program.Answer:
        """Wait until it ends by itself."""
        assert self.running is not None
        running, self.running = self.running, None
        return running.wait()

    def stop(self) -> program.Answer:
        """Have it end, and wait for that."""
        assert self.running is not None
        self.running.send(signal.SIGTERM)
        answer = self.wait()
        assert answer.status == 0, answer.err
        assert list(self.socket.iterdir()) == []
        return answer

    def kill9(self) -> None:
        if self.running is not None:
            self.running.process.kill()
            self.running.process.wait()
            self.running = None

    def wait_until_serving(self) -> None:
        wait_for(self._is_ready)

    def conninfo(self, name: str = "test") -> str:
        return f"host={self.socket} port=5432 user={user_name()} application_name={name}"

    @contextmanager
    def connected(self, name: str = "test") -> Iterator[LibpqTransport]:
        self.wait_until_serving()
        transport = LibpqTransport()
        transport.connect(self.conninfo(name), name)
        try:
            yield transport
        finally:
            transport.disconnect()

    def _is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(f"{self.socket}/.s.PGSQL.5432")
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True


def receive_up_to(transport: LibpqTransport, start: int, end: int) -> bytes:
    """WAL of a stream that has begun, up to a position or a little more; the bytes join."""
    found = b""
    while start + len(found) < end:
        event = client.expect_event(transport, PATIENCE)
        assert isinstance(event, memoryview)
        message = parse_stream_message(event)
        if isinstance(message, XLogData):
            assert message.start == start + len(found)
            found += message.data
    return found


def flush_position(server: object) -> Lsn:
    """Where the WAL of a server ends."""
    rows = server.sql("SELECT pg_current_wal_flush_lsn()::text")  # type: ignore[attr-defined]
    return Lsn.parse(str(rows[0][0]))
