"""Replication commands: from the text that a client sends to the values of `commands`.

One recursive descent over the tokens, with the errors of the server of the same major. Nothing
here depends on a server's state. Differs from PostgreSQL on purpose in one thing: a number or half
of a position above 32 bits is refused, where a server takes its lowest 32 bits.

Source: repl_gram.y (PostgreSQL 13 to 18).
"""

from collections.abc import Iterator
from typing import TypeVar

from pgbackup.errors import ClientError, CorruptData
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.wire.commands import (
    PARENTHESES_SINCE,
    AlterSlot,
    Command,
    CreateLogicalSlot,
    CreatePhysicalSlot,
    DropSlot,
    IdentifySystem,
    ReadSlot,
    Show,
    StartLogicalReplication,
    StartPhysicalReplication,
    TimelineHistory,
    UploadManifest,
)
from pgbackup.wire.options import (
    Option,
    read_backup_options,
    read_changes,
    read_slot_options,
    syntax_error,
)
from pgbackup.wire.scanner import COMMAND_WORDS, END, WORDS_UNTIL_14, Kind, Token, scan

MAX_NUMBER = 2**32 - 1

Result = TypeVar("Result")

_NO_OPTION = "READ_REPLICATION_SLOT"
"""The one keyword that PostgreSQL has forgotten among those that options may be named after."""

_WITH_STRING = ("LABEL", "MANIFEST", "MANIFEST_CHECKSUMS")
_LEGACY_SLOT_OPTIONS = {
    "EXPORT_SNAPSHOT": Option("snapshot", "export"),
    "NOEXPORT_SNAPSHOT": Option("snapshot", "nothing"),
    "USE_SNAPSHOT": Option("snapshot", "use"),
    "RESERVE_WAL": Option("reserve_wal", 1),
    "TWO_PHASE": Option("two_phase", 1),
}


def parse_command(text: str, major: int) -> Command:
    """Read a command as a server of this major does on a physical replication connection.

    Raises: ClientError, as the server words it; the connection stays usable.
    """
    tokens = _Tokens(scan(text, major))
    kind, word = tokens.peek()
    if kind is not Kind.WORD or word not in COMMAND_WORDS:
        raise ClientError(
            "cannot execute SQL commands in WAL sender for physical replication", sqlstate="0A000"
        )
    tokens.take()
    match word:
        case "IDENTIFY_SYSTEM":
            return tokens.end(IdentifySystem())
        case "SHOW":
            return tokens.end(Show(_dotted_name(tokens)))
        case "TIMELINE_HISTORY":
            return tokens.end(TimelineHistory(_timeline(tokens)))
        case "READ_REPLICATION_SLOT":
            return tokens.end(ReadSlot(_dotted_name(tokens)))
        case "CREATE_REPLICATION_SLOT":
            return _create_slot(tokens, major)
        case "ALTER_REPLICATION_SLOT":
            name, options = tokens.name(), tokens.end(_options(tokens))
            return AlterSlot(name, **read_changes(options, major))
        case "DROP_REPLICATION_SLOT":
            return tokens.end(DropSlot(tokens.name(), tokens.accept("WAIT")))
        case "START_REPLICATION":
            return tokens.end(_start_replication(tokens))
        case "UPLOAD_MANIFEST":
            return tokens.end(UploadManifest())
    options = _legacy_backup_options(tokens) if major < PARENTHESES_SINCE else []
    if major >= PARENTHESES_SINCE and tokens.sees("("):
        options = _options(tokens)
    return read_backup_options(tokens.end(options), major)


class _Tokens:
    """The tokens of one command. None is looked at before it is needed."""

    def __init__(self, tokens: Iterator[Token]) -> None:
        self._tokens = tokens
        self._seen: Token | None = None

    def peek(self) -> Token:
        if self._seen is None:
            self._seen = next(self._tokens)
        return self._seen

    def take(self) -> Token:
        token = self.peek()
        self._seen = None
        return token

    def expect(self, kind: Kind, text: str | None = None) -> str:
        """Take a token that has to be there, and return its text. Raises: ClientError."""
        if self.peek().kind is not kind or (text is not None and self.peek().text != text):
            raise syntax_error()
        return self.take().text

    def name(self) -> str:
        return self.expect(Kind.NAME)

    def sees(self, text: str) -> bool:
        """Whether a keyword or a character comes next."""
        return self.peek().text == text and self.peek().kind in (Kind.WORD, Kind.CHARACTER)

    def accept(self, text: str) -> bool:
        """Take a keyword or a character if it comes next."""
        found = self.sees(text)
        if found:
            self.take()
        return found

    def end(self, result: Result) -> Result:
        """Return what the command was read as, if nothing follows. Raises: ClientError."""
        self.accept(";")
        if self.peek() is not END:
            raise syntax_error()
        return result


