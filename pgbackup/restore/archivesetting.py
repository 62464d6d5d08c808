"""Whether a restored server would archive, and where to.

Two servers that archive under the same names spoil an archive for both; a clone of production must
not write into production's. Reads the configuration that was restored, and changes nothing.
"""

import os
import re
from contextlib import suppress

_FILES = ("postgresql.conf", "postgresql.auto.conf")
_SETTING = re.compile(
    r"^[ \t]*(archive_mode|archive_command)[ \t]*(?:=[ \t]*|[ \t])"
    r"(?:'((?:[^'\\\n]|''|\\.)*)'|([^\s#']+))",
    re.IGNORECASE | re.MULTILINE,
)
_OFF = {"", "off", "false", "no", "0", "of", "f", "n", "fa", "fal", "fals"}
_LIMIT = 1 << 20  # bytes


def archiving_warning(directory: str, repository: str, *, same_timeline: bool) -> str | None:
    """What to tell the user about the archiving of a restored server, if it would archive.

    directory:     the data directory.
    repository:    URL or absolute path.
    same_timeline: it goes on writing the timeline of its backup, as the source does.
    """
    settings: dict[str, str] = {}
    for name in _FILES:
        for match in _SETTING.finditer(_read(os.path.join(directory, name))):  # noqa: PTH118
            quoted = match[2] if match[2] is not None else match[3]
            settings[match[1].lower()] = quoted.replace("''", "'").replace("\\'", "'")
    command = settings.get("archive_command", "")
    if settings.get("archive_mode", "").lower() in _OFF or not command:
        return None
    place = "into this repository" if repository in command else f"with: {command}"
    reason = (
        " and on the same timeline as its source, which must not run any more"
        if same_timeline
        else ""
    )
    return (
        f"the restored server will archive {place}{reason}; if it does not replace its source,"
        " set archive_mode = off in its postgresql.auto.conf before it starts"
    )


def _read(path: str) -> str:
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(fd, _LIMIT).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)
    return ""
