"""Which names objects may have: none that leads out of the storage or meets a hidden file."""

import re

from pgbackup.errors import UsageError

MAX_NAME = 1024  # bytes, the whole name; the limit of the object stores
MAX_COMPONENT = 160  # bytes; leaves room for a temporary name within the 255 of file systems
_COMPONENT = r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*"


def check_name(name: str) -> tuple[str, ...]:
    """Split an object's name into its components.

    Raises: UsageError unless every component is letters, digits and "._=+-" and does not begin
    with a dot, so that no name can lead out of the storage or meet a hidden file.
    """
    parts = tuple(name.split("/"))
    if len(name) > MAX_NAME or not all(is_component(part) for part in parts):
        raise UsageError(f"could not use object name {name!r}: not a relative name of plain words")
    return parts


def check_prefix(prefix: str) -> tuple[str, ...]:
    """Split a folder's name, "" or one that ends with a slash, into its components.

    Raises: UsageError.
    """
    if prefix == "":
        return ()
    if not prefix.endswith("/"):
        raise UsageError(f'could not use folder name {prefix!r}: it does not end with "/"')
    return check_name(prefix[:-1])


def is_component(part: str) -> bool:
    """Tell whether this text can stand between two slashes of an object's name."""
    if len(part) > MAX_COMPONENT:
        return False
    # The names of a WAL archive, of which there may be hundreds of thousands, need no pattern.
    if part[:1] != "." and part.isascii() and part.replace(".", "0").isalnum():
        return True
    return re.fullmatch(_COMPONENT, part) is not None
