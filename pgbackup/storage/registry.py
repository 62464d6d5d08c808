"""From what the user typed to a driver: the place where others plug in theirs.

A package offers a driver by an entry point of the group "pgbackup.storage": its name is the URL
scheme, its object is called with the whole URL and returns a Storage. Entry points are looked up
only for a scheme that is not our own, since reading them costs more than a WAL file's push.
"""

import os
import re
from collections.abc import Callable

from pgbackup.errors import UsageError
from pgbackup.storage.api import Storage
from pgbackup.storage.local import LocalStorage

ENTRY_POINT_GROUP = "pgbackup.storage"

_URL = r"([A-Za-z][A-Za-z0-9+.-]*)://"


def open_storage(place: str) -> Storage:
    """Return the storage at a URL or at a path. Touches nothing yet.

    place: "file:///path", "scheme://..." of an installed driver, or a path.

    Raises: UsageError for a scheme that nobody offers.
    """
    match = re.match(_URL, place)
    if match is None:
        return LocalStorage(place)
    scheme = match[1].lower()
    if scheme == "file":
        return LocalStorage(_path_of_file_url(place))
    offered = _offered()
    if scheme not in offered:
        known = ", ".join(sorted(f"{each}://" for each in {"file", *offered}))
        raise UsageError(
            f'could not open storage "{place}": no driver for "{scheme}://" is installed',
            hint=f"Use a path or one of {known}, or install the package that has the driver.",
        )
    return offered[scheme]()(place)


def _path_of_file_url(url: str) -> str:
    from urllib.parse import unquote_to_bytes, urlsplit  # noqa: PLC0415 - slow to load, rarely needed

    parts = urlsplit(url)
    path = os.fsdecode(unquote_to_bytes(os.fsencode(parts.path)))
    is_local = parts.netloc in ("", "localhost") and not (parts.query or parts.fragment)
    if not is_local or not path or "\0" in path:
        raise UsageError(
            f'could not open storage "{url}": not of the form file:///path',
            hint='Write a path, or "file://" followed by an absolute path.',
        )
    return path


def _offered() -> dict[str, Callable[[], Callable[[str], Storage]]]:
    """Schemes that installed packages offer; calling the value loads the driver."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to load, rarely needed

    return {each.name.lower(): each.load for each in entry_points(group=ENTRY_POINT_GROUP)}
