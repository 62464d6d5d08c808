"""The connection to one client: bytes out in order, messages in, each with a time limit.

Over TLS once that has begun; without, buffers are sent where they lie. Used by one thread. Knows
nothing of commands; what a message means is its caller's business.
"""

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from pgbackup.errors import ConnectionFailed
from pgbackup.serve.entry.tls import TlsStream
from pgbackup.storage.api import Bytes
from pgbackup.wire.frontend import MAX_QUERY, FrontendReader, Message

SEND_TIMEOUT = 300.0
"""Seconds in which a client has to take at least something; a slow disk may hold it up."""
MAX_UNREAD = 2 * MAX_QUERY
"""Bytes that may have arrived and not been asked for."""

_RECEIVE_SIZE = 1 << 16  # bytes
_MAX_PARTS = 1000  # of one system call; Linux takes 1024


class Connection:
    """An open socket of a client, and what has arrived there and was not asked for yet."""

    def __init__(self, opened: socket.socket, *, send_timeout: float = SEND_TIMEOUT) -> None:
        self._socket = opened
        self._send_timeout = send_timeout
        # The kernel waits for room: to do so here cost a third of the time of a base backup.
        opened.setblocking(True)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_timeout))
        self._poll = select.poll()
        self._poll.register(opened, select.POLLIN)
        self._tls: TlsStream | None = None
        self.reader = FrontendReader()

    def send(self, *parts: Bytes) -> None:
        """Send buffers one after the other. Raises: ConnectionFailed."""
        if self._tls is None:
            self._send_plain(parts)
            return
        for encrypted in self._tls.encrypt(parts):
            self._send_plain((encrypted,))

    def begin_tls(self, stream: TlsStream, received: bytes, deadline: float) -> bytes:
        """Shake hands, and encrypt from then on; return what has arrived behind that.

        received: the beginning of the client's side of it, if that has come already.
        deadline: of time.monotonic().

        Raises: ConnectionFailed.
        """
        data = received
        while True:
            try:
                is_over = stream.shake_hands(data)
            finally:  # a refusal is told, too
                self._send_plain((stream.pending(),))
            if is_over:
                break
            data = self._read_plain(deadline - time.monotonic())
            if not data:
                raise ConnectionFailed("could not begin TLS: the client took too long")
        self._tls = stream
        return stream.decrypt(b"")

    def _send_plain(self, parts: Sequence[Bytes]) -> None:
        waiting = deque(memoryview(part).cast("B") for part in parts if len(part))
        while waiting:
            sent = self._send_some(list(islice(waiting, _MAX_PARTS)))
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.popleft())
            if sent:
                waiting[0] = waiting[0][sent:]

    def message(self, timeout: float | None = None, limit: int = MAX_QUERY) -> Message | None:
        """The next message, or None if there is none in time.

        timeout: seconds; 0 to take only what is there, None to wait for ever.
        limit:   bytes of a message.

        Raises: ConnectionFailed when the client has gone, ClientError, ProtocolViolation.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (found := self.reader.message(limit)) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.receive(left):
                return None
        return found

    def receive(self, timeout: float | None) -> bool:
        """Take what has arrived; return whether that was anything.

        Raises: ConnectionFailed when the client has gone, or says more than anybody asks for.
        """
        if len(self.reader.unread) > MAX_UNREAD:
            raise ConnectionFailed("could not go on with the client: it does not wait for answers")
        data = self.read(timeout)
        self.reader.feed(data)
        return bool(data)

    def read(self, timeout: float | None) -> bytes:
        """What has arrived, for somebody else to make messages of; nothing if nothing came in time.

        Raises: ConnectionFailed when the client has gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        data = self._read_plain(timeout)
        if self._tls is None:
            return data
        while data:
            if decrypted := self._tls.decrypt(data):
                return decrypted
            data = self._read_plain(None if deadline is None else deadline - time.monotonic())
        return b""

    def _read_plain(self, timeout: float | None) -> bytes:
        if not self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
            return b""
        try:
            data = self._socket.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise _lost(error) from error
        if not data:
            raise ConnectionFailed("could not receive from the client: it closed the connection")
        return data

    def fileno(self) -> int:
        """The descriptor, for somebody who waits for this and for other things."""
        return self._socket.fileno()

    def cut_off(self, farewell: bytes = b"") -> None:
        """Have whoever uses it find that the client has gone; for any thread.

        farewell: for the client, unless it has begun TLS.
        """
        with suppress(OSError):  # it has gone by itself
            if farewell and self._tls is None:
                self._socket.send(farewell, socket.MSG_DONTWAIT)
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; over TLS, saying so."""
        if self._tls is not None:
            with suppress(OSError):
                self._socket.send(self._tls.end(), socket.MSG_DONTWAIT)
        self._socket.close()

    def _send_some(self, parts: Sequence[memoryview]) -> int:
        try:
            return self._socket.sendmsg(parts)
        except BlockingIOError:
            raise ConnectionFailed(
                f"could not send to the client: it took nothing for {self._send_timeout:g} s"
            ) from None
        except OSError as error:
            raise _lost(error) from error


def _timeval(seconds: float) -> bytes:
    """As the system calls want it; never 0, which would be for ever."""
    return struct.pack("@ll", int(seconds), max(1, int(seconds % 1 * 1_000_000)))


def _lost(error: OSError) -> ConnectionFailed:
    return ConnectionFailed(f"could not talk to the client: {error.strerror}")
