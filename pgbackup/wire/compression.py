"""How a client asks for a compressed base backup: an algorithm and a list of details.

Source: compression.c, parse_compress_specification, validate_compress_specification
(PostgreSQL 15 to 18).
"""

import re
from dataclasses import dataclass

from pgbackup.errors import ClientError

_LEVELS = {"gzip": (1, 9, -1), "lz4": (1, 12, 0), "zstd": (-131072, 22, 3)}
"""Lowest, highest and default level."""

_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?0*[0-9]{1,18}")
_TRUE = {"yes", "on", "1"}
_FALSE = {"no", "off", "0"}
_LONG_SINCE = 16


@dataclass(frozen=True, slots=True)
class Compression:
    """level, workers: None for what the algorithm has by itself. long: zstd's long distances."""

    algorithm: str
    level: int | None = None
    workers: int | None = None
    long: bool = False

    @property
    def detail(self) -> str:
        """The details as text, the reverse of parse_compression."""
        given = [("level", self.level), ("workers", self.workers)]
        parts = [f"{name}={value}" for name, value in given if value is not None]
        return ",".join([*parts, "long"] if self.long else parts)


def parse_compression(algorithm: str, detail: str | None, major: int) -> Compression | None:
    """Read a COMPRESSION and its COMPRESSION_DETAIL; None if nothing is to be compressed.

    Raises: ClientError (42601).
    """
    if algorithm != "none" and algorithm not in _LEVELS:
        raise ClientError(f'unrecognized compression algorithm: "{algorithm}"', sqlstate="42601")
    found: dict[str, int] = {}
    if detail is not None and _INTEGER.fullmatch(detail):
        found["level"] = int(detail)
    elif detail is not None:
        for item in detail.split(","):
            keyword, equals, value = item.partition("=")
            found[keyword] = _value(keyword, value if equals else None, major)
    _check(algorithm, found)
    if algorithm == "none":
        return None
    return Compression(algorithm, found.get("level"), found.get("workers"), bool(found.get("long")))


def _value(keyword: str, value: str | None, major: int) -> int:
    if not keyword:
        raise _invalid("found empty string where a compression option was expected")
    if keyword == "long" and major >= _LONG_SINCE:
        if value is None or value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise _invalid('value for compression option "long" must be a Boolean value')
    if keyword not in ("level", "workers"):
        raise _invalid(f'unrecognized compression option: "{keyword}"')
    if value is None:
        raise _invalid(f'compression option "{keyword}" requires a value')
    if not _INTEGER.fullmatch(value):
        raise _invalid(f'value for compression option "{keyword}" must be an integer')
    return int(value)


def _check(algorithm: str, found: dict[str, int]) -> None:
    subject = f'compression algorithm "{algorithm}"'
    level = found.get("level")
    if algorithm == "none":
        if level:
            raise _invalid(f"{subject} does not accept a compression level")
    elif level is not None:
        lowest, highest, default = _LEVELS[algorithm]
        if not lowest <= level <= highest and level != default:
            raise _invalid(
                f"{subject} expects a compression level between {lowest} and {highest}"
                f" (default at {default})"
            )
    if algorithm != "zstd":
        if "workers" in found:
            raise _invalid(f"{subject} does not accept a worker count")
        if "long" in found:
            raise _invalid(f"{subject} does not support long-distance mode")


def _invalid(reason: str) -> ClientError:
    return ClientError(f"invalid compression specification: {reason}", sqlstate="42601")
