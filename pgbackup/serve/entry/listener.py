"""Where clients come in: what all sockets that listen share, and Unix sockets in directories.

A socket that is left of a server which was killed is taken over; one that somebody answers is not.
"""

import os
import pwd
import select
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from pgbackup.errors import ConnectionFailed, Locked, PgbackupError
from pgbackup.serve.entry.addresses import check_ours
from pgbackup.serve.entry.session import Client

DIRECTORY_MODE: Final = 0o700
BACKLOG: Final = 4096
"""As many as the kernel allows, so that a burst of strangers does not turn away who comes next."""

_CREDENTIALS = struct.Struct("3i")


class Listener:
    """A socket that listens.

    Accepted: a socket and what is known of its other end.
    """

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened

    def begin(self) -> None:
        """Let clients come, once the socket is bound. Raises: OSError."""
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)

    @property
    def host(self) -> str:
        """What clients give as a host."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """What clients give as a port."""
        raise NotImplementedError

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach it."""
        return False

    def fileno(self) -> int:
        """The descriptor, for somebody who waits for several."""
        return self._socket.fileno()

    def accept(self, timeout: float) -> tuple[socket.socket, Client] | None:
        """The next client, or None if none came in so many seconds.

        Raises: ConnectionFailed if that one could not be had; others may come.
        """
        if not select.select([self._socket], [], [], timeout)[0]:
            return None
        try:
            stream, address = self._socket.accept()
        except BlockingIOError:  # it has gone again
            return None
        except OSError as error:
            raise ConnectionFailed(f"could not accept a connection: {error.strerror}") from error
        try:
            return stream, self._know(stream, address)
        except OSError as error:
            stream.close()
            raise ConnectionFailed(f"could not accept a connection: {error.strerror}") from error

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _know(self, stream: socket.socket, address: object) -> Client:
        raise NotImplementedError


class UnixListener(Listener):
    """A socket that libpq finds when it is given the directory as a host.

    path: of the socket.
    """

    def __init__(self, directory: str, port: int, *, is_ours: bool = False) -> None:
        """Listen. The directory is made for us alone if there is none.

        is_ours: one that is there has to be so, too.

        Raises: Locked if somebody listens there, Refused, PgbackupError.
        """
        self.path = f"{directory}/.s.PGSQL.{port}"
        self._directory, self._port = directory, port
        super().__init__(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            Path(directory).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            if is_ours:
                check_ours(directory)
            self._bind()
            self.begin()
        except OSError as error:
            self._socket.close()
            raise PgbackupError(
                f'could not listen on socket "{self.path}": {error.strerror or error}'
            ) from error
        except PgbackupError:
            self._socket.close()
            raise

    @property
    def host(self) -> str:
        return self._directory

    @property
    def port(self) -> int:
        return self._port

    def close(self) -> None:
        """Stop listening; a socket that somebody else has made there meanwhile stays."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self.path), self._bound):
                Path(self.path).unlink(missing_ok=True)
        super().close()

    def _know(self, stream: socket.socket, address: object) -> Client:
        return Client("[local]", system_user(stream))

    def _bind(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                Path(self.path).unlink(missing_ok=True)
            else:
                raise Locked(
                    f'could not listen on socket "{self.path}": somebody else does',
                    hint="Choose another directory or port.",
                )
        self._socket.bind(self.path)
        self._bound = os.lstat(self.path)


def system_user(stream: socket.socket) -> str:
    """Who of the operating system is at the other end; a number if it has no name."""
    data = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return user_name(_CREDENTIALS.unpack(data)[1])


def user_name(uid: int | None = None) -> str:
    """The name of a user of the operating system; our own without a number."""
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
