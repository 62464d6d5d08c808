"""What travels inside CopyData of a BASE_BACKUP from PostgreSQL 15 on.

Contents messages ('d') are the byte path: the receiver looks at the first byte and slices, they
never become a value here.

Source: basebackup_copy.c (PostgreSQL 18).
"""

import struct
from dataclasses import dataclass

from pgbackup.errors import ProtocolViolation

CONTENTS = ord("d")
NEW_ARCHIVE = ord("n")
MANIFEST = ord("m")
PROGRESS = ord("p")

PROGRESS_MESSAGE = struct.Struct("!cq")
PROGRESS_LENGTH = PROGRESS_MESSAGE.size
"""Bytes: the type and an int64 of bytes done."""

BEGIN_MANIFEST = b"m"
"""The whole message before the contents of the manifest."""

CONTENTS_PREFIX = b"d"
"""What stands before contents in their message."""


@dataclass(frozen=True, slots=True)
class NewArchive:
    """An archive begins: its name (base.tar or OID.tar) and the tablespace's path."""

    name: str
    location: str


def new_archive(archive: NewArchive) -> bytes:
    """Build an 'n' message."""
    texts = (archive.name, archive.location)
    return b"n" + b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in texts)


def progress(bytes_done: int) -> bytes:
    """Build a 'p' message; the bytes are of the whole backup."""
    return PROGRESS_MESSAGE.pack(b"p", bytes_done)


def parse_new_archive(payload: memoryview) -> NewArchive:
    """Read an 'n' message. Raises: ProtocolViolation for a name that is not a plain file name."""
    parts = bytes(payload[1:]).split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise ProtocolViolation("the server announced an archive with a malformed message")
    name, location = (part.decode("utf-8", "surrogateescape") for part in parts[:2])
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ProtocolViolation(f'the server announced an archive with the unsafe name "{name}"')
    return NewArchive(name, location)


def check_length(payload: memoryview, expected: int) -> None:
    """Refuse a control message of a wrong length. Raises: ProtocolViolation."""
    if len(payload) != expected:
        kind = chr(payload[0])
        raise ProtocolViolation(
            f'the server sent a base backup message "{kind}" of {len(payload)} bytes'
            f" where {expected} are due"
        )
