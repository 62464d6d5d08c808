"""Where a server listens, as it is written: a directory for a Unix socket, or a host and a port."""

import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from pgbackup.errors import Refused, UsageError

LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "*"

_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
_MAX_PORT = 65535


class Directory(NamedTuple):
    """Of a Unix socket. is_ours: nobody else may have made it, or write there."""

    path: str
    is_ours: bool = False


class HostPort(NamedTuple):
    """host: a name, an address, or `*` for all of this machine's. port: 0 for any that is free."""

    host: str
    port: int


Address = Directory | HostPort


def parse_address(text: str, port: int) -> Address:
    """Read what is written; what has a slash is a directory.

    port: where none is written.

    Raises: UsageError.
    """
    if "/" in text:
        return Directory(str(Path.cwd() / text))
    match = _HOST_PORT.fullmatch(f"[{text}]" if _is_ipv6(text) else text)
    if match is not None:
        host = match["host"].strip("[]")
        number = port if match["port"] is None else int(match["port"])
        if number <= _MAX_PORT and (host == match["host"] or _is_ipv6(host)):
            return HostPort(host, number)
    raise UsageError(
        f'"{text}" is no place to listen at',
        hint="Write HOST:PORT, or a directory with a slash in it.",
    )


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def default_addresses(port: int) -> list[Address]:
    """A Unix socket in a directory of our own, and the loopback interface."""
    return [Directory(_own_directory(), is_ours=True), HostPort(LOOPBACK, port)]


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_ours(directory: str) -> None:
    """Raises: Refused if somebody else has made a directory, or may write there."""
    found = os.lstat(directory)
    if not Path(directory).is_dir() or Path(directory).is_symlink():
        reason = "it is no directory"
    elif found.st_uid != os.geteuid():
        reason = "it belongs to somebody else"
    elif found.st_mode & 0o022:
        reason = "others can write there"
    else:
        return
    raise Refused(
        f'could not listen in directory "{directory}": {reason}',
        hint="Name another one with --listen.",
    )


def _own_directory() -> str:
    """What systemd made for us, one in the user's runtime directory, or one in /tmp."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return f"{runtime}/pgbackup"
    return f"{tempfile.gettempdir()}/pgbackup-{os.geteuid()}"
