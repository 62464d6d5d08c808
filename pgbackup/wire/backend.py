"""What a server sends: messages as bytes, ready for the connection.

Source: printtup.c, elog.c, auth.c, pqformat.c (PostgreSQL 18).
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from pgbackup.errors import PgbackupError
from pgbackup.wire.startup import HIGHEST_MINOR

SSL_YES = b"S"
NO_ENCRYPTION = b"N"
"""The answers to SslRequest and GssEncRequest; they are no messages."""

_HEADER = struct.Struct("!cI")
_FIELD = struct.Struct("!IhIhih")
_INT16 = struct.Struct("!h")
_INT32 = struct.Struct("!i")
_NULL = _INT32.pack(-1)
_COPY = struct.pack("!bh", 0, 0)
_TRANSACTION_IDLE = b"I"


class Authentication(IntEnum):
    """What an authentication message says."""

    OK = 0
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


class Type(NamedTuple):
    """A data type: its number, and its bytes or -1."""

    oid: int
    length: int


TEXT = Type(25, -1)
BYTEA = Type(17, -1)
INT4 = Type(23, 4)
INT8 = Type(20, 8)
OID = Type(26, 4)


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message of a type."""
    return _HEADER.pack(kind, len(body) + 4) + body


def authentication(code: Authentication, data: bytes = b"") -> bytes:
    """A step of the authentication."""
    return message(b"R", _INT32.pack(code) + data)


def sasl_mechanisms(names: Iterable[str]) -> bytes:
    """Offer mechanisms, the best first."""
    listed = b"".join(_cstring(name) for name in names)
    return authentication(Authentication.SASL, listed + b"\0")


def negotiate_protocol_version(unknown: Sequence[str]) -> bytes:
    """Tell a client the newest protocol that we know, and what of its wishes we do not."""
    names = b"".join(_cstring(name) for name in unknown)
    return message(b"v", struct.pack("!hhi", 3, HIGHEST_MINOR, len(unknown)) + names)


def parameter_status(name: str, value: str) -> bytes:
    """Tell a setting that clients want to know."""
    return message(b"S", _cstring(name) + _cstring(value))


def backend_key_data(pid: int, key: bytes) -> bytes:
    """Tell what a CancelRequest for this connection has to say."""
    return message(b"K", _INT32.pack(pid) + key)


def ready_for_query() -> bytes:
    """The next command may come."""
    return message(b"Z", _TRANSACTION_IDLE)


def row_description(columns: Iterable[tuple[str, Type]]) -> bytes:
    """The columns of the rows that follow, all of them as text."""
    fields = [
        _cstring(name) + _FIELD.pack(0, 0, type_.oid, type_.length, -1, 0)
        for name, type_ in columns
    ]
    return message(b"T", _INT16.pack(len(fields)) + b"".join(fields))


def data_row(values: Sequence[bytes | str | int | None]) -> bytes:
    """A row; None is NULL."""
    parts = [_INT16.pack(len(values))]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            data = value if isinstance(value, bytes) else _encode(str(value))
            parts += [_INT32.pack(len(data)), data]
    return message(b"D", b"".join(parts))


def command_complete(tag: str) -> bytes:
    """The command, or a part of it, is done."""
    return message(b"C", _cstring(tag))


def copy_in_response() -> bytes:
    """The client may send CopyData."""
    return message(b"G", _COPY)


def copy_out_response() -> bytes:
    """CopyData follow."""
    return message(b"H", _COPY)


def copy_both_response() -> bytes:
    """CopyData go both ways from here."""
    return message(b"W", _COPY)


def copy_data_header(length: int) -> bytes:
    """The beginning of a CopyData whose payload of so many bytes is sent behind it."""
    return _HEADER.pack(b"d", length + 4)


def copy_done() -> bytes:
    """No more CopyData from here."""
    return message(b"c")


def error_response(error: PgbackupError, *, fatal: bool = False) -> bytes:
    """An error; after a fatal one the connection is closed."""
    severity = "FATAL" if fatal else "ERROR"
    return message(b"E", _report(severity, error.sqlstate, error.message, error.detail, error.hint))


def warning(text: str, sqlstate: str = "01000") -> bytes:
    """A NoticeResponse."""
    return message(b"N", _report("WARNING", sqlstate, text))


def _report(
    severity: str, sqlstate: str, text: str, detail: str | None = None, hint: str | None = None
) -> bytes:
    fields = {b"S": severity, b"V": severity, b"C": sqlstate, b"M": text, b"D": detail, b"H": hint}
    given = [kind + _cstring(value) for kind, value in fields.items() if value is not None]
    return b"".join(given) + b"\0"


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _cstring(text: str) -> bytes:
    return _encode(text.replace("\0", "")) + b"\0"
