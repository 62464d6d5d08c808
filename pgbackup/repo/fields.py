"""Fields of a stored JSON document, each asked for by name and type.

What is in a repository is hostile input: a field that is missing or of another type raises
CorruptData with its path, never a KeyError or a TypeError.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeGuard

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Timeline, WalFileKind, WalFileName, is_valid_segment_size
from pgbackup.storage.names import is_component

if TYPE_CHECKING:
    from datetime import datetime

_MAX_NUMBER = 1 << 63
_CRC32C = r"[0-9a-f]{8}"
_MODE = r"0[0-7]{3}"
_SYSTEM = r"[1-9][0-9]{0,19}"


class Fields:
    """An object of JSON.

    name: of the document, for messages.
    """

    def __init__(self, values: dict[str, Any], name: str, path: str = "") -> None:
        self._values = values
        self._path = path
        self.name = name

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """Read a document whose top is an object. Raises: CorruptData."""
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise CorruptData(f'could not read "{name}": it is not a JSON object')
        return cls(values, name)

    def has(self, key: str) -> bool:
        """Tell whether a field is there and not null."""
        return self._values.get(key) is not None

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not _is_text(value):
            self._fail(key, "a text")
        return value

    def number(self, key: str) -> int:
        """A whole number from 0."""
        value = self._values.get(key)
        if type(value) is not int or not 0 <= value < _MAX_NUMBER:
            self._fail(key, "a whole number")
        return value

    def truth(self, key: str) -> bool:
        value = self._values.get(key)
        if not isinstance(value, bool):
            self._fail(key, "true or false")
        return value

    def seconds(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(key, "a number of seconds")
        if not 0 <= value < _MAX_NUMBER:
            self._fail(key, "a number of seconds")
        return float(value)

    def choice(self, key: str, known: Sequence[str]) -> str:
        value = self.text(key)
        if value not in known:
            self._fail(key, "one of " + ", ".join(known))
        return value

    def lsn(self, key: str) -> Lsn:
        try:
            return Lsn.parse(self.text(key))
        except CorruptData:
            self._fail(key, "a WAL position")

    def timeline(self, key: str) -> Timeline:
        try:
            return Timeline(self.number(key))
        except CorruptData:
            self._fail(key, "a timeline")

    def time(self, key: str) -> "datetime":
        """A time in UTC."""
        from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - the WAL hooks read none

        try:
            time = datetime.fromisoformat(self.text(key))
        except ValueError:
            self._fail(key, "a time")
        if time.utcoffset() != timedelta(0):
            self._fail(key, "a time in UTC")
        return time.astimezone(UTC)

    def system(self, key: str) -> int:
        """A system identifier, written as text."""
        value = self.text(key)
        if re.fullmatch(_SYSTEM, value) is None or int(value) >= 1 << 64:
            self._fail(key, "a system identifier")
        return int(value)

    def segment_size(self, key: str) -> int:
        value = self.number(key)
        if not is_valid_segment_size(value):
            self._fail(key, "a WAL segment size")
        return value

    def mode(self, key: str) -> int:
        """Permissions, written in octal."""
        value = self.text(key)
        if re.fullmatch(_MODE, value) is None:
            self._fail(key, "four octal digits")
        return int(value, 8)

    def crc32c(self, key: str) -> str:
        value = self.text(key)
        if re.fullmatch(_CRC32C, value) is None:
            self._fail(key, "8 hexadecimal digits")
        return value

    def object_name(self, key: str) -> str:
        """The name of an object in the same folder."""
        value = self.text(key)
        if not is_component(value):
            self._fail(key, "the name of an object")
        return value

    def history_name(self, key: str) -> str:
        """The name of a timeline history file."""
        value = self.text(key)
        if WalFileName.parse(value).kind is not WalFileKind.HISTORY:
            self._fail(key, "the name of a history file")
        return value

    def texts(self, key: str) -> list[str]:
        values = self._list(key)
        if not all(map(_is_text, values)):
            self._fail(key, "a list of texts")
        return values

    def group(self, key: str) -> "Fields":
        value = self._values.get(key)
        if not isinstance(value, dict):
            self._fail(key, "an object")
        return Fields(value, self.name, f"{self._path}{key}.")

    def groups(self, key: str) -> "list[Fields]":
        values = self._list(key)
        if not all(isinstance(value, dict) for value in values):
            self._fail(key, "a list of objects")
        return [
            Fields(value, self.name, f"{self._path}{key}[{number}].")
            for number, value in enumerate(values)
        ]

    def _list(self, key: str) -> list[Any]:
        value = self._values.get(key)
        if not isinstance(value, list):
            self._fail(key, "a list")
        return value

    def _fail(self, key: str, wanted: str) -> NoReturn:
        raise CorruptData(f'could not read "{self.name}": "{self._path}{key}" is not {wanted}')


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text that can be written down again; bytes of names may be in it."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
