"""Who may connect, and what for: the users of a server as values, and the file that keeps them.

The file is JSON and holds verifiers, never passwords. Who is not in it may still be the one who
runs the server, over its Unix socket.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pgbackup.errors import CorruptData
from pgbackup.repo.fields import Fields
from pgbackup.serve.verifier import Verifier


class Right(StrEnum):
    """What a user may ask for; IDENTIFY_SYSTEM, SHOW and TIMELINE_HISTORY are for everybody."""

    BASE_BACKUP = "base-backup"
    WAL = "wal"
    SLOTS = "slots"


@dataclass(frozen=True, slots=True)
class User:
    """A user and the rules for it.

    verifier:          of its password; None if it has none.
    system_users:      of the operating system, who are this user on a Unix socket.
    certificate_names: in a client's certificate, common or alternative, that need no password.
    clusters:          system identifiers; None for all.
    """

    name: str
    verifier: Verifier | None = None
    system_users: frozenset[str] = frozenset()
    certificate_names: frozenset[str] = frozenset()
    clusters: frozenset[int] | None = None
    rights: frozenset[Right] = frozenset(Right)

    def may(self, right: Right, cluster: int) -> bool:
        """Whether it has a right at a cluster."""
        return right in self.rights and (self.clusters is None or cluster in self.clusters)


def read_users(data: bytes, name: str) -> dict[str, User]:
    """Read the file. name: of it, for messages. Raises: CorruptData."""
    users = [_read_user(group) for group in Fields.parse(data, name).groups("users")]
    return {user.name: user for user in users}


def write_users(users: Iterable[User]) -> bytes:
    """The content of the file."""
    documents = [_document(user) for user in sorted(users, key=lambda user: user.name)]
    return json.dumps({"users": documents}, indent=1).encode() + b"\n"


def _read_user(group: Fields) -> User:
    rights, clusters = group.texts("rights"), None
    if not set(rights) <= set(Right):
        raise CorruptData(f'could not read "{group.name}": it has an unknown right')
    if group.has("clusters"):
        clusters = group.texts("clusters")
        if not all(text.isascii() and text.isdigit() for text in clusters):
            raise CorruptData(f'could not read "{group.name}": a cluster has no system identifier')
    return User(
        group.text("name"),
        Verifier.parse(group.text("verifier")) if group.has("verifier") else None,
        frozenset(group.texts("system_users")),
        frozenset(group.texts("certificate_names")),
        None if clusters is None else frozenset(map(int, clusters)),
        frozenset(map(Right, rights)),
    )


def _document(user: User) -> dict[str, object]:
    return {
        "name": user.name,
        "verifier": None if user.verifier is None else str(user.verifier),
        "system_users": sorted(user.system_users),
        "certificate_names": sorted(user.certificate_names),
        "clusters": None if user.clusters is None else [str(n) for n in sorted(user.clusters)],
        "rights": sorted(user.rights),
    }
