"""Who is let in, and with which certificate of ours: what users and files say at one moment."""

from typing import NamedTuple

from pgbackup.errors import Refused
from pgbackup.serve.entry.listener import user_name
from pgbackup.serve.entry.session import Gate
from pgbackup.serve.entry.tls import Tls, TlsFiles
from pgbackup.serve.entry.users import read_known_users
from pgbackup.storage.api import Storage


class Entrance(NamedTuple):
    """What a connection begins with; one that has begun keeps it."""

    gate: Gate
    tls: Tls | None = None


def read_entrance(
    storage: Storage, files: TlsFiles | None, *, is_exposed: bool = False
) -> Entrance:
    """What the repository and the files say now.

    is_exposed: other machines can come here.

    Raises: Refused, CorruptData, StorageError, PgbackupError.
    """
    known = read_known_users(storage)
    tls = None if files is None else Tls(files)
    entrance = Entrance(Gate(known.users, user_name(), known.secret, tls is not None), tls)
    if is_exposed:
        _check_exposed(entrance)
    return entrance


def _check_exposed(entrance: Entrance) -> None:
    """What other machines reach has TLS, and somebody who can prove who it is. Raises: Refused."""
    if entrance.tls is None:
        raise Refused(
            "could not serve other machines: there is no certificate for TLS",
            hint="Name one with --tls-cert and --tls-key, or listen at 127.0.0.1 alone.",
        )
    users = entrance.gate.users.values()
    if not any(user.verifier or user.certificate_names for user in users):
        raise Refused(
            "could not serve other machines: no user has a password or a certificate",
            hint="Make one: pgbackup serve-user add NAME -B REPO",
        )
