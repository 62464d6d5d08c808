"""Where clients come in: a Unix socket in a directory.

A socket that is left of a server which was killed is taken over; one that somebody answers is not.
"""

import os
import pwd
import select
import socket
import struct
from pathlib import Path
from typing import Final

from pgbackup.errors import Locked, PgbackupError
from pgbackup.serve.session import Client

DIRECTORY_MODE: Final = 0o700
BACKLOG: Final = 64

_CREDENTIALS = struct.Struct("3i")


class UnixListener:
    """A socket that libpq finds when it is given the directory as a host.

    path: of the socket.
    """

    def __init__(self, directory: str, port: int) -> None:
        """Listen. The directory is made for us alone if there is none.

        Raises: Locked if somebody listens there, PgbackupError.
        """
        self.path = f"{directory}/.s.PGSQL.{port}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            Path(directory).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            self._bind()
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise PgbackupError(
                f'could not listen on socket "{self.path}": {error.strerror or error}'
            ) from error
        except PgbackupError:
            self._socket.close()
            raise

    def accept(self, timeout: float) -> tuple[socket.socket, Client] | None:
        """The next client, or None if none came in so many seconds. Raises: PgbackupError."""
        if not select.select([self._socket], [], [], timeout)[0]:
            return None
        try:
            stream, _ = self._socket.accept()
        except OSError as error:
            raise PgbackupError(f"could not accept a connection: {error.strerror}") from error
        return stream, Client("[local]", system_user(stream))

    def close(self) -> None:
        """Stop listening."""
        Path(self.path).unlink(missing_ok=True)
        self._socket.close()

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