def _dotted_name(tokens: _Tokens) -> str:
    name = tokens.name()
    while tokens.accept("."):
        name = f"{name}.{tokens.name()}"
    return name


def _number(tokens: _Tokens) -> int:
    digits = tokens.expect(Kind.NUMBER).lstrip("0")
    if len(digits) > len(str(MAX_NUMBER)) or int(digits or 0) > MAX_NUMBER:
        raise syntax_error()
    return int(digits or 0)


def _timeline(tokens: _Tokens) -> Timeline:
    number = _number(tokens)
    if number == 0:
        raise syntax_error("invalid timeline 0")
    return Timeline(number)


def _position(tokens: _Tokens) -> Lsn:
    high, _, low = tokens.expect(Kind.POSITION).partition("/")
    try:
        return Lsn.parse(f"{high.lstrip('0') or 0}/{low.lstrip('0') or 0}")
    except CorruptData as error:
        raise syntax_error("invalid streaming start location") from error


def _options(tokens: _Tokens) -> list[Option]:
    """A list of options in parentheses, from PARENTHESES_SINCE on."""
    tokens.expect(Kind.CHARACTER, "(")
    options = [_option(tokens)]
    while tokens.accept(","):
        options.append(_option(tokens))
    tokens.expect(Kind.CHARACTER, ")")
    return options


def _option(tokens: _Tokens) -> Option:
    if tokens.peek().kind is Kind.WORD and tokens.peek().text != _NO_OPTION:
        name = tokens.take().text.lower()
    else:
        name = tokens.name()
    if tokens.peek().kind is Kind.NUMBER:
        return Option(name, _number(tokens))
    if tokens.peek().kind in (Kind.NAME, Kind.STRING):
        return Option(name, tokens.take().text)
    return Option(name, None)


def _legacy_backup_options(tokens: _Tokens) -> list[Option]:
    """Words without parentheses, until PARENTHESES_SINCE."""
    options = []
    while tokens.peek().text in WORDS_UNTIL_14 and tokens.peek().kind is Kind.WORD:
        word = tokens.take().text
        value: str | int | None = None
        if word in _WITH_STRING:
            value = tokens.expect(Kind.STRING)
        elif word == "MAX_RATE":
            value = _number(tokens)
        options.append(Option(word.lower(), value))
    return options


def _create_slot(tokens: _Tokens, major: int) -> Command:
    name, temporary = tokens.name(), tokens.accept("TEMPORARY")
    plugin = None
    if not tokens.accept("PHYSICAL"):
        tokens.expect(Kind.WORD, "LOGICAL")
        plugin = tokens.name()
    options = []
    if major >= PARENTHESES_SINCE and tokens.sees("("):
        options = _options(tokens)
    else:
        while tokens.peek().kind is Kind.WORD and tokens.peek().text in _LEGACY_SLOT_OPTIONS:
            options.append(_LEGACY_SLOT_OPTIONS[tokens.take().text])
    fields = read_slot_options(tokens.end(options), major, logical=plugin is not None)
    if plugin is None:
        return CreatePhysicalSlot(name, temporary, **fields)
    return CreateLogicalSlot(name, plugin, temporary, **fields)


def _start_replication(tokens: _Tokens) -> Command:
    slot = tokens.name() if tokens.accept("SLOT") else None
    if slot is not None and tokens.accept("LOGICAL"):
        start = _position(tokens)
        return StartLogicalReplication(slot, start, _plugin_options(tokens))
    tokens.accept("PHYSICAL")
    start = _position(tokens)
    timeline = _timeline(tokens) if tokens.accept("TIMELINE") else None
    return StartPhysicalReplication(start, timeline, slot)


def _plugin_options(tokens: _Tokens) -> tuple[tuple[str, str | None], ...]:
    if not tokens.accept("("):
        return ()
    options: list[tuple[str, str | None]] = []
    while not options or tokens.accept(","):
        name = tokens.name()
        is_string = tokens.peek().kind is Kind.STRING
        options.append((name, tokens.take().text if is_string else None))
    tokens.expect(Kind.CHARACTER, ")")
    return tuple(options)
