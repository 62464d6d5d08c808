"""All places where a server listens, as one."""

import select
import socket
from collections.abc import Sequence
from typing import Self

from pgbackup.errors import PgbackupError
from pgbackup.serve.entry.addresses import Address, Directory, HostPort
from pgbackup.serve.entry.listener import Listener, UnixListener
from pgbackup.serve.entry.session import Client
from pgbackup.serve.entry.tcplistener import listen_at


class Listeners:
    """Several, which take turns."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)
        self._poll = select.poll()
        for each in listeners:
            self._poll.register(each, select.POLLIN)
        self._ready: list[Listener] = []

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach one of them."""
        return any(each.is_exposed for each in self._listeners)

    @property
    def places(self) -> list[str]:
        """What clients have to say to come here."""
        return [f"-h {each.host} -p {each.port}" for each in self._listeners]

    def accept(self, timeout: float) -> tuple[socket.socket, Client] | None:
        """The next client, of each in turn, or None. Raises: ConnectionFailed."""
        if not self._ready:
            found = {descriptor for descriptor, _ in self._poll.poll(timeout * 1000)}
            self._ready = [each for each in self._listeners if each.fileno() in found]
        return self._ready.pop().accept(0) if self._ready else None

    def close(self) -> None:
        """Stop listening. No effect the second time."""
        while self._listeners:
            self._listeners.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def listen(addresses: Sequence[Address], port: int) -> Listeners:
    """Listen at all of them.

    port: in the names of Unix sockets.

    Raises: Locked if somebody listens there, Refused, PgbackupError.
    """
    opened: list[Listener] = []
    try:
        for address in addresses:
            match address:
                case Directory(path, is_ours):
                    opened.append(UnixListener(path, port, is_ours=is_ours))
                case HostPort():
                    opened += listen_at(address)
    except PgbackupError:
        Listeners(opened).close()
        raise
    return Listeners(opened)
