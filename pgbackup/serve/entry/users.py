"""Who may connect, and what for: the users of a server as values, and where they are kept.

A repository keeps them in one document, with verifiers and never passwords. Who is not in it may
still be the one who runs the server, over its Unix socket.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from pgbackup.errors import CorruptData, NotFound, UsageError
from pgbackup.repo import layout
from pgbackup.repo.fields import Fields
from pgbackup.serve.entry.verifier import MIN_SECRET, Verifier
from pgbackup.storage.api import Storage

MAX_NAME: Final = 63  # bytes

_LIMIT: Final = 16 << 20  # bytes of the document


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


@dataclass(frozen=True, slots=True)
class KnownUsers:
    """All that there are, by name.

    secret: for what unknown users see, see serve.verifier.mock_verifier.
    """

    users: dict[str, User]
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """Read the document. name: of it, for messages. Raises: CorruptData."""
        fields = Fields.parse(data, name)
        users = [_read_user(group) for group in fields.groups("users")]
        try:
            secret = bytes.fromhex(fields.text("secret"))
        except ValueError:
            secret = b""
        if len(secret) < MIN_SECRET:
            raise CorruptData(f'could not read "{name}": it has no secret')
        return cls({user.name: user for user in users}, secret)

    def encode(self) -> bytes:
        """The document."""
        users = [_document(self.users[name]) for name in sorted(self.users)]
        return json.dumps({"secret": self.secret.hex(), "users": users}, indent=1).encode() + b"\n"


def check_name(name: str) -> None:
    """Raises: UsageError if PostgreSQL has no user of this name."""
    if not 0 < len(name.encode("utf-8", "surrogateescape")) <= MAX_NAME or not name.isprintable():
        raise UsageError(
            f"could not use the name {name!r} for a user: it has to have 1 to {MAX_NAME} bytes that"
            " can be printed"
        )


def read_known_users(storage: Storage) -> KnownUsers:
    """Those of a repository, as stored last. Raises: CorruptData, StorageError."""
    try:
        data = storage.read(layout.USERS, _LIMIT)
    except NotFound:
        return KnownUsers({}, secrets.token_bytes(2 * MIN_SECRET))
    return KnownUsers.parse(data, storage.locate(layout.USERS))


@contextmanager
def changing_users(storage: Storage) -> Iterator[dict[str, User]]:
    """The users, by name; what the block has changed of that is stored, durably.

    Raises: Locked if somebody else changes them now, CorruptData, StorageError.
    """
    with storage.lock(layout.USERS):
        known = read_known_users(storage)
        yield known.users
        with storage.writer(layout.USERS) as writer:
            writer.write(known.encode())
            writer.commit(replace=True)


def _read_user(group: Fields) -> User:
    rights = group.texts("rights")
    if not set(rights) <= set(Right):
        raise CorruptData(f'could not read "{group.name}": it has an unknown right')
    return User(
        group.text("name"),
        Verifier.parse(group.text("verifier")) if group.has("verifier") else None,
        frozenset(group.texts("system_users")),
        frozenset(group.texts("certificate_names")),
        _clusters(group),
        frozenset(map(Right, rights)),
    )


def _clusters(group: Fields) -> frozenset[int] | None:
    if not group.has("clusters"):
        return None
    systems = frozenset(filter(None, map(layout.parse_system, group.texts("clusters"))))
    if len(systems) < len(set(group.texts("clusters"))):
        raise CorruptData(f'could not read "{group.name}": a cluster has no system identifier')
    return systems


def _document(user: User) -> dict[str, object]:
    return {
        "name": user.name,
        "verifier": None if user.verifier is None else str(user.verifier),
        "system_users": sorted(user.system_users),
        "certificate_names": sorted(user.certificate_names),
        "clusters": None if user.clusters is None else [str(n) for n in sorted(user.clusters)],
        "rights": sorted(user.rights),
    }
