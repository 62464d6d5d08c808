"""TCP ports, where clients of this and of other machines come in."""

import errno
import socket
from typing import Any, Final

from pgbackup.errors import Locked, PgbackupError
from pgbackup.serve.entry.addresses import EVERYWHERE, HostPort, is_loopback
from pgbackup.serve.entry.listener import Listener
from pgbackup.serve.entry.session import Client

_KEEPALIVE: Final = {
    socket.TCP_KEEPIDLE: 60,  # seconds of silence
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 6,
}
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class TcpListener(Listener):
    """A port at one address."""

    def __init__(self, family: int, address: tuple[Any, ...]) -> None:
        """Listen. Raises: OSError."""
        super().__init__(socket.socket(family, socket.SOCK_STREAM))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind(address)
            self.begin()
        except OSError:
            self._socket.close()
            raise

    @property
    def host(self) -> str:
        return str(self._socket.getsockname()[0])

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def is_exposed(self) -> bool:
        return not is_loopback(self.host)

    def _know(self, stream: socket.socket, address: object) -> Client:
        assert isinstance(address, tuple)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            stream.setsockopt(socket.IPPROTO_TCP, option, value)
        host = str(address[0])
        return Client(host, is_exposed=not is_loopback(host), port=int(address[1]))


def listen_at(place: HostPort) -> list[Listener]:
    """One for each address that a host has; one family may be missing here.

    Raises: Locked if somebody listens there, PgbackupError.
    """
    opened: list[Listener] = []
    error: OSError | None = None
    host = None if place.host == EVERYWHERE else place.host
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                opened.append(TcpListener(family, address))
            except OSError as reason:
                error = reason
                if reason.errno not in _NOT_HERE:
                    break
    except OSError as reason:  # a name that nobody knows
        error = reason
    if opened and (error is None or error.errno in _NOT_HERE):
        return opened
    for each in opened:
        each.close()
    assert error is not None
    kind = Locked if error.errno == errno.EADDRINUSE else PgbackupError
    raise kind(
        f'could not listen on "{place.host}", port {place.port}: {error.strerror}',
        hint="Choose another port with -p, or another place with --listen.",
    )
