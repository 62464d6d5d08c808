"""Read the values of -Z and -r, with pg_basebackup's words."""

import os

from pgbackup.errors import UsageError
from pgbackup.stream.compress import MAX_WORKERS, ZstdSettings

DEFAULT_LEVEL = 3
"""zstd's own default."""

MAX_LEVEL = 19
"""Higher levels need --ultra in stock zstd and hundreds of megabytes per thread."""

MIN_RATE = 32
MAX_RATE = 1_048_576

_SIZES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

MAX_DIGITS = 20
"""More are out of every range; int refuses thousands of them."""


def default_workers() -> int:
    """As many threads as this process may use cores."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def parse_compression(text: str, default_level: int = DEFAULT_LEVEL) -> ZstdSettings | None:
    """Read `none`, `zstd`, `zstd:LEVEL` or `zstd:level=N,workers=N`; None is no compression.

    default_level: of plain `zstd`.

    Raises: UsageError, with pg_basebackup's reasons.
    Source: compression.c, parse_compress_specification (PostgreSQL 18).
    """
    algorithm, separator, options = text.partition(":")
    if algorithm not in ("none", "zstd"):
        raise UsageError(
            f'unrecognized compression algorithm: "{algorithm}"', hint="Use none or zstd."
        )
    if algorithm == "none":
        if separator:
            raise _invalid('compression algorithm "none" does not accept options')
        return None
    if separator and not options:
        raise _invalid("found empty string where a compression option was expected")
    level, workers = default_level, default_workers()
    if options.isdecimal():
        return ZstdSettings(_number("level", options, MAX_LEVEL), workers)
    for option in options.split(",") if separator else ():
        name, _, value = option.partition("=")
        if not name:
            raise _invalid("found empty string where a compression option was expected")
        if name == "level":
            level = _number(name, value, MAX_LEVEL)
        elif name == "workers":
            workers = _number(name, value, MAX_WORKERS)
        else:
            raise _invalid(f'unrecognized compression option: "{name}"')
    return ZstdSettings(level, workers)


def parse_size(text: str) -> int:
    """Read a number of bytes with a unit of PostgreSQL's: 500MB. Raises: UsageError."""
    digits = text.rstrip("BkMGT")
    unit = _SIZES.get(text[len(digits) :])
    if not digits.isascii() or not digits.isdecimal() or unit is None:
        raise UsageError(f'"{text}" is not a size like 500MB', hint="Units are kB, MB, GB and TB.")
    return _value(digits) * unit


def parse_rate(text: str) -> int:
    """Read a rate in kilobytes per second, with an optional k or M. Raises: UsageError."""
    digits = text.rstrip("kM")
    suffix = text[len(digits) :]
    if not digits.isascii() or not digits.isdecimal() or suffix not in ("", "k", "M"):
        raise UsageError(f'transfer rate "{text}" is not a valid value')
    rate = _value(digits) * (1024 if suffix == "M" else 1)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UsageError(
            f'transfer rate "{text}" is out of range',
            hint=f"It has to be between {MIN_RATE} kB and {MAX_RATE} kB per second.",
        )
    return rate


def _number(name: str, value: str, maximum: int) -> int:
    if not value:
        raise _invalid(f'compression option "{name}" requires a value')
    if not value.isascii() or not value.isdecimal():
        raise _invalid(f'value for compression option "{name}" must be an integer')
    if not 1 <= _value(value) <= maximum:
        raise _invalid(f'compression option "{name}" must be between 1 and {maximum}')
    return _value(value)


def _value(digits: str) -> int:
    return int(digits) if len(digits) <= MAX_DIGITS else 10**MAX_DIGITS


def _invalid(reason: str) -> UsageError:
    return UsageError(f"invalid compression specification: {reason}")
