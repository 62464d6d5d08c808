"""Options of replication commands: from names and values to fields, with the server's objections.

Every option may stand once. What is refused here is refused for its text alone; what depends on
the state of the server is not here.

Source: basebackup.c, parse_basebackup_options; walsender.c, parseCreateReplSlotOptions;
define.c (PostgreSQL 13 to 18).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pgbackup.errors import ClientError
from pgbackup.wire.basebackup import CLIENT, MAX_LABEL, BaseBackup
from pgbackup.wire.commands import FAILOVER_SINCE, PARENTHESES_SINCE, Snapshot
from pgbackup.wire.compression import parse_compression
from pgbackup.wire.startup import parse_bool

ALGORITHMS = ("NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512")
"""Of the checksums in a manifest."""

RATES = range(32, 1048577)
"""Kilobytes per second that a client may ask for."""

_TARGETS = {CLIENT: False, "blackhole": False, "server": True}
"""Where backups can go, and whether the target needs a detail."""


class Option(NamedTuple):
    """value: text, a number, or None if there was none."""

    name: str
    value: str | int | None


def syntax_error(message: str = "syntax error") -> ClientError:
    """What is wrong with the text of a command."""
    return ClientError(message, sqlstate="42601")


def _boolean(option: Option) -> bool:
    """A boolean as options are written; without a value it is true. Raises: ClientError."""
    if option.value is None:
        return True
    known = {0: False, 1: True, "false": False, "true": True, "off": False, "on": True}
    value = option.value.lower() if isinstance(option.value, str) else option.value
    if value not in known:
        raise syntax_error(f"{option.name} requires a Boolean value")
    return known[value]


def _string(option: Option) -> str:
    if option.value is None:
        raise syntax_error(f"{option.name} requires a parameter")
    return str(option.value)


def _on(option: Option) -> bool:
    return True


def _off(option: Option) -> bool:
    return False


def _is_fast(option: Option) -> bool:
    value = _string(option)
    if value.lower() not in ("fast", "spread"):
        raise syntax_error(f'unrecognized checkpoint type: "{value}"')
    return value.lower() == "fast"


def _rate(option: Option) -> int:
    if not isinstance(option.value, int):
        raise syntax_error(f"{option.name} requires a numeric value")
    if option.value not in RATES:
        raise ClientError(
            f'{option.value} is outside the valid range for parameter "MAX_RATE"'
            f" ({RATES[0]} .. {RATES[-1]})",
            sqlstate="22003",
        )
    return option.value


def _manifest(option: Option) -> str:
    value = _string(option)
    if value.lower() == "force-encode":
        return "force-encode"
    wanted = parse_bool(value)
    if wanted is None:
        raise syntax_error(f'unrecognized manifest option: "{value}"')
    return "yes" if wanted else "no"


def _algorithm(option: Option) -> str:
    value = _string(option)
    if value.upper() not in ALGORITHMS:
        raise syntax_error(f'unrecognized checksum algorithm: "{value}"')
    return value.upper()


Reader = Callable[[Option], Any]

_BACKUP_OPTIONS: dict[str, tuple[int, str, Reader]] = {
    "label": (15, "label", _string),
    "progress": (15, "progress", _boolean),
    "checkpoint": (15, "fast_checkpoint", _is_fast),
    "wait": (15, "wait", _boolean),
    "wal": (15, "wal", _boolean),
    "incremental": (17, "incremental", _boolean),
    "max_rate": (15, "max_rate", _rate),
    "tablespace_map": (15, "tablespace_map", _boolean),
    "verify_checksums": (15, "verify_checksums", _boolean),
    "manifest": (15, "manifest", _manifest),
    "manifest_checksums": (15, "manifest_checksums", _algorithm),
    "target": (15, "target", _string),
    "target_detail": (15, "target_detail", _string),
    "compression": (15, "compression", _string),
    "compression_detail": (15, "compression_detail", _string),
}
"""Of each option its first major, a field, and how to read it."""

_LEGACY_BACKUP_OPTIONS: dict[str, tuple[int, str, Reader]] = {
    "label": (13, "label", _string),
    "progress": (13, "progress", _on),
    "fast": (13, "fast_checkpoint", _on),
    "wal": (13, "wal", _on),
    "nowait": (13, "wait", _off),
    "max_rate": (13, "max_rate", _rate),
    "tablespace_map": (13, "tablespace_map", _on),
    "noverify_checksums": (13, "verify_checksums", _off),
    "manifest": (13, "manifest", _manifest),
    "manifest_checksums": (13, "manifest_checksums", _algorithm),
}

_BACKUP_DEFAULTS: dict[str, Any] = {"label": "base backup", "progress": False, "wait": True,
                                    "tablespace_map": False}  # fmt: skip
"""What a server assumes where BaseBackup assumes what our own backups want."""

_SLOT_OPTIONS: dict[str, tuple[int, bool, Reader]] = {
    "reserve_wal": (13, False, _boolean),
    "snapshot": (13, True, _string),
    "two_phase": (15, True, _boolean),
    "failover": (FAILOVER_SINCE, True, _boolean),
}
"""Of each option its first major, whether it is for logical slots, and how to read it."""

_ALTERABLE = {"failover": FAILOVER_SINCE, "two_phase": 18}


def read_backup_options(options: list[Option], major: int) -> BaseBackup:
    """Make the command of its options. Raises: ClientError."""
    table = _BACKUP_OPTIONS if major >= PARENTHESES_SINCE else _LEGACY_BACKUP_OPTIONS
    given: dict[str, Any] = {}
    for option in options:
        since, field, read = table.get(option.name, (major + 1, "", _string))
        if since > major:
            raise syntax_error(f'unrecognized base backup option: "{option.name}"')
        if field in given:
            raise syntax_error(f'duplicate option "{option.name}"')
        given[field] = read(option)
    manifest = given.pop("manifest", "no")
    if manifest == "no" and "manifest_checksums" in given:
        raise syntax_error("manifest checksums require a backup manifest")
    checksums = None if manifest == "no" else given.pop("manifest_checksums", "CRC32C")
    _check_target(given.get("target"), given.get("target_detail"))
    algorithm, detail = given.pop("compression", None), given.pop("compression_detail", None)
    if algorithm is not None:
        given["compression"] = parse_compression(algorithm, detail, major)
    elif detail is not None:
        raise syntax_error("compression detail cannot be specified unless compression is enabled")
    backup = BaseBackup(
        **{**_BACKUP_DEFAULTS, **given},
        manifest_checksums=checksums,
        force_encode=manifest == "force-encode",
    )
    if len(backup.label.encode("utf-8", "surrogateescape")) > MAX_LABEL:
        raise ClientError(f"backup label too long (max {MAX_LABEL} bytes)", sqlstate="22023")
    return backup


def _check_target(target: str | None, detail: str | None) -> None:
    if target is None:
        if detail is not None:
            raise syntax_error("target detail cannot be used without target")
    elif target not in _TARGETS:
        raise ClientError(f'unrecognized target: "{target}"', sqlstate="0A000")
    elif _TARGETS[target] and detail is None:
        raise syntax_error(f'target "{target}" requires a target detail')
    elif detail is not None and not _TARGETS[target]:
        raise syntax_error(f'target "{target}" does not accept a target detail')


def read_slot_options(options: list[Option], major: int, *, logical: bool) -> dict[str, Any]:
    """The options of CREATE_REPLICATION_SLOT as fields of its values. Raises: ClientError."""
    given: dict[str, Any] = {}
    for option in options:
        since, for_logical, read = _SLOT_OPTIONS.get(option.name, (major + 1, False, _string))
        if since > major:
            raise ClientError(f"unrecognized option: {option.name}", sqlstate="XX000")
        if option.name in given or for_logical != logical:
            raise syntax_error("conflicting or redundant options")
        given[option.name] = read(option)
        if option.name == "snapshot":
            given["snapshot"] = _snapshot(given["snapshot"])
    return given


def _snapshot(value: str) -> Snapshot:
    if value not in list(Snapshot):
        raise ClientError(
            f'unrecognized value for CREATE_REPLICATION_SLOT option "snapshot": "{value}"',
            sqlstate="22023",
        )
    return Snapshot(value)


def read_changes(options: list[Option], major: int) -> dict[str, bool]:
    """The options of ALTER_REPLICATION_SLOT. Raises: ClientError."""
    given: dict[str, bool] = {}
    for option in options:
        if _ALTERABLE.get(option.name, major + 1) > major:
            raise ClientError(f"unrecognized option: {option.name}", sqlstate="XX000")
        if option.name in given:
            raise syntax_error("conflicting or redundant options")
        given[option.name] = _boolean(option)
    return given
