"""A network between a client and a server that can be cut, fall silent, or lose one of the two.

Real sockets: the client connects by TCP, and what it sends goes on to the server's Unix socket.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.waiting import PATIENCE

CHUNK = 8191
"""Bytes passed on at once; no multiple of anything, so that cuts fall anywhere."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER by which close resets the connection."""


class Network:
    """Passes connections on, until it is told otherwise. A context manager.

    port: of the loopback address, to connect to.
    """

    def __init__(self, target: Path) -> None:
        """Begin to listen. target: the server's socket."""
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._change = threading.Condition()
        self._is_silent = False
        self._is_closing = False
        self._word: bytes | None = None
        self._passed = 0
        self._links: list[_Link] = []
        self._thread = threading.Thread(target=self._accept)

    def cut(self, after: int = 0) -> None:
        """Reset all connections once so many more bytes have come from the server."""
        with self._change:
            end = self._passed + after
            assert self._change.wait_for(lambda: self._passed >= end, PATIENCE), "nothing comes"
            links, self._links = self._links, []
        for link in links:
            link.reset()

    def fall_silent(self, at: bytes | None = None) -> None:
        """Pass nothing on any more and close nothing, new connections included.

        at: not before the client sends this, of which the server then learns nothing.
        """
        with self._change:
            self._word = at
            self._is_silent = at is None

    def wait_until_silent(self) -> None:
        """Wait until the client has sent what `fall_silent` was given."""
        with self._change:
            assert self._change.wait_for(lambda: self._is_silent, PATIENCE), "it was not sent"

    def lose_server(self) -> None:
        """End the connections on the server's side; the client is not told."""
        with self._change:
            links = list(self._links)
        for link in links:
            link.close_server()

    def recover(self) -> None:
        """Be as it was in the beginning. Connections that fell silent go on."""
        with self._change:
            self._is_silent, self._word = False, None
            self._change.notify_all()

    def refuse(self) -> None:
        """Reset all connections, and take no new ones for good."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        with self._change:
            self._is_closing = True
        self.recover()
        self.refuse()
        self._thread.join()

    def _accept(self) -> None:
        links = []
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:
                    server.close()
                    client.close()
                    continue
                link = _Link(client, server, self._may_pass)
                links.append(link)
                with self._change:
                    self._links.append(link)
                link.start()
        for link in links:
            link.reset()

    def _may_pass(self, data: bytes, from_server: bool) -> None:
        """Wait while the network is silent, and see what passes."""
        with self._change:
            if self._word is not None and not from_server and self._word in data:
                self._is_silent, self._word = True, None
                self._change.notify_all()
            self._change.wait_for(lambda: not self._is_silent or self._is_closing)
            self._passed += len(data) if from_server else 0
            self._change.notify_all()


class _Link:
    """One connection, with a thread for each direction."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        may_pass: Callable[[bytes, bool], None],
    ) -> None:
        self._client = client
        self._server = server
        self._may_pass = may_pass
        self._is_lost = False
        self._threads = [
            threading.Thread(target=self._pump, args=(client, server, False)),
            threading.Thread(target=self._pump, args=(server, client, True)),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def reset(self) -> None:
        """End the connection on both sides at once. No effect the second time."""
        with suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._client.shutdown(socket.SHUT_RD)
        self.close_server()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    def close_server(self) -> None:
        """End the connection on the server's side; the client is not told."""
        self._is_lost = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        with suppress(OSError):
            while True:
                data = source.recv(CHUNK)
                self._may_pass(data, from_server)
                if not data:
                    break
                if not self._is_lost:
                    sink.sendall(data)
        if not self._is_lost:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
