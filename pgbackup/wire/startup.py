"""The packets that a connection begins with, before messages have a type.

A client may ask for encryption, or for an end of what another connection does, and then says who
it is and what it wants. Texts are UTF-8 in a str, with bytes that are none as surrogates.

Source: backend_startup.c, ProcessStartupPacket (PostgreSQL 18).
"""

import struct
from dataclasses import dataclass, field
from enum import Enum

from pgbackup.errors import ClientError, ProtocolViolation

MAX_STARTUP_PACKET = 10_000
"""Bytes, without the length."""

MAX_CANCEL_KEY = 256
"""Bytes; 4 in protocol 3.0."""

HIGHEST_MINOR = 0
"""Of protocol 3; clients that want more are told to do with this."""

_CODE = struct.Struct("!HH")
_CANCEL_REQUEST = (1234, 5678)
_SSL_REQUEST = (1234, 5679)
_GSSENC_REQUEST = (1234, 5680)
_PROTOCOL_MAJOR = 3
_EXTENSION = "_pq_."


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client wants TLS. The answer is one byte."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """The client wants encryption by Kerberos. The answer is one byte."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Another connection shall end what it does. There is no answer."""

    pid: int
    key: bytes


class Replication(Enum):
    """What kind of walsender is asked for."""

    NONE = "false"
    PHYSICAL = "true"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Who connects, and what for.

    minor:      of the protocol that the client wants.
    settings:   what it sets, from parameters of their own and from `options`.
    extensions: of the protocol, which it would like; we know none.
    """

    user: str
    minor: int = 0
    database: str = ""
    replication: Replication = Replication.NONE
    settings: dict[str, str] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()

    @property
    def needs_negotiation(self) -> bool:
        """Whether the client must be told that it does not get all of the protocol it wants."""
        return self.minor > HIGHEST_MINOR or bool(self.extensions)


StartupPacket = SslRequest | GssEncRequest | CancelRequest | StartupMessage


def parse_startup_packet(body: bytes) -> StartupPacket:
    """Read a packet without its length.

    Raises: ProtocolViolation if the client is no client of PostgreSQL's, ClientError.
    """
    if len(body) < _CODE.size:
        raise ProtocolViolation("invalid length of startup packet")
    code, rest = _CODE.unpack_from(body), body[_CODE.size :]
    if code == _CANCEL_REQUEST:
        return _cancel_request(rest)
    if code in (_SSL_REQUEST, _GSSENC_REQUEST):
        if rest:
            raise ProtocolViolation("invalid length of startup packet")
        return SslRequest() if code == _SSL_REQUEST else GssEncRequest()
    major, minor = code
    if major != _PROTOCOL_MAJOR:
        raise ClientError(
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to"
            f" 3.{HIGHEST_MINOR}",
            sqlstate="0A000",
        )
    return _startup_message(minor, _parameters(rest))


def _cancel_request(rest: bytes) -> CancelRequest:
    if not 4 < len(rest) <= 4 + MAX_CANCEL_KEY:
        raise ProtocolViolation("invalid length of cancel request packet")
    return CancelRequest(int.from_bytes(rest[:4]), rest[4:])


def _parameters(rest: bytes) -> dict[str, str]:
    """Names and values, each with a NUL behind it, and one more NUL behind all."""
    words = rest.split(b"\0")
    names, values = words[:-2:2], words[1:-2:2]
    if words[-2:] != [b"", b""] or len(names) != len(values) or b"" in names:
        raise ClientError(
            "invalid startup packet layout: expected terminator as last byte", sqlstate="08P01"
        )
    return {_text(name): _text(value) for name, value in zip(names, values, strict=True)}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _startup_message(minor: int, parameters: dict[str, str]) -> StartupMessage:
    replication = _replication(parameters.pop("replication", "false"))
    user = parameters.pop("user", "")
    database = parameters.pop("database", "") or user
    settings = parse_command_line(parameters.pop("options", ""))
    extensions = tuple(name for name in parameters if name.startswith(_EXTENSION))
    settings.update((name, parameters[name]) for name in parameters if name not in extensions)
    if not user:
        raise ClientError("no PostgreSQL user name specified in startup packet", sqlstate="28000")
    return StartupMessage(user, minor, database, replication, settings, extensions)


def _replication(value: str) -> Replication:
    if value == "database":
        return Replication.DATABASE
    wanted = parse_bool(value)
    if wanted is None:
        raise ClientError(
            f'invalid value for parameter "replication": "{value}"',
            sqlstate="22023",
            hint='Valid values are: "false", 0, "true", 1, "database".',
        )
    return Replication.PHYSICAL if wanted else Replication.NONE


def parse_bool(text: str) -> bool | None:
    """A boolean as settings are written, by any beginning that is unique; None if it is none.

    Source: bool.c, parse_bool_with_len (PostgreSQL 18)
    """
    word = text.lower()
    for name, meaning in (("true", True), ("yes", True), ("false", False), ("no", False)):
        if word and name.startswith(word):
            return meaning
    return {"on": True, "1": True, "of": False, "off": False, "0": False}.get(word)


def parse_command_line(options: str) -> dict[str, str]:
    """Settings out of `-c NAME=VALUE` and `--NAME=VALUE`; in names a dash is an underscore.

    Raises: ClientError (42601).
    Source: postinit.c, process_startup_options; guc.c, ParseLongOption (PostgreSQL 18)
    """
    settings = {}
    words = iter(_split(options))
    for word in words:
        flag = word[:2]
        if flag not in ("-c", "--"):
            raise ClientError(
                f"invalid command-line argument for server process: {word}", sqlstate="42601"
            )
        setting = word[2:] or (next(words, "") if flag == "-c" else "")
        name, equals, value = setting.partition("=")
        if not equals:
            given = f"-c {setting}" if flag == "-c" else word
            raise ClientError(f"{given} requires a value", sqlstate="42601")
        settings[name.replace("-", "_")] = value
    return settings


def _split(options: str) -> list[str]:
    """Words between white space; a backslash keeps the character after it."""
    words: list[str] = []
    in_word = escaped = False
    for character in options:
        if not escaped and character in " \t\n\v\f\r":
            in_word = False
            continue
        if not in_word:
            words.append("")
            in_word = True
        escaped = not escaped and character == "\\"
        if not escaped:
            words[-1] += character
    return words
