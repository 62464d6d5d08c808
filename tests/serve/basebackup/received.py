"""What a client gets of our walsender, for tests: messages, and what a base backup consists of."""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from pgbackup.storage.api import Bytes


class Answer(NamedTuple):
    """A message of the server."""

    kind: str
    body: bytes


class Collected:
    """An Outgoing that keeps what was sent."""

    def __init__(self) -> None:
        self.data = bytearray()

    def send(self, *parts: Bytes) -> None:
        for part in parts:
            self.data += part

    def messages(self) -> list[Answer]:
        return split(bytes(self.data))


def split(data: bytes) -> list[Answer]:
    """All messages; there must be no rest."""
    found = []
    start = 0
    while start < len(data):
        kind, length = struct.unpack_from("!cI", data, start)
        end = start + length + 1
        assert end <= len(data), "a message is cut off"
        found.append(Answer(kind.decode(), data[start + 5 : end]))
        start = end
    return found


def rows(messages: list[Answer]) -> list[list[bytes | None]]:
    """The values of all rows."""
    return [_values(each.body) for each in messages if each.kind == "D"]


def _values(body: bytes) -> list[bytes | None]:
    (count,) = struct.unpack_from("!h", body)
    values: list[bytes | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if length < 0 else body[at : at + length])
        at += max(length, 0)
    return values


@dataclass
class TypedBackup:
    """The single COPY from 15 on, taken apart.

    order: what came, contents left out: archive names, "manifest", and bytes done.
    """

    archives: dict[str, bytes] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    manifest: bytes | None = None
    order: list[str | int] = field(default_factory=list)

    @classmethod
    def read(cls, messages: list[Answer]) -> "TypedBackup":
        backup = cls()
        name = ""
        for each in messages:
            if each.kind != "d":
                continue
            kind, rest = each.body[:1], each.body[1:]
            if kind == b"n":
                name, location, empty = (part.decode() for part in rest.split(b"\0"))
                assert not empty
                backup.archives[name], backup.locations[name] = b"", location
                backup.order.append(name)
            elif kind == b"m":
                backup.manifest, name = b"", ""
                backup.order.append("manifest")
            elif kind == b"p":
                backup.order += struct.unpack("!q", rest)
            elif name:
                assert rest
                backup.archives[name] += rest
            else:
                assert rest
                assert backup.manifest is not None
                backup.manifest += rest
        return backup
