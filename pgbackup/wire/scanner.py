"""Tokens of the replication commands: out of text, and the quoting that puts values into it.

Text is UTF-8 in a str, with bytes that are none as surrogates. Tokens are made one at a time,
because of a command that is SQL no more than the first one can be understood.

Source: repl_scanner.l (PostgreSQL 13 to 18).
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from pgbackup.errors import ClientError, UsageError

COMMAND_WORDS = {
    "BASE_BACKUP": 13,
    "CREATE_REPLICATION_SLOT": 13,
    "DROP_REPLICATION_SLOT": 13,
    "IDENTIFY_SYSTEM": 13,
    "SHOW": 13,
    "START_REPLICATION": 13,
    "TIMELINE_HISTORY": 13,
    "READ_REPLICATION_SLOT": 15,
    "ALTER_REPLICATION_SLOT": 17,
    "UPLOAD_MANIFEST": 17,
}
"""Words that a command begins with, and the first major that knows them (13 or before)."""

WORDS_SINCE = COMMAND_WORDS | dict.fromkeys(
    [
        "EXPORT_SNAPSHOT", "LOGICAL", "NOEXPORT_SNAPSHOT", "PHYSICAL", "RESERVE_WAL", "SLOT",
        "TEMPORARY", "TIMELINE", "USE_SNAPSHOT", "WAIT",
    ],
    13,
) | {"TWO_PHASE": 15}  # fmt: skip

WORDS_UNTIL_14 = frozenset(
    [
        "FAST", "LABEL", "MANIFEST", "MANIFEST_CHECKSUMS", "MAX_RATE", "NOVERIFY_CHECKSUMS",
        "NOWAIT", "PROGRESS", "TABLESPACE_MAP", "WAL",
    ]
)  # fmt: skip
"""Options of BASE_BACKUP that were keywords; from 15 on they are names."""

MAX_NAME = 63
"""Bytes that the scanner leaves of a name; NAMEDATALEN - 1."""


class Kind(Enum):
    """What a token is. WORD is a keyword; CHARACTER is anything else, alone."""

    WORD = "keyword"
    NAME = "name"
    STRING = "string"
    NUMBER = "number"
    POSITION = "position"
    CHARACTER = "character"
    END = "end"


class Token(NamedTuple):
    """text: without quotes; of a name in lower case unless it was quoted."""

    kind: Kind
    text: str


END = Token(Kind.END, "")

_TOKEN = re.compile(
    r"""(?P<position>[0-9A-Fa-f]+/[0-9A-Fa-f]+)
      | (?P<number>[0-9]+)
      | (?P<name>[A-Za-z_\x80-\U0010ffff][A-Za-z_\x80-\U0010ffff0-9$]*)
      | '(?P<string>(?:[^']++|'')*+)'
      | "(?P<quoted>[^"]*+)"
      | (?P<unterminated>['"])
      | (?P<character>.)""",
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\n\r\f]*")
_SPACE_SINCE_17 = re.compile(r"[ \t\n\r\f\v]*")
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def scan(text: str, major: int) -> Iterator[Token]:
    """Yield the tokens that a server of this major sees, then END for ever.

    Raises: ClientError (42601).
    """
    space = _SPACE_SINCE_17 if major >= 17 else _SPACE
    place = _skip(space, text, 0)
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup == "unterminated":
            raise ClientError("unterminated quoted string", sqlstate="42601")
        yield _token(match, major)
        place = _skip(space, text, match.end())
    while True:
        yield END


def _skip(space: re.Pattern[str], text: str, place: int) -> int:
    match = space.match(text, place)
    return match.end() if match else place


def _token(match: re.Match[str], major: int) -> Token:
    kind = match.lastgroup or ""
    text = match[kind]
    if kind == "name":
        if WORDS_SINCE.get(text, 99) <= major or (major < 15 and text in WORDS_UNTIL_14):
            return Token(Kind.WORD, text)
        return Token(Kind.NAME, _cut(text.translate(_LOWER)))
    if kind == "quoted":
        return Token(Kind.NAME, _cut(text))
    if kind == "string":
        return Token(Kind.STRING, text.replace("''", "'"))
    return Token(Kind(kind), text)


def _cut(name: str) -> str:
    """Leave MAX_NAME bytes of a name, and no part of a character."""
    if len(name) <= MAX_NAME // 4:
        return name
    data = name.encode("utf-8", "surrogateescape")
    end = min(len(data), MAX_NAME)
    while end < len(data) and end > 0 and data[end] & 0xC0 == 0x80:
        end -= 1
    return data[:end].decode("utf-8", "surrogateescape")


def quote_literal(value: str) -> str:
    """A string for the replication scanner: quotes are doubled, a backslash is a backslash."""
    if "\0" in value:
        raise UsageError("a replication command can not contain a NUL character")
    return "'" + value.replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """A quoted name. The scanner knows no escape for a double quote, so there can be none."""
    if not name or '"' in name or "\0" in name:
        raise UsageError(f"{name!r} is not a name that the replication grammar can express")
    return f'"{name}"'
