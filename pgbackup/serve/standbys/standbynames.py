"""The value of synchronous_standby_names: which standbys are waited for, and how many of them.

The grammar is PostgreSQL's, and so are the words of its errors. A name is kept as it is written:
case counts only in comparisons, and not there either.

Source: syncrep_gram.y, syncrep_scanner.l; syncrep.c, check_synchronous_standby_names and
SyncRepGetStandbyPriority (PostgreSQL 18).
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from pgbackup.errors import ClientError

SETTING = "synchronous_standby_names"

_TOKEN = re.compile(
    r"""(?P<name>[A-Za-z_\x80-\U0010ffff][A-Za-z_\x80-\U0010ffff0-9$]*|\*)
      | (?P<number>[0-9]+)
      | "(?P<quoted>(?:[^"]|"")*+)"
      | (?P<unterminated>")
      | (?P<character>.)""",
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\n\r\f\v]*")
_LONG_MAX, _INT_MAX = (1 << 63) - 1, (1 << 31) - 1


class Method(Enum):
    """How standbys are chosen: the first in the list, or any of it."""

    PRIORITY = "FIRST"
    QUORUM = "ANY"


class StandbyNames(NamedTuple):
    """The parsed value. number: how many standbys must have acknowledged."""

    method: Method
    number: int
    names: tuple[str, ...]

    def priority(self, application_name: str) -> int:
        """The place of a standby in the list, from 1 on; 1 where any will do; 0: not in it."""
        wanted = _folded(application_name)
        for place, name in enumerate(self.names, start=1):
            if name == "*" or _folded(name) == wanted:
                return place if self.method is Method.PRIORITY else 1
        return 0


def parse_standby_names(text: str) -> StandbyNames | None:
    """Parse the setting; None if it is empty, which is no synchronous replication.

    Raises: ClientError, as a server refuses the value.
    """
    if not text:
        return None
    names = _Parser(text).parse()
    if names.number <= 0:
        raise ClientError(
            f"number of synchronous standbys ({names.number}) must be greater than zero",
            sqlstate="22023",
        )
    return names


class _Token(NamedTuple):
    """kind: FIRST, ANY, name, number, a character, or nothing at the end.

    text: the value. near: what an error at this token shows, the last that was read of it.
    """

    kind: str
    text: str
    near: str


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def parse(self) -> StandbyNames:
        method = Method.PRIORITY
        if self._next.kind in ("FIRST", "ANY"):
            method = Method(self._take(self._next.kind))
            number = self._take("number")
        elif self._next.kind == "number":
            number = self._take("number")
            if self._next.kind != "(":
                return self._to_end(StandbyNames(method, 1, self._list(number)))
        else:
            return self._to_end(StandbyNames(method, 1, self._list(self._name())))
        self._take("(")
        names = self._list(self._name())
        self._take(")")
        return self._to_end(StandbyNames(method, _int(number), names))

    def _list(self, first: str) -> tuple[str, ...]:
        names = [first]
        while self._next.kind == ",":
            self._take(",")
            names.append(self._name())
        return tuple(names)

    def _name(self) -> str:
        return self._take("number" if self._next.kind == "number" else "name")

    def _to_end(self, names: StandbyNames) -> StandbyNames:
        if self._next.kind:
            raise self._error("syntax error", self._next.near)
        return names

    def _take(self, kind: str) -> str:
        token = self._next
        if token.kind != kind:
            raise self._error("syntax error", token.near)
        self._next = next(self._tokens)
        return token.text

    def _scan(self) -> Iterator[_Token]:
        place = 0
        while True:
            space = _SPACE.match(self._text, place)
            match = _TOKEN.match(self._text, space.end() if space else place)
            if match is None:
                yield _Token("", "", "")
            elif match.lastgroup == "unterminated":
                raise self._error("unterminated quoted identifier", "")
            else:
                yield _token(match)
                place = match.end()

    def _error(self, reason: str, near: str) -> ClientError:
        where = f'at or near "{near}"' if near else "at end of input"
        return ClientError(
            f'invalid value for parameter "{SETTING}": "{self._text}"',
            sqlstate="42601",
            detail=f"{reason} {where}",
        )


def _token(match: re.Match[str]) -> _Token:
    kind = match.lastgroup or ""
    text = match[kind]
    if kind == "quoted":
        return _Token("name", text.replace('""', '"'), '"')
    if kind == "character":
        return _Token(text, text, text)
    if text.upper() in ("FIRST", "ANY"):
        return _Token(text.upper(), text.upper(), text)
    return _Token(kind, text, text)


def _int(digits: str) -> int:
    """The number that C's atoi makes of digits, whatever their size."""
    value = min(int(digits), _LONG_MAX) & 0xFFFFFFFF
    return value - (1 << 32) if value > _INT_MAX else value


def _folded(name: str) -> bytes:
    """A name of which upper and lower case are the same, in ASCII alone."""
    return name.encode("utf-8", "surrogateescape").lower()
