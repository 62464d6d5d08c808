"""SCRAM verifiers: what a server keeps instead of a password, in PostgreSQL's own form.

Source: scram-common.c; auth-scram.c, parse_scram_secret, mock_scram_secret (PostgreSQL 18).
"""

import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Self

from pgbackup.errors import CorruptData

DEFAULT_ITERATIONS = 4096
"""PostgreSQL's. Clients do this work at every connection, we only when a password is set."""

MAX_ITERATIONS = 10_000_000
SALT_LENGTH = 16
KEY_LENGTH = 32
MIN_SECRET = 16
"""Bytes of the secret that salts of unknown users are made of."""

_FORM = re.compile(r"SCRAM-SHA-256\$([0-9]{1,8}):([^$:]+)\$([^$:]+):([^$:]+)")


def digest(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.digest(key, message, "sha256")


@dataclass(frozen=True, slots=True)
class Verifier:
    """salt, stored_key, server_key: bytes that stay out of messages."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY. Raises: CorruptData."""
        match = _FORM.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            salt, stored, server = (b64decode(part, validate=True) for part in match.groups()[1:])
            iterations = int(match[1])
            if not 1 <= iterations <= MAX_ITERATIONS or {len(stored), len(server)} != {KEY_LENGTH}:
                raise ValueError
        except (binascii.Error, ValueError):
            raise CorruptData("could not read a SCRAM-SHA-256 verifier") from None
        return cls(iterations, salt, stored, server)

    def __str__(self) -> str:
        salt, stored, server = (
            b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"


def make_verifier(
    password: str, *, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None
) -> Verifier:
    """Make what is kept of a password. salt: only for tests."""
    salt = secrets.token_bytes(SALT_LENGTH) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepare_password(password), salt, iterations)
    stored_key = hashlib.sha256(digest(salted, b"Client Key")).digest()
    return Verifier(iterations, salt, stored_key, digest(salted, b"Server Key"))


def mock_verifier(user: str, secret: bytes) -> Verifier:
    """Make what looks like a verifier and fits no password, always the same for a user.

    secret: at least MIN_SECRET bytes, the same as long as clients shall not see a change.
    """
    if len(secret) < MIN_SECRET:
        raise ValueError("the secret for unknown users is too short")
    salt = digest(secret, user.encode("utf-8", "surrogateescape"))[:SALT_LENGTH]
    return Verifier(DEFAULT_ITERATIONS, salt, bytes(KEY_LENGTH), bytes(KEY_LENGTH))


def prepare_password(password: str) -> bytes:
    """Apply SASLprep; a password that it does not allow stays as it is, as in PostgreSQL.

    Source: RFC 4013; saslprep.c, pg_saslprep (PostgreSQL 18)
    """
    spaced = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", spaced)
    if not prepared or any(map(_is_prohibited, prepared)) or not _is_one_direction(prepared):
        prepared = password
    return prepared.encode("utf-8", "surrogateescape")


def _is_prohibited(character: str) -> bool:
    tables = (
        stringprep.in_table_a1, stringprep.in_table_c12, stringprep.in_table_c21_c22,
        stringprep.in_table_c3, stringprep.in_table_c4, stringprep.in_table_c5,
        stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
        stringprep.in_table_c9,
    )  # fmt: skip
    return any(table(character) for table in tables)


def _is_one_direction(text: str) -> bool:
    """Whether a text that has right-to-left characters has no others at its ends or at all."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    at_ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return at_ends and not any(map(stringprep.in_table_d2, text))
